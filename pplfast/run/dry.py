"""`pplfast run --dry-run`: what a run would do, found by the checks that it begins with."""

import shutil
from pathlib import Path

from pplfast.data.check import unseen_classes
from pplfast.data.dataset import Dataset
from pplfast.data.sampling import steps_per_epoch
from pplfast.recipe import OptimConfig
from pplfast.run.chain import open_sets
from pplfast.run.config import RunConfig
from pplfast.run.facts import few_steps
from pplfast.run.variant import step_names
from pplfast.train.schedules import stage_iterations


def dry_run(config: RunConfig) -> list[str]:
    """Lines that say what `run(config)` would do. Writes nothing, and raises what `run` raises before its first step.

    Images are not opened, so the steps are counted as if none had to be left out.
    """
    train_set, val_set, test_set = open_sets(config)
    names = step_names(config, train_set, val_set, test_set)
    recipe = config.recipe
    lines = [
        f"recipe {recipe.name}, seed {recipe.seed}, classes {', '.join(train_set.classes.names)}",
        f"trained on {train_set.name}: {len(train_set)} images",
        f"labelled: {_described(val_set)}",
    ]
    if "predictions" in names:
        lines.append(f"segmentation tested on {_described(test_set)}")
    # of one stage for plain and explicit, whose epochs are those of all stages
    stages = [_steps(stage.epochs, train_set, recipe.optim) for stage in recipe.stages]
    whole = _steps(recipe.epochs, train_set, recipe.optim)
    for variant in config.variants:
        counts = " + ".join(map(str, stages)) if variant == "ppl" else str(whole)
        lines.append(f"{variant}: {', '.join(names)}; optimizer steps of the classifier: {counts}")
    for name, part in (("boundary", recipe.affinity), ("segmentation", recipe.segmentation)):
        if name in names:
            steps = _steps(part.epochs, train_set, part.optim)
            lines.append(f"optimizer steps of the {name} network: {steps}, for each variant")
    if few := few_steps(recipe, len(train_set)):
        lines.append(few)
    if unseen := unseen_classes(train_set):
        lines.append(unseen)
    lines.append(f"into {config.out}, where {_free(config.out) / 2**30:.0f} GiB are free; nothing has been written")
    return lines


def _steps(epochs: float, dataset: Dataset, optim: OptimConfig) -> int:
    return stage_iterations(epochs, steps_per_epoch(len(dataset), optim.batch))


def _described(dataset: Dataset) -> str:
    masks = sum(mask is not None for mask in dataset.masks)
    return f"{dataset.name}: {len(dataset)} images, {f'{masks} with' if masks else 'no'} true masks" + (
        "" if masks else ": nothing is scored"
    )


def _free(folder: Path) -> int:
    """Bytes that are free where the folder is or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.resolve().parents) if path.is_dir())).free
