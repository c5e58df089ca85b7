"""Weight files into a backbone: every tensor is accounted for, and a mismatch is refused by name."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pplfast.errors import UserError
from pplfast.models.backbone import Backbone
from pplfast.models.values import bad_kind, bad_weight
from pplfast.models.weight_files import read_tables
from pplfast.reading import shortened

# Where "the weights" of a file are, under these names of dictionaries and wrappers; all others (ema, teacher,
# encoder_q) say which of several networks it is.
NEUTRAL = {
    "", "state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "module", "_orig_mod",
    "backbone", "encoder",
}  # fmt: skip
CLASSIFIERS = ("fc.", "_fc.", "linear1000", "fc8.")
BOOKKEEPING = "num_batches_tracked"  # BatchNorm's counter, meaningless with frozen statistics


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a file and of a backbone, by name."""

    path: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # of the backbone, not in the file
    unexpected: tuple[str, ...]  # of the file, belonging to no known part
    ignored: tuple[str, ...]  # of the file: classifiers and counters, by their names

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += [
            f"{len(names)} {what} ({_some(names)})"
            for names, what in ((self.ignored, "ignored"), (self.missing, "missing"), (self.unexpected, "unexpected"))
            if names
        ]
        return f"{self.path}: {'; '.join(parts)}"


def load_weights(backbone: Backbone, path: str | Path) -> LoadReport:
    """Copy the tensors of a weight file into `backbone`.

    Formats: PyTorch (.pth, .pt), safetensors, and MXNet .params. The tensors may lie in a dictionary of any name
    ("state_dict", "model_ema") and behind a prefix that wrappers or a larger network gave them ("module._orig_mod.",
    "backbone."); of several networks in one file the one under a neutral name is taken (NEUTRAL). Raises UserError
    naming file and tensors if the backbone is not covered in full, if several networks cover it and none or more than
    one is neutral, if a shape differs, if the file holds more of the backbone than this one has (ResNet-101 into
    ResNet-50), and if values are NaN, infinite or absurd.
    """
    tensors, rest = _of_backbone(backbone, read_tables(path), str(path))
    report = match(backbone, tensors, rest, str(path))
    _refuse_mismatch(backbone, tensors, report)
    own = backbone.state_dict()
    loaded = {name: tensors[name] for name in report.loaded}
    if wrong := bad_kind(loaded, own) or bad_weight(loaded):
        raise UserError(f"{path}: {wrong}, which are no weights of a trained network; fetch the file again")
    with torch.no_grad():
        for name in report.loaded:
            own[name].copy_(tensors[name])
    return report


def match(backbone: Backbone, tensors: dict[str, Tensor], rest: Iterable[str], path: str) -> LoadReport:
    """Sort the names of the file and of the backbone, without looking at shapes. rest: names without the prefix of the
    others."""
    own = backbone.state_dict().keys()
    ignored = [
        name for name in tensors if name not in own and (name.startswith(CLASSIFIERS) or name.endswith(BOOKKEEPING))
    ]
    return LoadReport(
        path=path,
        loaded=tuple(name for name in own if name in tensors),
        missing=tuple(name for name in own if name not in tensors),
        unexpected=(*(name for name in tensors if name not in own and name not in ignored), *rest),
        ignored=tuple(ignored),
    )


def _of_backbone(
    backbone: Backbone, tables: dict[str, dict[str, Tensor]], path: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors behind the prefix under which a file has most of the backbone's, without it, and the names of the
    others in their table. Where that is nearly nothing, the largest table as it is."""
    own = backbone.state_dict().keys()
    found = {(where, prefix): count for where in tables for prefix, count in _prefixes(own, tables[where]).items()}
    most = max(found.values(), default=0)
    best = [place for place, count in found.items() if count == most]
    if most < len(own) / 2:  # another network: a few names that all networks have say nothing
        return max(tables.values(), key=len), []
    if len(best) > 1:
        names = [f"{where}.{prefix}".strip(".") for where, prefix in best]
        neutral = [place for place, name in zip(best, names, strict=True) if NEUTRAL.issuperset(name.split("."))]
        if len(neutral) != 1:
            raise UserError(
                f"{path}: holds {len(best)} networks ({_some(names)}); save one of them in a file of its own"
            )
        best = neutral
    where, prefix = best[0]
    table = tables[where]
    inside = {name.removeprefix(prefix): tensor for name, tensor in table.items() if name.startswith(prefix)}
    return inside, [name for name in table if not name.startswith(prefix)]


def _prefixes(own: Iterable[str], tensors: Iterable[str]) -> Counter[str]:
    """Prefix, "" or with its dot -> how many of the backbone's names the file has behind it."""
    counts: Counter[str] = Counter()
    own = set(own)
    depth = max(name.count(".") for name in own) + 1
    for name in tensors:
        parts = name.rsplit(".", depth)
        for start in range(len(parts)):
            suffix = ".".join(parts[start:])
            if suffix in own:
                counts[name.removesuffix(suffix)] += 1
    return counts


def _refuse_mismatch(backbone: Backbone, tensors: dict[str, Tensor], report: LoadReport) -> None:
    own = backbone.state_dict()
    shapes = [
        f"{name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"
        for name in report.loaded
        if tensors[name].shape != own[name].shape
    ]
    roots = {name.split(".")[0] for name in own}
    excess = [name for name in report.unexpected if name in tensors and name.split(".")[0] in roots]
    others = "" if report.loaded else f"; the file has {_some(tensors)}"
    for names, what in (
        (report.missing, "tensors of the backbone are missing"),
        (shapes, "tensors have another shape"),
        (excess, "tensors have no place in the backbone"),
    ):
        if names:
            raise UserError(
                f"{report.path}: not weights of {backbone.name}: {len(names)} {what} ({_some(names)}{others}); "
                "give the file of this backbone, or name the backbone of this file"
            )


def _some(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ", ".join(shortened(name) for name in names[:count]) + (", ..." if len(names) > count else "")
