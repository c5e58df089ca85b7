"""The same run with several seeds: one folder each, and their mean."""

import dataclasses
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from pplfast.cluster.ranks import Ranks, on_main
from pplfast.files import check_inside, write_json
from pplfast.run.chain import hold_run, run
from pplfast.run.config import RunConfig
from pplfast.steps import SCORES


def run_seeds(config: RunConfig, seeds: Sequence[int], say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run `config` with each seed into `config.out/seed<N>`; returns what is written to `config.out/summary.json`.

    {"seeds": [...], "mean": {variant: {figure: mean}}, "runs": {"seed0": summary, ...}}, mIoU in percent.
    """
    with hold_run(config) as ranks:
        return _run_seeds(config, seeds, ranks, say)


def _run_seeds(config: RunConfig, seeds: Sequence[int], ranks: Ranks, say: Callable[[str], None]) -> dict[str, Any]:
    runs = {}
    on_main(ranks, lambda: check_inside(config.out, [config.out / f"seed{seed}" / "name" for seed in seeds]))
    for seed in seeds:
        if ranks.main:
            say(f"seed {seed}:")
        runs[f"seed{seed}"] = run(
            dataclasses.replace(
                config, out=config.out / f"seed{seed}", recipe=dataclasses.replace(config.recipe, seed=seed)
            ),
            say,
        )
    result = {"recipe": config.recipe.name, "seeds": list(seeds), "mean": _means(config.variants, runs), "runs": runs}
    on_main(ranks, lambda: write_json(config.out / "summary.json", result))
    return result


def _means(variants: Sequence[str], runs: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """None for a figure that has no value, which is so for all seeds alike: it depends on the masks only."""
    means: dict[str, dict[str, float | None]] = {}
    for variant in variants:
        first = next(iter(runs.values()))[variant]
        figures = [step.figure for step in SCORES.values() if step.figure in first]
        values = {figure: [summary[variant][figure] for summary in runs.values()] for figure in figures}
        means[variant] = {figure: None if None in some else round(fmean(some), 3) for figure, some in values.items()}
    return means
