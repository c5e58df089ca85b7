"""Work on every image of a list, once each, on any number of ranks; killed at any moment and continued.

    job.py        what a job is: what it decides, computes on the device, and finishes in a worker
    run.py        run_job(): one rank's part, from the plan to the outcome
    options.py    how a job is done, and what came of it
    folder.py     the folder of its outputs: whose it is, by which settings
    outputs.py    where outputs go, in one of two ways: what is there, what is left, taking them
    file_outputs.py, plan.py, manifest.py, shards.py
                  as files of the images' names, or WebDataset tars that survive a kill; what is left to do, image by
                  image; the record of every image: append-only while ranks work, one file afterwards
    shard_outputs.py, shard_plan.py, shard_marks.py, output_shards.py
                  as shards, one for each of the data set's; what is left to do, shard by shard; how they lie in a
                  folder or a store; read again
    record.py     what a record may hold: a folder may be a stranger's
    screen.py     an image's header -> may it be used at all?
    feed.py       headers, files, DALI decoding -> batches of one shape
    memory.py     bytes: the budget, what the network takes, how many images may be under way
    workers.py    processes or threads that finish images, and write their files
    pipeline.py   the phases of one rank, joined by bounded queues
    status.py     heartbeats of the ranks; the display; Prometheus text
    stopping.py   Ctrl-C and SIGTERM

Only what needs no torch is imported here: worker processes come by.
"""

from pplfast.jobs.options import JobOptions, Outcome

__all__ = ["JobOptions", "Outcome"]
