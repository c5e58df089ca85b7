"""The result of scoring one list: what was scored, against how many masks, and the figures."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pplfast.evaluate.confusion import ClassIou


@dataclass(frozen=True)
class Scores:
    """IoU of each class and their mean, in percent, of one confusion over all images."""

    source: str  # folder of the predictions
    list: str  # the data set's name and list
    images: int  # scored, of
    listed: int
    miou: float  # 0 where neither masks nor predictions hold a class
    classes: Sequence[ClassIou]  # background first
    warnings: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; IoU in percent, None for a class that neither truth nor prediction has."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Lines for the user: one per class, and the mean."""
        lines = [f"{self.source}: scored on {self.list}, {self.images} of {self.listed} images"]
        width = max(len(entry.name) for entry in self.classes)
        for entry in self.classes:
            figure = "absent, not counted" if entry.iou is None else f"{entry.iou:5.1f}"
            lines.append(f"  {entry.name:<{width}}  {figure}")
        counted = [entry.iou is not None for entry in self.classes]
        mean = (
            f"{self.miou:5.1f}  (over {sum(counted)} classes, background included)"
            if any(counted[1:])
            else "of no class"
        )
        lines.append(f"  {'mIoU':<{width}}  {mean}")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


@dataclass(frozen=True)
class CamScores(Scores):
    """Scores of the CAMs at their best threshold, and the sweep that found it."""

    threshold: float
    sweep: list[tuple[float, float]]  # (threshold, mIoU)

    def to_dict(self) -> dict[str, Any]:
        result = super().to_dict()
        result["sweep"] = [{"threshold": threshold, "miou": miou} for threshold, miou in self.sweep]
        return result

    def table(self) -> str:
        edge = " (at the end of the sweep)" if self.threshold in (self.sweep[0][0], self.sweep[-1][0]) else ""
        return (
            f"best of {len(self.sweep)} thresholds, {self.sweep[0][0]:g} to {self.sweep[-1][0]:g}: "
            f"{self.threshold:g}{edge}\n{super().table()}"
        )
