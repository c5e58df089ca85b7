"""Scores of CAMs and of label PNGs against true masks; what maps and label PNGs say without any."""

from pplfast.evaluate.cams import evaluate_cams
from pplfast.evaluate.pngs import evaluate_labels
from pplfast.evaluate.scores import CamScores, Scores
from pplfast.evaluate.threshold import ChosenThreshold, choose_threshold
from pplfast.evaluate.unscored import LabelFacts, inspect_labels

__all__ = [
    "CamScores",
    "ChosenThreshold",
    "LabelFacts",
    "Scores",
    "choose_threshold",
    "evaluate_cams",
    "evaluate_labels",
    "inspect_labels",
]
