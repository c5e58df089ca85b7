"""What every number and every name of a recipe may be: for files, --set, --seed, saved recipes and Python alike."""

import math
import reprlib
from dataclasses import dataclass, fields
from typing import Any

from pplfast.errors import UserError, did_you_mean
from pplfast.recipe.crf_presets import BACKGROUNDS, NONE, PRESETS
from pplfast.steps import VARIANTS

LONGEST_TEXT = 4096  # characters
MOST_ENTRIES = 64  # of a list


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included unless `above` or `below` says otherwise. A NaN is in none."""

    low: float
    high: float
    above: bool = False  # low itself is out
    below: bool = False  # high itself is out
    note: str = ""  # what a value stands for, for the message

    def holds(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"above {_number(self.low)}" if self.above else f"{_number(self.low)} or more"
        high = f"below {_number(self.high)}" if self.below else f"at most {_number(self.high)}"
        return f"{low}, {high}{f' ({self.note})' if self.note else ''}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


SIZE = Range(0, 8, above=True, note="of the image's own size")
IMAGES = Range(1, 65536)
STEPS = Range(0, 10_000_000, note="optimizer steps")
LENGTH = {"epochs": Range(0, 100_000), "steps": STEPS}
MOST_SEED = 2**63 - 1  # what the random generators of all libraries take

# Class of settings.py -> key -> range; of a list's every entry. The upper ends are far beyond what is of use: they keep
# a slip of the finger from asking for more memory or time than there is, and an exponent from leaving float32.
RANGES: dict[str, dict[str, Range]] = {
    "ModelConfig": {
        "output_stride": Range(1, 64),
        "dropout": Range(0, 1, below=True),
        "frozen_blocks": Range(-1, 1000, note="-1: the backbone's usual number"),
    },
    "AugmentConfig": {
        "crop": Range(32, 4096, note="pixels"),
        "resize_long": Range(1, 16384, note="pixels"),
        "flip": Range(0, 1, note="a probability"),
        "jitter": Range(0, 1, below=True),
    },
    "OptimConfig": {
        "lr": Range(0, 100, above=True),
        "head_factor": Range(0, 1000),
        "momentum": Range(0, 1, below=True),
        "weight_decay": Range(0, 1),
        "poly": Range(0, 100),
        "warmup": STEPS,
        "batch": IMAGES,
        "accumulation": Range(1, 65536),
        "micro_batch": Range(0, 65536, note="0: not set"),
        "zero": Range(0, 2),
        "clip": Range(0, 1_000_000, note="0: none"),
    },
    "StageConfig": {
        **LENGTH,
        "grid": Range(1, 256),
        "lr": Range(0, 1000, above=True, note="a factor on optim.lr"),
    },
    "CamConfig": {"scales": SIZE, "batch": IMAGES},
    "LabelConfig": {"value": Range(0, 1000)},
    "WalkConfig": {"radius": Range(2, 64), "beta": Range(0, 1000, above=True), "steps": Range(0, 1_000_000)},
    "AffinityConfig": {
        **LENGTH,
        "foreground": Range(0, 1, above=True, below=True),
        "background": Range(0, 1, above=True, below=True),
        "radius": Range(2, 64),
    },
    "SegmentationConfig": {**LENGTH, "scales": SIZE, "test_batch": IMAGES},
    "Recipe": {"seed": Range(0, MOST_SEED)},
}


PRECISIONS = ("auto", "fp32", "bf16", "fp16")
HEADS = ("auto", "light", "largefov", "aspp")
CRFS = (*PRESETS, NONE)
# The same of texts that are one of a few names. What may be a part of one's own is found when its table is used.
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "OptimConfig": {"precision": PRECISIONS, "reduction": ("fp32", "bf16")},
    "CamConfig": {"precision": ("auto", "fp32", "bf16")},
    "LabelConfig": {"background": BACKGROUNDS, "crf": CRFS},
    "AffinityConfig": {"crf": CRFS},
    "SegmentationConfig": {"head": HEADS, "crf": CRFS},
    "Recipe": {"variants": tuple(VARIANTS)},
}


class SettingError(UserError):
    """A setting that cannot be. key: in its table. what: the value and what it must be, or what else is wrong."""

    def __init__(self, kind: type, key: str, what: str) -> None:
        super().__init__(f"{kind.__name__}.{key}{what}")
        self.key, self.what = key, what


class _Short(reprlib.Repr):
    """Of any value, however deep, long or large: at most some dozens of characters."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60

    def repr_int(self, x: int, level: int) -> str:
        return f"<a number of {x.bit_length()} bits>" if x.bit_length() > 200 else super().repr_int(x, level)


short = _Short().repr


def check_values(part: Any) -> None:
    """Every value of one table of settings by itself. Raises SettingError."""
    kind = type(part)
    for entry in fields(part):
        value = getattr(part, entry.name)
        several = isinstance(value, tuple | list)
        for single in value if several else (value,):
            if wrong := _wrong(kind, entry.name, single):
                raise SettingError(kind, entry.name, f" = {short(value)}: {wrong}")
        if several and len(value) > MOST_ENTRIES:
            raise SettingError(kind, entry.name, f": has {len(value)} entries; must be at most {MOST_ENTRIES}")


def _wrong(kind: type, key: str, value: Any) -> str:
    allowed, names = RANGES.get(kind.__name__, {}).get(key), NAMES.get(kind.__name__, {}).get(key)
    if allowed is not None and isinstance(value, int | float) and not allowed.holds(value):
        return f"must be {allowed}"
    if not isinstance(value, str):
        return ""
    if len(value) > LONGEST_TEXT:
        return f"has {len(value)} characters; must be at most {LONGEST_TEXT}"
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        return "must be text without a NUL or half a character"
    return f"must be one of {', '.join(names)}{did_you_mean(value, names)}" if names and value not in names else ""


def finite_float(value: int) -> float:
    """A whole number as a float; one too large for it as infinity, which is in no range."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
