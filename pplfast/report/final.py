"""The final labels of a run: the last that its chain made of the list, and in which order to look at them."""

from dataclasses import dataclass
from pathlib import Path

from pplfast.data.dataset import Dataset
from pplfast.data.masks import SUFFIX
from pplfast.errors import UserError
from pplfast.report.confidence import read_confidence
from pplfast.report.view import RunView, VariantView
from pplfast.steps import FINAL, LABELS


@dataclass(frozen=True)
class Final:
    """confidence: 0 to 1 by image id, from the least sure; empty where nothing says it. problem: what is wrong with
    its file."""

    variant: VariantView
    source: str  # of LABELS
    confidence: dict[str, float]
    problem: str = ""

    @property
    def folder(self) -> Path:
        return self.variant.folder / self.source

    @property
    def text(self) -> str:
        return LABELS[self.source]

    def label(self, image_id: str) -> Path:
        return self.folder / f"{image_id}{SUFFIX}"

    def order(self, dataset: Dataset) -> list[int]:
        """Positions of all images: the least sure first, those without a figure last; without any, as listed."""
        rank = {image_id: number for number, image_id in enumerate(self.confidence)}
        ranks = [rank.get(image_id, len(rank)) for image_id in dataset.ids] if rank else []
        return sorted(range(len(dataset)), key=ranks.__getitem__) if rank else list(range(len(dataset)))


def main_variant(view: RunView) -> VariantView:
    """The one that a reader wants to know of: progressive patch learning, or else the last."""
    return next((variant for variant in view.variants if variant.key == "ppl"), view.variants[-1])


def final_labels(view: RunView) -> Final | None:
    """None where the run has no record of any labels."""
    variant = main_variant(view)
    source = next((name for name in FINAL if name in variant.seconds), None)
    if source is None:
        return None
    try:
        return Final(variant, source, read_confidence(variant.folder / source))
    except UserError as problem:
        return Final(variant, source, {}, str(problem))
