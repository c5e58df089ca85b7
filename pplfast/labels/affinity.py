"""CAM files -> confident labels for the boundary network: two thresholds, each through the CRF, 255 between them.

No torch here: the worker processes of the pool import this module.
"""

import os
from functools import partial

import numpy as np

from pplfast.data.classes import BACKGROUND, IGNORE, ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.masks import write_mask
from pplfast.errors import UserError
from pplfast.labels import camfile, crf
from pplfast.labels.background import add_background, check_background
from pplfast.labels.folder import Outcome
from pplfast.labels.pseudo import LabelTask, label_cams, read_image
from pplfast.recipe import AffinityConfig


def generate_affinity_labels(
    cams: str | os.PathLike, dataset: Dataset, config: AffinityConfig, out: str | os.PathLike, jobs: int | None = None
) -> Outcome:
    """Write `out/<id>.png` for every image of the list that has none yet: mask ids, 0 sure background, 255 unsure.

    As in IRN's `cam_to_ir_label` (arXiv 1904.05044). Images, errors and jobs as in `generate_labels`.
    """
    for value in (config.foreground, config.background):
        check_background("threshold", value)
    if config.background > config.foreground:
        raise UserError(
            f"affinity.background = {config.background}: is above affinity.foreground = "
            f"{config.foreground}; sure objects need the higher threshold"
        )
    crf.check_crf(config.crf)
    settings = {"foreground": config.foreground, "background": config.background, "crf": config.crf}
    work = partial(affinity_label_image, classes=dataset.classes, config=config)
    return label_cams(cams, dataset, out, settings, work, jobs, "affinity labels")


def affinity_label_image(task: LabelTask, classes: ClassList, config: AffinityConfig) -> str:
    """One image, from its CAM file to its PNG. Returns why it failed, or "" when it did not."""
    try:
        cam = camfile.load_cam(task.cam)
        image = read_image(task.image, cam.size) if config.crf != crf.NONE else None
        labels = confident_labels(cam, image, classes, config)
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other images can still be done
        return repr(error)
    write_mask(task.output, labels)
    return ""


def confident_labels(
    cam: camfile.Cam, image: np.ndarray | None, classes: ClassList, config: AffinityConfig
) -> np.ndarray:
    """uint8 (H, W): a class where it exceeds the high threshold, background where nothing exceeds the low one."""
    maps = cam.full()
    scores = [add_background(maps, "threshold", threshold) for threshold in (config.foreground, config.background)]
    if config.crf != crf.NONE:
        # The CRF takes hard labels: the preset looks at the argmax alone.
        scores = crf.dense_crf_each(image, scores, config.crf)
    ids = np.array([BACKGROUND, *(classes.ids[c] for c in cam.classes)], np.uint8)
    objects, rest = (ids[each.argmax(axis=0)] for each in scores)
    objects[objects == BACKGROUND] = np.where(rest == BACKGROUND, BACKGROUND, IGNORE)[objects == BACKGROUND]
    return objects
