"""CAM files -> pseudo labels: background, dense CRF, argmax, palette PNG.

No torch here: the worker processes of the pool import this module.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.classes import BACKGROUND, ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.masks import write_mask
from pplfast.data.pillow import ImageError, load, open_image
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.labels import camfile, crf, presets
from pplfast.labels.background import add_background, to_probabilities
from pplfast.labels.folder import Outcome, OutputFolder, find_outputs, read_settings
from pplfast.labels.memory import DEFAULT_MEMORY, budget_bytes, check_label_fits
from pplfast.labels.pool import default_jobs, map_unordered
from pplfast.labels.progress import Progress
from pplfast.reading import open_regular
from pplfast.recipe import LabelConfig

SUFFIX = ".png"
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # of Pillow's, those that it decodes by itself


@dataclass(frozen=True)
class LabelTask:
    id: str
    cam: Path
    image: Path
    output: Path


def generate_labels(
    cams: StrPath,
    dataset: Dataset,
    config: LabelConfig,
    out: StrPath,
    jobs: int | None = None,
    memory: float = DEFAULT_MEMORY,
) -> Outcome:
    """Write `out/<id>.png`, mask ids of `dataset.classes`, for every image of the list that has none yet.

    cams: folder of `generate_cams` or `walk_cams`. config: its background value must be set.
    jobs: worker processes, None for one per core. memory: GiB that one image may take; a larger one fails. An image
    that fails is noted in `out/bad.jsonl` and in the outcome, and the rest goes on. Raises
    UserError for values out of range, CAMs that are missing, a folder of other settings.
    """
    presets.check_background(config.background, config.value)
    presets.check_crf(config.crf)
    settings = {"background": config.background, "value": config.value, "crf": config.crf}
    work = partial(label_image, classes=dataset.classes, config=config, room=budget_bytes(memory))
    return label_cams(cams, dataset, out, settings, work, jobs)


def label_cams(
    cams: StrPath,
    dataset: Dataset,
    out: StrPath,
    settings: dict[str, Any],
    work: Callable[[LabelTask], str],
    jobs: int | None,
    title: str = "labels",
) -> Outcome:
    """`work` on each image of the list that has no `out/<id>.png` yet, in a pool; it gives why an image failed, or "".

    settings: what decides the labels, beside the classes and what the CAMs were made with.
    """
    cams = Path(cams)
    failed = find_outputs(cams, dataset.ids, camfile.SUFFIX, "pplfast cam")
    folder = OutputFolder(out, SUFFIX, {**settings, "classes": list(dataset.classes.ids), "cams": read_settings(cams)})
    for image_id, reason in failed.items():
        folder.failed(image_id, reason)
    tasks = [
        LabelTask(name, cams / f"{name}{camfile.SUFFIX}", dataset.images[i], folder.output(name))
        for i in folder.pending(dataset.ids)
        if (name := dataset.ids[i]) not in failed
    ]
    with Progress(title, len(tasks)) as progress:
        for task, reason in map_unordered(work, tasks, default_jobs() if jobs is None else jobs):
            if reason:
                folder.failed(task.id, reason)
            else:
                folder.outcome.written += 1
            progress.advance()
    return folder.finish(progress.seconds)


def label_image(task: LabelTask, classes: ClassList, config: LabelConfig, room: int) -> str:
    """One image, from its CAM file to its PNG. Returns why it failed, or "" when it did not."""
    return write_labels(task.output, lambda: compute_labels(task, classes, config, room))


def write_labels(output: Path, compute: Callable[[], UInt8Array]) -> str:
    """Write the labels that `compute` makes, uint8 (H, W). Returns why it could not make them, or "" when it did.

    Only what is wrong with this image counts as its failure; an output that cannot be written stops the run.
    """
    try:
        labels = compute()
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other images can still be done
        return repr(error)
    write_mask(output, labels)
    return ""


def compute_labels(task: LabelTask, classes: ClassList, config: LabelConfig, room: int) -> UInt8Array:
    """uint8 (H, W) mask ids. room: bytes; UserError for an image that they do not suffice for."""
    cam = camfile.load_cam(task.cam, len(classes))
    check_label_fits(cam.size, len(cam.classes), room)
    scores = add_background(cam.full(), config.background, config.value)
    if config.crf != presets.NONE:
        image = read_image(task.image, cam.size)
        scores = crf.dense_crf(image, to_probabilities(scores, config.background), config.crf)
    ids = np.array([BACKGROUND, *(classes.ids[c] for c in cam.classes)], np.uint8)
    labels: UInt8Array = ids[scores.argmax(axis=0)]
    return labels


def read_image(path: Path, size: tuple[int, int]) -> UInt8Array:
    """uint8 (H, W, 3) RGB as stored: like the loader, it takes no notice of EXIF. UserError for another size."""
    pixels = read_pixels(path)
    if pixels.shape[:2] != size:
        raise UserError(
            f"{path}: is {pixels.shape[1]} x {pixels.shape[0]} pixels, but its CAM is for "
            f"{size[1]} x {size[0]}; make the CAM again from this image"
        )
    return pixels


def read_pixels(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB as stored. UserError for a file that is of none of FORMATS, damaged or too large."""
    try:
        with open_regular(path) as file, open_image(file, *FORMATS) as image:
            load(image)
            return np.array(image.convert("RGB"))
    except ImageError as error:
        raise UserError(f"{path}: cannot be read as an image ({error}); replace the file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); replace the file") from None
