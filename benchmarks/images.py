"""Real images for the benchmarks that read files: a data set that the user names, or the demo set, made on the spot."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.demo import make_demo
from pplfast.data.demo_config import DemoConfig
from pplfast.errors import UserError

DEMO_IMAGES, DEMO_SIZE = 64, 500  # the long side is VOC's


@contextmanager
def open_images(data: DataConfig | None, most: int) -> Iterator[Dataset]:
    """At most `most` images with labels of the data set; without one, of a demo set that lives as long as the block."""
    if data is not None:
        yield labelled(open_dataset(data), most)
        return
    with tempfile.TemporaryDirectory(prefix="pplfast-bench-") as folder:
        root = Path(folder) / "demo"
        make_demo(root, DemoConfig(train=min(most, DEMO_IMAGES), val=1, size=DEMO_SIZE))
        yield labelled(open_dataset(DataConfig(str(root), "train")), most)


def labelled(dataset: Dataset, most: int) -> Dataset:
    if dataset.labels is None:
        raise UserError(f"{dataset.name}: has no image labels; the benchmarks need them; give --labels")
    rows = np.flatnonzero(dataset.labels.any(axis=1))[:most]
    if len(rows) == 0:
        raise UserError(f"{dataset.name}: no image has a label of these classes; give --classes")
    return dataset.subset(rows.tolist())


def dali_missing() -> str | None:
    """Why the loaders cannot run here, or None."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        return f"NVIDIA DALI is not installed ({error})"
    return None


def crf_missing() -> str | None:
    """Why the dense CRF cannot run here, or None."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError as error:
        return f"pydensecrf is not installed ({error})"
    return None
