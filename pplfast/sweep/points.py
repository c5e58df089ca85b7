"""The points of a sweep: what --variants, --point and --vary span, and what each is called."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from pplfast.errors import UserError, did_you_mean
from pplfast.steps import VARIANTS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,149}")  # also of a folder
OWN = {"seed": "--seeds 0-4", "variants": "--variants plain,ppl", "name": "--point 'NAME: key=value'"}
VARIANT = "variant"  # the key of --point that is not the recipe's
# What a plain classifier, which has no patches, does not look at: points that differ in nothing else are one.
OF_PATCHES = {"plain": re.compile(r"stages\.\d+\.(position|grid|lr)"), "explicit": re.compile(r"stages\.\d+\.lr")}
CLOSING = {"[": "]", "{": "}", '"': '"', "'": "'"}


@dataclass(frozen=True)
class Point:
    """name: also of its folder. settings: texts as --set takes them, the later ones over the earlier ones."""

    name: str
    variant: str
    settings: tuple[str, ...]


def make_points(variants: Sequence[str], hand_made: Sequence[str], varied: Sequence[str]) -> list[Point]:
    """Every variant, with the settings of every --point, with every combination of the values of --vary.

    variants: of those points that name none. hand_made: "name: key=value key=value" each. varied: "key=value,value"
    each. Raises UserError for texts that are none of these, and for points that could not be told apart.
    """
    axes = [_axis(text) for text in varied]
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--vary {key}: is given twice; write its values into one --vary, separated by commas")
    points: dict[str, Point] = {}
    for name, own, settings in map(_hand_made, hand_made) if hand_made else [("", "", ())]:
        for variant in (own,) if own else variants:
            for values in product(*(values for _, values in axes)):
                point = _point(name if own else f"{variant},{name}", variant, settings, dict(zip(keys, values)))
                if points.setdefault(point.name, point).settings != point.settings:
                    raise UserError(f"two points are both called {point.name}; give them names, {OWN['name']}")
    return list(points.values())


def _point(name: str, variant: str, settings: tuple[str, ...], values: dict[str, str]) -> Point:
    seen = OF_PATCHES.get(variant)
    kept = {key: value for key, value in values.items() if not (seen and seen.fullmatch(key))}
    full = ",".join([name.removesuffix(","), *(f"{key}={_short(value)}" for key, value in kept.items())])
    if not NAME.fullmatch(full):
        raise UserError(f"the point {full} has too long a name; give it one, {OWN['name']}")
    return Point(full, variant, (*settings, *(f"{key}={value}" for key, value in kept.items())))


def _short(value: str) -> str:
    """For a name that is easy to type: [0.5, 1] becomes 0.5-1."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", value).strip("-") if re.search(r"[^A-Za-z0-9._+-]", value) else value


def _axis(text: str) -> tuple[str, list[str]]:
    key, values = _setting(f"--vary {text}", text, "optim.lr=0.005,0.01")
    found = list(dict.fromkeys(value.strip() for value in split(values, ",")))
    if not all(found):
        raise UserError(f"--vary {text}: a value is empty; separate the values by single commas")
    return key, found


def _hand_made(text: str) -> tuple[str, str, tuple[str, ...]]:
    """Name, variant ("" for all of them) and settings."""
    name, colon, rest = text.partition(":")
    name, where = name.strip(), f"--point '{text}'"
    if not colon or not NAME.fullmatch(name) or name.startswith("sweep."):
        raise UserError(f"{where}: must be a name of letters, digits and ._+- and its settings, 'low: optim.lr=0.005'")
    table = dict(
        _setting(where, word, "optim.lr=0.005", {VARIANT}) for word in split(re.sub(r"\s", " ", rest), " ") if word
    )
    variant = table.pop(VARIANT, "")
    if variant and variant not in VARIANTS:
        raise UserError(
            f"{where}: variant={variant}: choose from {', '.join(VARIANTS)}{did_you_mean(variant, VARIANTS)}"
        )
    return name, variant, tuple(f"{key}={value}" for key, value in table.items())


def _setting(where: str, text: str, example: str, allowed: Collection[str] = ()) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or not value.strip():
        raise UserError(f"{where}: '{text}' must be KEY=VALUE with a key of the recipe, like {example}")
    if key in OWN or (key == VARIANT and key not in allowed):
        raise UserError(f"{where}: {key} is not varied like a setting; give {OWN.get(key, OWN['variants'])}")
    return key, value


def split(text: str, separator: str) -> Iterator[str]:
    """The parts between separators that stand in no brackets and no quotes."""
    part, open_ = "", list[str]()
    for letter in text:
        if open_ and letter == open_[-1]:
            open_.pop()
        elif letter in CLOSING and not (open_ and open_[-1] in "\"'"):
            open_.append(CLOSING[letter])
        if letter == separator and not open_:
            yield part
            part = ""
        else:
            part += letter
    yield part
