"""Becomes `pplfast WORDS`, a process that is asked to end, and so saves what it has, once the sweep that started it is
gone in whatever way. Run as a file, so that nothing is imported twice."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    sweep, *words = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # stays with the process over exec
    if os.getppid() == int(sweep):
        os.execv(sys.executable, [sys.executable, "-m", "pplfast", *words])
