"""What is odd about the labels of a data set as a whole."""

import numpy as np

from pplfast.data.dataset import Dataset


def class_remarks(dataset: Dataset) -> tuple[str, ...]:
    """What a training cannot learn from the labels: classes that no image has, as those of VOC that stand in for a
    forgotten --classes, and classes that all images have."""
    if dataset.labels is None or not len(dataset):
        return ()
    counts, classes = dataset.labels.sum(axis=0, dtype=np.int64), dataset.classes.names
    seen = [name for name, count in zip(classes, counts, strict=True) if count]
    everywhere = [name for name, count in zip(classes, counts, strict=True) if count == len(dataset)]
    remarks = []
    if len(seen) < len(classes):
        remedy = f"; without them: --classes {','.join(seen)}" if seen else ""
        remarks.append(f"{len(classes) - len(seen)} of {len(classes)} classes have no image{remedy}")
    if everywhere:
        remarks.append(
            f"each of the {len(dataset)} images has {', '.join(everywhere)}: nothing tells it from its surroundings, "
            "so its maps mean nothing; add images without it"
        )
    return tuple(remarks)
