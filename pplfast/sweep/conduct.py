"""A whole sweep: what is done is read, the rest is run, and after each run all results are written."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.files import check_inside
from pplfast.run.chain import data_settings, open_sets
from pplfast.run.config import shared_range, with_range
from pplfast.steps import TEST, VAL
from pplfast.sweep.figures import read_outcome
from pplfast.sweep.names import title
from pplfast.sweep.parts import Parts, with_parts
from pplfast.sweep.results import Results
from pplfast.sweep.runs import Process, Slot, SweepRun, is_done, start, work_through
from pplfast.train.check import check_recipe

Data = Callable[[SweepRun], dict[str, Any]]  # what the check of a run's data holds for: `data_settings`


def check_runs(runs: Sequence[SweepRun]) -> tuple[Data, dict[str, Dataset]]:
    """The data of each run, and the lists that are scored, by VAL and TEST. Raises UserError for what a run could not
    be trained with, and where nothing is scored."""
    tested = {run.config.recipe.segmentation.trained: run.config for run in runs}  # with a list to test on, or not
    tested = {has: with_range(config, shared_range(config)) for has, config in tested.items()}
    sets = {has: open_sets(config) for has, config in tested.items()}
    data = {has: data_settings(config, sets[has]) for has, config in tested.items()}
    every = sets[max(sets)]
    for run in {run.point: run for run in runs}.values():
        compiled = run.config.training.compile if run.config.training else ""
        check_recipe(run.config.recipe, run.config.variants, len(every[VAL].classes), 1, compiled)
    scored = {key: every[key] for key in (VAL, TEST) if any(every[key].masks)}
    if not scored:
        raise UserError(
            f"{every[VAL].name}: has no masks, so nothing can be compared; give a --val-list that has some, or --masks"
        )
    return lambda run: data[run.config.recipe.segmentation.trained], scored


def conduct(
    results: Results,
    runs: Sequence[SweepRun],
    slots: Sequence[Slot],
    data: Data,
    cams_only: bool,
    parts: Parts | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    begin: Callable[[SweepRun, Slot], Process] = start,
) -> dict[str, Any]:
    """What sweep.json holds in the end. The caller holds the folder.

    A run that fails is a line, and the others go on.
    """
    check_inside(results.out, [run.folder / "name" for run in runs])

    def add(run: SweepRun, failure: str = "") -> None:
        place = f"[{results.ended + 1}/{len(runs)}] {run}"
        try:
            if failure:
                raise UserError(failure)
            outcome = read_outcome(run, cams_only)
            results.outcomes[run.point.name][run.seed] = with_parts(run, outcome, parts, jobs) if parts else outcome
        except UserError as error:
            results.failed[run.point.name][run.seed] = str(error)
            say(f"{place}: failed: {error}")
        else:
            figures = (f"{title(name)} {one.miou:.2f}" for name, one in outcome.figures.items())
            say(f"{place}: {', '.join(figures)} ({outcome.seconds:.0f} s)")

    left = [run for run in runs if not is_done(run, data(run))]
    for run in runs:
        if run not in left:
            add(run)
    say(f"{len(runs)} runs, {len(runs) - len(left)} done before, {len(slots)} at a time")
    results.write()
    with closing(work_through(left, slots, say, begin)) as ended:
        for run, failure in ended:
            add(run, failure)
            results.write()
    return results.write()
