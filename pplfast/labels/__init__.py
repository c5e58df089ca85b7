"""From images to labels, each part a job of `pplfast.jobs`: CAMs, labels, confident labels, the walk, segmentation.

    cam.py          images -> CAM files
    label.py        images, or CAM files -> labels; with two thresholds, confident ones
    walk.py         CAM files and a boundary network -> CAM files
    segment.py      images -> labels of a segmentation network
    network.py      a network at several scales, within the memory
    rules.py        scores -> labels, on the host: background, thresholds, CRF (crf.py)
    device_crf.py   the same on the network's device
    camfile.py      one image's maps on the disk; camfolder.py: all of a list

Nothing is imported here: the worker processes import this package and start without torch.
"""
