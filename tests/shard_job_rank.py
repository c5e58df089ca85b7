"""One rank of a job on a data set in shards, for tests/test_shard_ranks.py. Arguments: its shards, the outputs, seconds
for each image. Prints what came of it; the exit code is the job's."""

import sys
import time
from pathlib import Path

import numpy as np
from jobs_small import CLASSES, Mean

from pplfast.data.dataset import Dataset
from pplfast.data.shard_index import open_index
from pplfast.jobs import status
from pplfast.jobs.options import JobOptions
from pplfast.jobs.run import run_job


class Slow(Mean):
    def compute(self, batch, stopped):
        time.sleep(float(sys.argv[3]))
        return super().compute(batch, stopped)


if __name__ == "__main__":
    # Seconds, as a test can wait for.
    status.SILENCE = status.SILENCE_REMOTE = 4.0
    status.SECONDS_BETWEEN_BEATS = status.SECONDS_REMOTE = 0.5
    index = open_index(Path(sys.argv[1]) / "pplfast-index.arrow", None)
    labels = np.zeros((len(index), len(CLASSES)), np.uint8)
    data = Dataset("small", index.ids, index.images, CLASSES, labels, index.masks, shards=index)
    outcome = run_job(Slow(data), sys.argv[2], JobOptions(memory=0.25, jobs=1, threads=1, shards=True))
    print(f"{outcome.written} written, {outcome.skipped} skipped, {outcome.bad_count} bad, {outcome.unfinished}")
    sys.exit(outcome.exit_code)
