"""`pplfast run --dry-run`: what a run would do, found by the checks that it begins with."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pplfast.data.check import class_problems
from pplfast.data.dataset import Dataset
from pplfast.run.chain import open_sets
from pplfast.run.config import RunConfig, parts_of
from pplfast.run.facts import few_steps, training_steps
from pplfast.steps import TEST, TRAIN, VAL, steps_of


def dry_run(config: RunConfig, seeds: Sequence[int] | None = None) -> list[str]:
    """Lines that say what `run(config)` would do, or `run_seeds` with seeds. Writes nothing, and raises what they raise
    before the first step.

    Images are not opened, so the steps are counted as if none had to be left out.
    """
    recipe, sets = config.recipe, open_sets(config)
    train_set, val_set, test_set = sets[TRAIN], sets[VAL], sets[TEST]
    names = [step.name for step in steps_of(parts_of(recipe, sets))]
    seed = f"seed {recipe.seed}" if seeds is None else f"seeds {', '.join(map(str, seeds))}, one after the other"
    lines = [
        f"recipe {recipe.name}, {seed}, classes {', '.join(train_set.classes.names)}",
        f"trained on {train_set.name}: {len(train_set)} images",
        f"labelled: {_described(val_set)}",
    ]
    if "predictions" in names:
        lines.append(f"segmentation tested on {_described(test_set)}")
    # of one stage for plain and explicit, whose epochs are those of all stages
    stages = [training_steps(stage.epochs, len(train_set), recipe.optim) for stage in recipe.stages]
    whole = training_steps(recipe.epochs, len(train_set), recipe.optim)
    for variant in config.variants:
        counts = " + ".join(map(str, stages)) if variant == "ppl" else str(whole)
        lines.append(f"{variant}: {', '.join(names)}; optimizer steps of the classifier: {counts}")
    for name, part in (("boundary", recipe.affinity), ("segmentation", recipe.segmentation)):
        if name in names:
            steps = training_steps(part.epochs, len(train_set), part.optim)
            lines.append(f"optimizer steps of the {name} network: {steps}, for each variant")
    if few := few_steps(recipe, len(train_set)):
        lines.append(few)
    lines += [f"warning: {problem.message}" for problem in class_problems(train_set)]
    into = str(config.out) if seeds is None else f"{config.out}/seed<N> for each seed"
    lines.append(f"into {into}, where {_free(config.out) / 2**30:.0f} GiB are free; nothing has been written")
    return lines


def _described(dataset: Dataset) -> str:
    masks = sum(mask is not None for mask in dataset.masks)
    return f"{dataset.name}: {len(dataset)} images, {f'{masks} with' if masks else 'no'} true masks" + (
        "" if masks else ": nothing is scored"
    )


def _free(folder: Path) -> int:
    """Bytes that are free where the folder is or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.resolve().parents) if path.is_dir())).free
