"""Every setting of a run as dataclasses: read from TOML, validated once, saved with the run.

A recipe names what it reproduces. Unknown keys and values out of range are errors that name the file and the key.
"""

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pplfast.errors import UserError

MODES = ("plain", "progressive", "explicit")


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

    @property
    def epochs(self) -> float:
        """Epochs over all stages; the plain classifier trains for as many in one stage."""
        return sum(stage.epochs for stage in self.stages)


def preset_names() -> list[str]:
    return sorted(Path(str(entry)).stem for entry in resources.files("pplfast.recipes").iterdir()
                  if str(entry).endswith(".toml"))


def load_recipe(name_or_file: str) -> Recipe:
    """A preset by name or a TOML file by path. Raises UserError naming the file, the key and the remedy."""
    if name_or_file in preset_names():
        source, text = f"preset {name_or_file}", resources.files("pplfast.recipes").joinpath(
            f"{name_or_file}.toml").read_text(encoding="utf-8")
    else:
        source = name_or_file
        try:
            text = Path(name_or_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{name_or_file}: neither a recipe file ({error.__class__.__name__}) nor a preset; "
                            f"presets: {', '.join(preset_names())}") from None
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


def _build(kind: type, table: dict[str, Any], source: str, path: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise UserError(f"{source}: unknown key '{path}{unknown[0]}'; known here: {', '.join(hints)}")
    values = {key: _convert(value, hints[key], source, f"{path}{key}") for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{source}: {path or 'recipe'}: {error}") from None


def _convert(value: Any, hint: Any, source: str, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{source}: '{path}' must be a table, not {value!r}")
        return _build(hint, value, source, f"{path}.")
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
    low, high = recipe.augment.resize_long
    need(0 < low <= high, "augment.resize_long", (low, high), "two sizes, low <= high")
    need(recipe.augment.crop >= 32, "augment.crop", recipe.augment.crop, "32 pixels or more")
    need(0 <= recipe.augment.flip <= 1, "augment.flip", recipe.augment.flip, "a probability")
    need(0 <= recipe.augment.jitter < 1, "augment.jitter", recipe.augment.jitter, "in [0, 1)")
    need(recipe.optim.lr > 0, "optim.lr", recipe.optim.lr, "above 0")
    need(0 <= recipe.optim.momentum < 1, "optim.momentum", recipe.optim.momentum, "in [0, 1)")
    need(recipe.optim.batch >= 1, "optim.batch", recipe.optim.batch, "1 or more")
    need(recipe.optim.accumulation >= 1, "optim.accumulation", recipe.optim.accumulation, "1 or more")
    need(recipe.optim.precision in ("auto", "fp32", "bf16", "fp16"), "optim.precision", recipe.optim.precision,
         "auto, fp32, bf16 or fp16")
    need(recipe.optim.zero in (0, 1, 2), "optim.zero", recipe.optim.zero, "0, 1 or 2")
    need(0 <= recipe.model.dropout < 1, "model.dropout", recipe.model.dropout, "in [0, 1)")
    need(bool(recipe.cam.scales) and min(recipe.cam.scales) > 0, "cam.scales", recipe.cam.scales, "sizes above 0")
    need(recipe.cam.precision in ("auto", "fp32", "bf16"), "cam.precision", recipe.cam.precision,
         "auto, fp32 or bf16")
    need(recipe.label.background in ("threshold", "alpha"), "label.background", recipe.label.background,
         "threshold or alpha")
    for variant in recipe.variants:
        need(variant in ("plain", "ppl", "explicit"), "variants", variant, "plain, ppl or explicit")
