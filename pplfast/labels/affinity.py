"""CAM files -> confident labels for the boundary network: two thresholds, each through the CRF, 255 between them.

No torch here: the worker processes of the pool import this module.
"""

from functools import partial

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.classes import BACKGROUND, IGNORE, ClassList
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.labels import camfile, crf, presets
from pplfast.labels.background import add_background
from pplfast.labels.folder import Outcome
from pplfast.labels.memory import DEFAULT_MEMORY, budget_bytes, check_label_fits
from pplfast.labels.pseudo import LabelTask, label_cams, read_image, write_labels
from pplfast.recipe import AffinityConfig


def generate_affinity_labels(
    cams: StrPath,
    dataset: Dataset,
    config: AffinityConfig,
    out: StrPath,
    jobs: int | None = None,
    memory: float = DEFAULT_MEMORY,
) -> Outcome:
    """Write `out/<id>.png` for every image of the list that has none yet: mask ids, 0 sure background, 255 unsure.

    As in IRN's `cam_to_ir_label` (arXiv 1904.05044). Images, errors, jobs and memory as in `generate_labels`.
    """
    for value in (config.foreground, config.background):
        presets.check_background("threshold", value)
    if config.background > config.foreground:
        raise UserError(
            f"affinity.background = {config.background}: is above affinity.foreground = "
            f"{config.foreground}; sure objects need the higher threshold"
        )
    presets.check_crf(config.crf)
    settings = {"foreground": config.foreground, "background": config.background, "crf": config.crf}
    work = partial(affinity_label_image, classes=dataset.classes, config=config, room=budget_bytes(memory))
    return label_cams(cams, dataset, out, settings, work, jobs, "affinity labels")


def affinity_label_image(task: LabelTask, classes: ClassList, config: AffinityConfig, room: int) -> str:
    """One image, from its CAM file to its PNG. Returns why it failed, or "" when it did not."""

    def compute() -> UInt8Array:
        cam = camfile.load_cam(task.cam, len(classes))
        check_label_fits(cam.size, len(cam.classes), room)
        image = read_image(task.image, cam.size) if config.crf != presets.NONE else None
        return confident_labels(cam, image, classes, config)

    return write_labels(task.output, compute)


def confident_labels(
    cam: camfile.Cam, image: UInt8Array | None, classes: ClassList, config: AffinityConfig
) -> UInt8Array:
    """(H, W): a class where it exceeds the high threshold, background where nothing exceeds the low one.

    image: None without a CRF.
    """
    maps = cam.full()
    scores = [add_background(maps, "threshold", threshold) for threshold in (config.foreground, config.background)]
    if image is not None:
        # The CRF takes hard labels: the preset looks at the argmax alone.
        scores = crf.dense_crf_each(image, scores, config.crf)
    ids = np.array([BACKGROUND, *(classes.ids[c] for c in cam.classes)], np.uint8)
    objects: UInt8Array
    objects, rest = (ids[each.argmax(axis=0)] for each in scores)
    objects[objects == BACKGROUND] = np.where(rest == BACKGROUND, BACKGROUND, IGNORE)[objects == BACKGROUND]
    return objects
