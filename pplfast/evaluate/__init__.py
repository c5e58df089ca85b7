"""Scores of CAMs and of label PNGs against true masks."""

from pplfast.evaluate.cams import evaluate_cams
from pplfast.evaluate.pngs import evaluate_labels
from pplfast.evaluate.scores import CamScores, Scores

__all__ = ["CamScores", "Scores", "evaluate_cams", "evaluate_labels"]
