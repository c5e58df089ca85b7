"""One rank of two under the watchdog, without a network to train. Last argument: what befalls rank 1 in step 3."""

import os
import signal
import sys
import time

os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"

import torch
import torch.distributed as dist

from pplfast.cluster.meeting import LostRankError
from pplfast.cluster.ranks import start_ranks, stop_ranks
from pplfast.cluster.watchdog import Watchdog
from pplfast.errors import UserError

fate = sys.argv[-1]
try:
    ranks = start_ranks(timeout=4.0 if fate == "absent" else 60.0)
except LostRankError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
with Watchdog(ranks, lost_after=4.0, stuck_after=6.0) as watchdog:
    for step in range(5):
        watchdog.mark(f"step {step}, forward")
        if step == 3 and ranks.rank == 1:
            if fate == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fate == "hangs":
                time.sleep(3600)
            elif fate == "bad input":
                raise UserError("photo7.jpg: damaged; replace it")
        watchdog.mark(f"step {step}, all_reduce")
        dist.all_reduce(torch.ones(1))
stop_ranks()
