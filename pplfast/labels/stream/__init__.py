"""Labels of a whole data set, straight from a classifier: a job over many ranks that can be killed at any moment.

    job.py        the settings; label_dataset(), one rank's part from plan to exit
    plan.py       what is left to do, agreed on by all ranks at the start
    manifest.py   the record of every image: append-only while ranks work, one file afterwards
    record.py     what a record may hold: a folder may be a stranger's
    screen.py     an image's header -> may it be labelled at all?
    feed.py       headers, files, DALI decoding -> batches of one shape
    budget.py     bytes: what a pixel costs, and how many of them may be under way
    maps.py       the network at every scale, within the budget -> CAMs at full size
    refine.py     worker processes: background, CRF, argmax, encoding, files
    shards.py     WebDataset tars that survive a kill
    pipeline.py   the stages of one rank, joined by bounded queues
    status.py     heartbeats of the ranks; the display; Prometheus text

Nothing is imported here: the workers import refine.py without torch.
"""
