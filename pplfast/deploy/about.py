"""What is known of a trained segmentation network: from its own files, and from its run's where it lies in one."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pplfast.data.classes import BACKGROUND, ClassList
from pplfast.data.image_info import Values
from pplfast.files import read_json
from pplfast.recipe import SegmentationConfig
from pplfast.steps import VARIANTS
from pplfast.train.network_file import read_network, read_range, read_settings
from pplfast.train.segmentation import NAME
from pplfast.version import __version__


@dataclass(frozen=True)
class Figure:
    """mIoU in per cent of the labels on a list. images: those with masks, which are scored."""

    what: str
    miou: float
    list: str
    images: int


@dataclass(frozen=True)
class About:
    """recipe, variant: "" outside of a run. images: of the training; 0 where it is not recorded. range: of images
    deeper than 8 bits, as it was trained on them. figures: None where nothing was scored."""

    classes: ClassList
    config: SegmentationConfig
    head: str
    data: str
    images: int
    range: Values | None
    recipe: str
    variant: str
    figures: tuple[Figure, ...]

    def properties(self) -> dict[str, str]:
        """For the metadata of an exported file; lists as JSON."""
        config = self.config
        recorded = {"scales": list(config.scales), "flip": config.flip, "crf": config.crf}
        found = {
            "names": json.dumps(["background", *self.classes.names], ensure_ascii=False),
            "values": json.dumps([BACKGROUND, *self.classes.ids]),
            "input": "uint8 (N, H, W, 3), RGB, 0 to 255",
            "computed_at": json.dumps({"scales": [1.0], "flip": False, "crf": "none"}),
            "recipe_labels_at": json.dumps(recorded),
            "pplfast_version": __version__,
        }
        if self.recipe:
            found["recipe"] = self.recipe
        if self.range:
            found["range"] = json.dumps(list(self.range))
        return found


def read_about(folder: Path, classes: ClassList) -> About:
    """Of the network in `folder`. Raises UserError for a file that is damaged."""
    table = read_network(folder, NAME)
    run = folder.parent.parent
    in_run = folder.parent.name in VARIANTS and (run / "run.json").is_file()
    variant = folder.parent.name if in_run else ""
    return About(
        classes,
        read_settings(folder, NAME, SegmentationConfig),
        _text(table.get("head")),
        _text(table.get("dataset")),
        _whole(_table(_optional(folder / "recipe.json"), "dataset").get("images")),
        read_range(folder, NAME),
        _text(_table(_optional(run / "run.json"), "recipe").get("name")) if in_run else "",
        variant,
        _figures(_optional(run / "summary.json"), variant) if in_run else (),
    )


def _figures(summary: dict[str, Any], variant: str) -> tuple[Figure, ...]:
    """Of the network's labels: told nothing of an image, and told its classes."""
    data, values = _table(summary, "data"), _table(summary, variant)
    wanted = (
        ("labels of images of which nothing else is known", "segmentation_miou", "test" if "test" in data else "val"),
        ("labels of images whose classes are known", "network_label_miou", "val"),
    )
    found = []
    for what, key, name in wanted:
        miou, scored = values.get(key), _table(data, name)
        if isinstance(miou, int | float) and not isinstance(miou, bool) and math.isfinite(miou):
            found.append(Figure(what, float(miou), _text(scored.get("list")), _whole(scored.get("scored"))))
    return tuple(found)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else ""


def _whole(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
