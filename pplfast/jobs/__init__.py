"""Work on every image of a list, once each, on any number of ranks; killed at any moment and continued.

    job.py        what a job is: what it decides, computes on the device, and finishes in a worker
    run.py        run_job(): one rank's part, from the plan to the outcome
    options.py    how a job is done, and what came of it
    folder.py     the folder of its outputs: whose it is, by which settings
    plan.py       what is left to do, found by all ranks at the start
    manifest.py   the record of every image: append-only while ranks work, one file afterwards
    record.py     what a record may hold: a folder may be a stranger's
    screen.py     an image's header -> may it be used at all?
    feed.py       headers, files, DALI decoding -> batches of one shape
    memory.py     bytes: the budget, what the network takes, how many images may be under way
    workers.py    processes or threads that finish images, and write their files
    shards.py     WebDataset tars that survive a kill
    pipeline.py   the phases of one rank, joined by bounded queues
    status.py     heartbeats of the ranks; the display; Prometheus text
    stopping.py   Ctrl-C and SIGTERM

Only what needs no torch is imported here: worker processes come by.
"""

from pplfast.jobs.options import JobOptions, Outcome

__all__ = ["JobOptions", "Outcome"]
