"""A whole sweep: what is done is read, the rest is run, and after each run all results are written."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from pplfast.errors import UserError
from pplfast.files import check_inside
from pplfast.sweep.figures import read_outcome
from pplfast.sweep.parts import Parts, with_parts
from pplfast.sweep.results import Results
from pplfast.sweep.runs import Process, Slot, SweepRun, is_done, start, work_through


def conduct(
    results: Results,
    runs: Sequence[SweepRun],
    slots: Sequence[Slot],
    data: Callable[[SweepRun], dict[str, Any]],
    cams_only: bool,
    parts: Parts | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    begin: Callable[[SweepRun, Slot], Process] = start,
) -> dict[str, Any]:
    """What sweep.json holds in the end. The caller holds the folder. data: of `data_settings`, for a run.

    A run that fails is a line, and the others go on.
    """
    check_inside(results.out, [run.folder / "name" for run in runs])

    def add(run: SweepRun, failure: str = "") -> None:
        try:
            if failure:
                raise UserError(failure)
            outcome = read_outcome(run, cams_only)
            outcome = with_parts(run, outcome, parts, jobs) if parts else outcome
        except UserError as error:
            results.failed[run.point.name][run.seed] = str(error)
            say(f"{run}: failed: {error}")
        else:
            results.outcomes[run.point.name][run.seed] = outcome
            shown = ", ".join(f"{name.removesuffix('_miou')} {one.miou:.2f}" for name, one in outcome.figures.items())
            say(f"{run}: {shown} ({outcome.seconds:.0f} s)")

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
