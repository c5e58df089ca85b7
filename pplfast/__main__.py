"""`python -m pplfast`, by which the launchers start their ranks."""

import os
import sys

from pplfast.cli import main

# `python -m` puts the working folder first, the `pplfast` command does not. A recipe or a trained network may name
# modules: for all ranks, and however they are started, those are installed or on PYTHONPATH.
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

raise SystemExit(main())
