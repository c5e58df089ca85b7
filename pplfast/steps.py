"""The steps of the chain, in order: what each makes, from what, of which list, and what it is called.

All that names a step is derived from this table: the run and its records, summary.json, the terminal, the report.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

VARIANTS = {"plain": "Plain classifier", "ppl": "Progressive patch learning", "explicit": "Explicit patch learning"}

# Kinds of steps. A training makes a network, on all ranks. A job works through a list of images, on all ranks, and
# knows of each whether it is done. Figures are read by rank 0 from what is there.
TRAINING, JOB, FIGURES = "training", "job", "figures"
# Lists: the one that is trained on, the one that gets labels, the one that the segmentation network is tested on.
TRAIN, VAL, TEST = "train", "val", "test"


@dataclass(frozen=True)
class Parts:
    """What a run has, which decides its steps."""

    crf: bool
    affinity: bool
    segmentation: bool
    masks: bool  # of the list that gets labels
    test_masks: bool
    one_list: bool  # the list that is trained on is the one that gets labels


@dataclass(frozen=True)
class Step:
    """name: also of its folder, or of its file, with .json. work: how it is done, a method of run/work.py.

    reads: the steps that it takes the outputs of, "part=step" each, by their part in it; with | between several, the
    first that the run has. title: for a table of times. when: whether a run has it. figure: its mIoU in summary.json.
    text, short: the CAMs or labels that it makes, where they are shown.
    """

    name: str
    kind: str
    work: str
    of: str
    reads: str
    title: str
    when: Callable[[Parts], bool] = lambda has: True
    figure: str = ""
    text: str = ""
    short: str = ""

    @property
    def output(self) -> str:
        return f"{self.name}.json" if self.kind == FIGURES else self.name

    def sources(self, have: Collection[str]) -> dict[str, str]:
        """The steps that it reads, by their part in it; have: the steps of the run."""
        words = [word.split("=") for word in self.reads.split()]
        return {part: next(name for name in names.split("|") if name in have) for part, names in words}


# fmt: off
STEPS = (
    Step("train", TRAINING, "classifier", TRAIN, "", "training"),
    Step("cams", JOB, "cams", VAL, "train=train", "CAMs", text="CAMs", short="CAMs"),
    Step("eval_cam", FIGURES, "score", VAL, "cams=cams", "threshold sweep",
         lambda has: has.masks, "cam_miou"),
    Step("threshold_cam", FIGURES, "threshold", VAL, "cams=cams", "background threshold",
         lambda has: not has.masks),
    Step("labels", JOB, "labels", VAL, "cams=cams", "labels before the CRF",
         text="labels without CRF", short="labels"),
    Step("labels_crf", JOB, "labels", VAL, "cams=cams", "labels through the CRF",
         lambda has: has.crf, text="labels after the CRF", short="after CRF"),
    Step("eval_label", FIGURES, "score", VAL, "labels=labels", "scoring labels",
         lambda has: has.masks, "label_before_crf_miou"),
    Step("eval_label_crf", FIGURES, "score", VAL, "labels_crf=labels_crf", "scoring labels after the CRF",
         lambda has: has.masks and has.crf, "label_miou"),
    Step("facts_label", FIGURES, "count", VAL, "labels=labels", "reading the labels",
         lambda has: not has.masks and not has.crf),
    Step("facts_label_crf", FIGURES, "count", VAL, "labels_crf=labels_crf", "reading the labels after the CRF",
         lambda has: not has.masks and has.crf),

    Step("cams_train", JOB, "cams", TRAIN, "train=train", "CAMs to train on",
         lambda has: (has.affinity or has.segmentation) and not has.one_list),
    Step("affinity_labels", JOB, "affinity_labels", TRAIN, "cams=cams_train|cams", "confident labels",
         lambda has: has.affinity),
    Step("boundary", TRAINING, "boundary", TRAIN, "labels=affinity_labels train=train", "training of the boundaries",
         lambda has: has.affinity),
    Step("walk", JOB, "walk", VAL, "cams=cams boundary=boundary", "random walk", lambda has: has.affinity),
    Step("eval_walk", FIGURES, "score", VAL, "walk=walk", "threshold sweep after the walk",
         lambda has: has.affinity and has.masks, "walk_miou"),
    Step("threshold_walk", FIGURES, "threshold", VAL, "walk=walk", "background threshold after the walk",
         lambda has: has.affinity and not has.masks),
    Step("labels_walk", JOB, "labels", VAL, "cams=walk", "labels from the walk",
         lambda has: has.affinity, text="labels after the random walk", short="after walk"),
    Step("eval_label_walk", FIGURES, "score", VAL, "labels_walk=labels_walk", "scoring labels from the walk",
         lambda has: has.affinity and has.masks, "walk_label_miou"),
    Step("facts_label_walk", FIGURES, "count", VAL, "labels_walk=labels_walk", "reading the labels from the walk",
         lambda has: has.affinity and not has.masks),

    Step("walk_train", JOB, "walk", TRAIN, "cams=cams_train boundary=boundary", "random walk to train on",
         lambda has: has.affinity and has.segmentation and not has.one_list),
    Step("labels_train", JOB, "labels", TRAIN, "cams=walk_train|walk|cams_train|cams", "labels to train on",
         lambda has: has.segmentation),
    Step("segmentation", TRAINING, "segmentation", TRAIN, "labels=labels_train", "training of the segmentation",
         lambda has: has.segmentation),
    Step("predictions", JOB, "predictions", TEST, "segmentation=segmentation", "segmentation",
         lambda has: has.segmentation, text="segmentation network", short="network"),
    Step("eval_segmentation", FIGURES, "score", TEST, "predictions=predictions", "scoring the segmentation",
         lambda has: has.segmentation and has.test_masks, "segmentation_miou"),
    Step("facts_segmentation", FIGURES, "count", TEST, "predictions=predictions", "reading the segmentation",
         lambda has: has.segmentation and not has.test_masks),
    Step("labels_network", JOB, "told_predictions", VAL, "segmentation=segmentation", "labels by the network",
         lambda has: has.segmentation, text="labels by the network", short="by network"),
    Step("eval_label_network", FIGURES, "score", VAL, "labels_network=labels_network", "scoring labels by the network",
         lambda has: has.segmentation and has.masks, "network_label_miou"),
    Step("facts_label_network", FIGURES, "count", VAL, "labels_network=labels_network",
         "reading the labels by the network", lambda has: has.segmentation and not has.masks),
)
# fmt: on

STEP = {step.name: step for step in STEPS}
SHOWN = tuple(step for step in STEPS if step.text)  # the CAMs, and the label sets in the order of the chain
LABELS = {step.name: step.text for step in SHOWN[1:]}
FINAL = tuple(name for name in reversed(LABELS) if STEP[name].of == VAL)  # a run's product is the first that it has
# What is read of each set of maps or labels: its scores, or what it shows without masks.
SCORES = {step.reads.split("=")[1]: step for step in STEPS if step.figure}
FACTS = {step.reads.split("=")[1]: step for step in STEPS if step.work == "count"}


def steps_of(has: Parts) -> list[Step]:
    """The steps of a run, in order."""
    return [step for step in STEPS if step.when(has)]
