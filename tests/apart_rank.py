"""One of two ranks of tests/test_run_ranks.py, which are done with a job at different times, or fail alone."""

import time

from pplfast.cluster.ranks import on_all, on_main, start_ranks, stop_ranks
from pplfast.errors import UserError

ranks = start_ranks(timeout=30)


def work(slow: int, failing: int | None) -> dict[str, int]:
    time.sleep(1.5 * (ranks.rank == slow))
    if ranks.rank == failing:
        raise UserError(f"the disk of rank {failing} is full")
    return {"rank": ranks.rank}


for slow, failing in ((0, None), (1, None), (0, 1), (1, 0)):
    try:
        print(on_all(ranks, lambda slow=slow, failing=failing: work(slow, failing)))
    except UserError as error:
        print(type(error).__name__, error)
print(on_main(ranks, lambda: "still together"))
stop_ranks()
