"""DeepSpeed's launcher of one host, for as long as `pplfast launch` holds the other end of this program's standard
input: whatever ends that, SIGKILL or a lost connection too, ends the ranks here."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

ENDING = 30  # seconds from SIGTERM to SIGKILL
LEFTOVERS = 5.0  # seconds that the processes of ranks have once their launcher has ended
LAUNCHER = ("-u", "-m", "deepspeed.launcher.launch")


def main(words: Sequence[str]) -> int:
    """Run the launcher with these arguments. Its exit code; 128 + N if signal N ended it."""
    launcher = subprocess.Popen([sys.executable, *LAUNCHER, *words], stdin=subprocess.DEVNULL, process_group=0)

    def end(number: int, frame: object) -> None:
        _send(launcher.pid, signal.SIGTERM)  # to all ranks at once: the launcher would end one after the other
        signal.alarm(ENDING)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    signal.signal(signal.SIGALRM, lambda *_: _send(launcher.pid, signal.SIGKILL))
    threading.Thread(target=_listen, daemon=True).start()
    code = launcher.wait()
    deadline = time.monotonic() + LEFTOVERS
    while _send(launcher.pid, 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    _send(launcher.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _listen() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _send(group: int, number: int) -> bool:
    """Whether there was a process left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
