"""One of two ranks of tests/test_cluster_waiting.py; the argument says what happens while rank 1 waits."""

import os
import signal
import sys
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import _set_pg_timeout

from pplfast.cluster import ranks as room
from pplfast.cluster.meeting import LostRankError
from pplfast.cluster.ranks import EveryRankError, OtherRankError, start_ranks, while_others_wait
from pplfast.errors import UserError


def work() -> None:
    time.sleep(2)
    if fate == "rank 0 is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "rank 0 is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)


def refuse() -> None:
    raise UserError("photo7.jpg: damaged; replace it")


fate = sys.argv[1]
ranks = start_ranks(timeout=30)
room.SILENCE = 3.0
_set_pg_timeout(timedelta(seconds=1))  # of a collective: shorter than the work
assert while_others_wait(ranks, lambda: {"of": (os.getpid(), None, 0.1)})["of"][1:] == [None, 0.1]
try:
    while_others_wait(ranks, refuse)
except (EveryRankError, OtherRankError) as error:
    print(type(error).__name__, error, file=sys.stderr)
if fate == "rank 1 is killed" and not ranks.main:
    os.kill(os.getpid(), signal.SIGKILL)
begin = time.monotonic()
try:
    while_others_wait(ranks, work)
except LostRankError as error:
    print(f"after {time.monotonic() - begin:.1f} s: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)
