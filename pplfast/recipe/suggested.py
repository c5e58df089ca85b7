"""Settings for a data set that nobody has chosen any for: by its number of images, their size and the device."""

from dataclasses import dataclass
from typing import Any

from pplfast.recipe.reading import load_recipe
from pplfast.recipe.writing import toml_value

BASE = "own-images"  # the preset that is changed
ENOUGH_STEPS = 200  # optimizer steps of the classifier and of the segmentation network
ENOUGH_TO_WALK = 100  # of fewer, the random walk spreads classes over whole images (docs/journal.md)
MOST_STEPS = 20_000  # of a stage: nothing measured so far gains by more
# Tables of the recipe and their optimizer steps where there are fewer images (docs/journal.md).
FEW = {"stages.0": 80, "stages.1": 120, "affinity": 60, "segmentation": 200}
USUAL_SIDE = 500  # pixels of the long side, for which BASE is tuned
SIDES = (350, 750)  # images between these are as the usual ones
SMALLEST_SIDE = 128  # a network sees too few cells of anything smaller
LARGEST_SCALE = 8.0  # of RANGES
GPU_BATCH, GPU_GIB = 16, 8.0  # images, and what that many need at 448 pixels


@dataclass(frozen=True)
class DataFacts:
    """What the settings depend on. long_side: the median, in pixels. gpu_gib: memory of the GPU; 0 without one."""

    images: int
    long_side: int
    gpu_gib: float = 0.0


@dataclass(frozen=True)
class Suggestion:
    """settings: changes of the preset BASE, as --set takes them. reasons: a line for each choice."""

    settings: tuple[str, ...]
    reasons: tuple[str, ...]


def suggest(facts: DataFacts) -> Suggestion:
    """The same for the same facts. Values from BASE, which was measured on photos of USUAL_SIDE pixels."""
    overrides: dict[str, Any] = {}
    reasons: list[str] = []
    batch = GPU_BATCH if facts.gpu_gib >= GPU_GIB else 8
    if batch != 8:
        overrides |= {f"{table}optim.batch": batch for table in ("", "affinity.", "segmentation.")}
        reasons.append(f"batches of {batch}: the GPU has {facts.gpu_gib:.0f} GiB")
    usual = _usual_steps(facts.images, batch)
    if usual["stages.0"] + usual["stages.1"] < ENOUGH_STEPS or usual["segmentation"] < ENOUGH_STEPS:
        overrides |= {f"{table}.steps": steps for table, steps in FEW.items()}
        overrides["affinity.label.value"] = 0.5  # walked maps of so few images are flat
        if facts.images < ENOUGH_TO_WALK:
            overrides["affinity.steps"] = 0
            reasons.append("no random walk, as there are very few images")
        counts = f"{FEW['stages.0']} + {FEW['stages.1']} of the classifier, {FEW['segmentation']} of the segmentation"
        reasons.append(f"optimizer steps, not epochs, as there are few images: {counts} network")
    elif many := [table for table, steps in usual.items() if steps > MOST_STEPS]:
        overrides |= {f"{table}.steps": MOST_STEPS for table in many}
        reasons.append(f"at most {MOST_STEPS} optimizer steps of each training, as there are many images")
    if not SIDES[0] <= facts.long_side <= SIDES[1]:
        sizes, reason = _sizes(facts)
        overrides |= sizes
        reasons.append(reason)
    settings = (f"{key}={toml_value(value)}" for key, value in overrides.items())
    return Suggestion(tuple(settings), tuple(reasons))


def _usual_steps(images: int, batch: int) -> dict[str, int]:
    """Optimizer steps of the preset by its tables."""
    base = load_recipe(BASE)
    lengths = {f"stages.{i}": stage.epochs for i, stage in enumerate(base.stages)}
    lengths |= {"affinity": base.affinity.epochs, "segmentation": base.segmentation.epochs}
    return {table: round(epochs * -(-images // batch)) for table, epochs in lengths.items()}


def _sizes(facts: DataFacts) -> tuple[dict[str, Any], str]:
    """Crops, and scales of the image's own size: the networks see objects as large in a test as in training."""
    side = facts.long_side
    long = min(512, max(SMALLEST_SIDE * 2, side)) if side < SIDES[0] else 512
    crop = min(256, max(SMALLEST_SIDE, long // 2))
    augment = {"crop": crop, "resize_long": (long // 2, long)}
    factor = long / 512 * USUAL_SIDE / side
    scales = {"cam.scales": (0.5, 1.0, 1.5), "segmentation.scales": (0.5, 0.75, 1.0)}
    changed: dict[str, Any] = {
        f"{table}augment.{key}": value for table in ("", "affinity.", "segmentation.") for key, value in augment.items()
    }
    changed |= {key: _scaled(values, factor) for key, values in scales.items()}
    shown = ", ".join(f"{scale:g}" for scale in changed["cam.scales"])
    return changed, f"crops of {crop} pixels, maps at {shown} of the image's size: the long side is {side} pixels"


def _scaled(scales: tuple[float, ...], factor: float) -> tuple[float, ...]:
    """Each once: those of tiny images end at the largest that there is."""
    return tuple(dict.fromkeys(min(LARGEST_SCALE, float(f"{factor * scale:.2g}")) for scale in scales))
