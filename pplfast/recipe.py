"""Every setting of a run as dataclasses: read from TOML, validated once, saved with the run.

A recipe names what it reproduces. Unknown keys and values out of range are errors that name the file and the key.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pplfast.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MODES = ("plain", "progressive", "explicit")
Part = TypeVar("Part", bound="DataclassInstance")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class ModelConfig:
    backbone: str = "efficientnet_lite0"
    weights: str = "auto"  # "auto": the installed package where there is one; "none": random; else a file
    output_stride: int = 16  # used by the backbones that offer a choice
    dropout: float = 0.0  # before the classifier, on the pooled features
    frozen_blocks: int = -1  # number of early blocks without training; -1: the backbone's usual number


@dataclass(frozen=True)
class AugmentConfig:
    crop: int = 448  # pixels
    resize_long: tuple[int, int] = (320, 640)  # the long side becomes U(low, high) pixels
    flip: float = 0.5  # probability
    jitter: float = 0.0  # strength of brightness, contrast and saturation change: factors in 1 +- jitter


@dataclass(frozen=True)
class OptimConfig:
    lr: float = 0.01
    head_factor: float = 10.0  # learning rate of the classifier relative to the backbone
    momentum: float = 0.9
    weight_decay: float = 5e-4
    poly: float = 0.9  # lr * (1 - iteration / iterations)^poly, per stage
    warmup: int = 0  # iterations of linear warm-up at the start of the first stage
    batch: int = 16  # images per optimizer step, over all ranks and accumulation steps
    accumulation: int = 1
    precision: str = "auto"  # "auto": bf16 where it is fast, else fp32; or "fp32", "bf16", "fp16" (GPU only)
    zero: int = 0  # DeepSpeed ZeRO stage, 0 to 2
    reduction: str = "fp32"  # "fp32" | "bf16": the gradients on their way between ranks
    clip: float = 0.0  # gradient norm; 0: none


@dataclass(frozen=True)
class StageConfig:
    epochs: float  # fractions are allowed
    position: str = ""  # block name after which the patches are cut; "" = no patches
    grid: int = 1  # K
    lr: float = 1.0  # factor on optim.lr


@dataclass(frozen=True)
class CamConfig:
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    flip: bool = True
    batch: int = 8  # images of one shape at a time
    precision: str = "auto"  # "auto": bf16 where it is fast, else fp32


@dataclass(frozen=True)
class LabelConfig:
    background: str = "threshold"  # "threshold" | "alpha"
    value: float = 0.0  # the threshold or the exponent; threshold 0: the best of the sweep
    crf: str = "probabilities"  # preset name, or "none"


@dataclass(frozen=True)
class WalkConfig:
    """The random walk of the CAMs at stride 4 within the predicted boundaries."""

    radius: int = 5  # pixels of the grid: a step goes to neighbours nearer than this
    beta: float = 10.0  # exponent of the affinities
    steps: int = 256


@dataclass(frozen=True)
class AffinityConfig:
    """Refinement by a boundary network and a random walk. Values: IRN's, the learning rate for real momentum."""

    epochs: float = 0.0  # of the boundary network; 0: no refinement
    foreground: float = 0.30  # CAM threshold of sure objects
    background: float = 0.05  # below it, sure background; unsure between them
    crf: str = "labels"  # preset name that both go through, or "none"
    radius: int = 10  # of the pixel pairs in the loss, at stride 4
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(crop=512, resize_long=(320, 640)))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.01, head_factor=1.0, weight_decay=1e-4))
    walk: WalkConfig = field(default_factory=WalkConfig)
    label: LabelConfig = field(default_factory=lambda: LabelConfig(crf="none"))  # from the walked maps


@dataclass(frozen=True)
class SegmentationConfig:
    """The segmentation network that is trained on the pseudo labels, and its test."""

    epochs: float = 0.0  # 0: none
    head: str = "auto"  # "auto": the usual one of the backbone; "light" | "largefov" | "aspp"
    balanced: bool = False  # background and object pixels of an image weigh the same
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, batch=10))
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)  # of the test
    flip: bool = True
    test_batch: int = 4  # images of one shape at a time
    crf: str = "deeplab"  # preset name, or "none"


@dataclass(frozen=True)
class Recipe:
    name: str = ""
    description: str = ""
    seed: int = 0
    variants: tuple[str, ...] = ("plain", "ppl")  # what `pplfast run` trains: plain, ppl, explicit
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stages: tuple[StageConfig, ...] = ()
    cam: CamConfig = field(default_factory=CamConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    affinity: AffinityConfig = field(default_factory=AffinityConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)

    @property
    def epochs(self) -> float:
        """Epochs over all stages; the plain classifier trains for as many in one stage."""
        return sum(stage.epochs for stage in self.stages)


def preset_names() -> list[str]:
    return sorted(
        Path(str(entry)).stem for entry in resources.files("pplfast.recipes").iterdir() if str(entry).endswith(".toml")
    )


def load_recipe(name_or_file: str) -> Recipe:
    """A preset by name or a TOML file by path. Raises UserError naming the file, the key and the remedy."""
    if name_or_file in preset_names():
        source, text = (
            f"preset {name_or_file}",
            resources.files("pplfast.recipes").joinpath(f"{name_or_file}.toml").read_text(encoding="utf-8"),
        )
    else:
        source = name_or_file
        try:
            text = Path(name_or_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{name_or_file}: neither a recipe file ({error.__class__.__name__}) nor a preset; "
                f"presets: {', '.join(preset_names())}"
            ) from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: not valid TOML: {error}") from None
    table.setdefault("name", Path(name_or_file).stem)
    return recipe_from_dict(table, source)


def recipe_from_dict(table: dict[str, Any], source: str) -> Recipe:
    recipe = _build(Recipe, table, source, "")
    _check(recipe, source)
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    return dataclasses.asdict(recipe)


def part_from_dict(kind: type[Part], table: dict[str, Any], source: str) -> Part:
    """One table of a recipe, as `recipe_to_dict` gives it; keys that it lacks have the class's own values.

    Raises UserError naming the source and the key. Values are checked where they are used.
    """
    return _build(kind, table, source, "")


def _build(kind: type[Part], table: dict[str, Any], source: str, path: str, base: Part | None = None) -> Part:
    """base: the values of keys that are not given; the class's own without it."""
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise UserError(f"{source}: unknown key '{path}{unknown[0]}'; known here: {', '.join(hints)}")
    bases = {
        entry.name: getattr(base, entry.name) if base is not None else entry.default_factory()
        for entry in dataclasses.fields(kind)
        if entry.default_factory is not dataclasses.MISSING
    }
    values = {key: _convert(value, hints[key], source, f"{path}{key}", bases.get(key)) for key, value in table.items()}
    try:
        return kind(**values) if base is None else dataclasses.replace(base, **values)
    except TypeError as error:
        raise UserError(f"{source}: {path or 'recipe'}: {error}") from None


def _convert(value: Any, hint: Any, source: str, path: str, base: Any = None) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{source}: '{path}' must be a table, not {value!r}")
        return _build(hint, value, source, f"{path}.", base)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{source}: '{path}' must be a list, not {value!r}")
        inner = typing.get_args(hint)
        if inner[-1] is not Ellipsis and len(inner) != len(value):
            raise UserError(f"{source}: '{path}' must have {len(inner)} values, not {len(value)}")
        return tuple(_convert(item, inner[0], source, f"{path}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, types.UnionType):
        raise TypeError(f"{path}: unions are not supported in recipes")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{source}: '{path}' must be {hint.__name__}, not {value!r}")
    return value


def _check(recipe: Recipe, source: str) -> None:
    def need(condition: bool, key: str, value: Any, expected: str) -> None:
        if not condition:
            raise UserError(f"{source}: '{key}' = {value!r}: must be {expected}")

    need(len(recipe.stages) > 0, "stages", [], "at least one [[stages]] table")
    for i, stage in enumerate(recipe.stages):
        need(stage.epochs > 0, f"stages[{i}].epochs", stage.epochs, "above 0")
        need(stage.grid >= 1, f"stages[{i}].grid", stage.grid, "1 or more")
        need(stage.lr > 0, f"stages[{i}].lr", stage.lr, "above 0")
    _check_augment(recipe.augment, "augment", need)
    _check_optim(recipe.optim, "optim", need)
    need(0 <= recipe.model.dropout < 1, "model.dropout", recipe.model.dropout, "in [0, 1)")
    _check_refinement(recipe, need)
    need(bool(recipe.cam.scales) and min(recipe.cam.scales) > 0, "cam.scales", recipe.cam.scales, "sizes above 0")
    need(recipe.cam.precision in ("auto", "fp32", "bf16"), "cam.precision", recipe.cam.precision, "auto, fp32 or bf16")
    need(
        recipe.label.background in ("threshold", "alpha"),
        "label.background",
        recipe.label.background,
        "threshold or alpha",
    )
    for variant in recipe.variants:
        need(variant in ("plain", "ppl", "explicit"), "variants", variant, "plain, ppl or explicit")


Need = Callable[[bool, str, Any, str], None]


def _check_augment(augment: AugmentConfig, key: str, need: Need) -> None:
    low, high = augment.resize_long
    need(0 < low <= high, f"{key}.resize_long", (low, high), "two sizes, low <= high")
    need(augment.crop >= 32, f"{key}.crop", augment.crop, "32 pixels or more")
    need(0 <= augment.flip <= 1, f"{key}.flip", augment.flip, "a probability")
    need(0 <= augment.jitter < 1, f"{key}.jitter", augment.jitter, "in [0, 1)")


def _check_optim(optim: OptimConfig, key: str, need: Need) -> None:
    need(optim.lr > 0, f"{key}.lr", optim.lr, "above 0")
    need(0 <= optim.momentum < 1, f"{key}.momentum", optim.momentum, "in [0, 1)")
    need(optim.batch >= 1, f"{key}.batch", optim.batch, "1 or more")
    need(optim.accumulation >= 1, f"{key}.accumulation", optim.accumulation, "1 or more")
    need(optim.precision in PRECISIONS, f"{key}.precision", optim.precision, ", ".join(PRECISIONS))
    need(optim.zero in (0, 1, 2), f"{key}.zero", optim.zero, "0, 1 or 2")
    need(optim.reduction in ("fp32", "bf16"), f"{key}.reduction", optim.reduction, "fp32 or bf16")


def _check_refinement(recipe: Recipe, need: Need) -> None:
    affinity, segmentation = recipe.affinity, recipe.segmentation
    need(affinity.epochs >= 0, "affinity.epochs", affinity.epochs, "0 (no refinement) or more")
    need(
        0 < affinity.background <= affinity.foreground < 1,
        "affinity.background, foreground",
        (affinity.background, affinity.foreground),
        "thresholds with 0 < background <= foreground < 1",
    )
    need(affinity.radius >= 2, "affinity.radius", affinity.radius, "2 or more")
    need(affinity.walk.radius >= 2, "affinity.walk.radius", affinity.walk.radius, "2 or more")
    need(affinity.walk.beta > 0, "affinity.walk.beta", affinity.walk.beta, "above 0")
    need(affinity.walk.steps >= 0, "affinity.walk.steps", affinity.walk.steps, "0 or more")
    need(segmentation.epochs >= 0, "segmentation.epochs", segmentation.epochs, "0 (no network) or more")
    need(
        bool(segmentation.scales) and min(segmentation.scales) > 0,
        "segmentation.scales",
        segmentation.scales,
        "sizes above 0",
    )
    need(segmentation.test_batch >= 1, "segmentation.test_batch", segmentation.test_batch, "1 or more")
    for key, part in (("affinity", affinity), ("segmentation", segmentation)):
        _check_augment(part.augment, f"{key}.augment", need)
        _check_optim(part.optim, f"{key}.optim", need)
