"""`pplfast sweep`: runs with settings that vary and several seeds, compared."""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pplfast.cli.machine import LARGE_IMAGES, add_jobs_argument, add_memory_argument, check_machine_arguments
from pplfast.cli.parser import CommandParser
from pplfast.cli.recipes import FOR_FOLDERS, default_recipe
from pplfast.cli.run import (
    add_lists_arguments,
    check_run,
    ended_by_sigterm,
    parse_seeds,
    run_config,
)
from pplfast.cli.run import configure as configure_run
from pplfast.cli.train import add_training_arguments, check_training_arguments
from pplfast.data.folder import check_out_of_data
from pplfast.data.options import config_from_arguments
from pplfast.errors import UserError, did_you_mean
from pplfast.pool import default_jobs
from pplfast.recipe import Recipe, load_recipe
from pplfast.sweep.points import Point, make_points

if TYPE_CHECKING:
    from pplfast.data.dataset import Dataset
    from pplfast.run import RunConfig
    from pplfast.sweep.runs import SweepRun

SOME_FAILED = 3  # exit code
CAMS, ALL = "cam", "all"
CAMS_ONLY = ("label.crf=none", "affinity.epochs=0", "segmentation.epochs=0")  # setting epochs drops steps too
AFTER_CAMS = ("label", "affinity", "segmentation")  # tables of the recipe
Checked = tuple[argparse.Namespace, Recipe]


def configure(parser: CommandParser) -> None:
    parser.description = (
        "Runs with settings that vary and several seeds, each into OUT/<point>/seed<N>, and their means, standard "
        "errors and paired differences, in OUT/sweep.json, sweep.md and sweep.svg after every run. Runs that are done "
        "are skipped: the same command continues, also with more values, points or seeds."
    )
    _add_passed_arguments(parser)
    for option in ("--lost-after", "--stuck-after"):  # of several ranks
        parser.option(option).help = argparse.SUPPRESS
    parser.option("--threads").help = "of each run (default: the cores divided by --at-once)"
    parser.option("--memory").help = f"of each run, for what grows with the images (default: its share): {LARGE_IMAGES}"
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"a recipe file (TOML), or a preset (default: {FOR_FOLDERS} for a plain folder, none for a VOC layout)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting of the recipe for all points; repeatable",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=V,V",
        help="values of a setting, like optim.lr=0.005,0.01 or cam.scales=[1.0],[0.5,1.0]; repeatable: every "
        "combination is a point (default: none)",
    )
    parser.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="'NAME: K=V K=V'",
        help="settings that change together; variant=plain among them gives it that variant alone; repeatable: each is "
        "combined with --vary (default: the recipe as it is)",
    )
    parser.add_argument("--variants", metavar="V,V", help="of plain, ppl, explicit (default: those of the recipe)")
    parser.add_argument("--seeds", default="0-2", metavar="N,N", help="like 0,1,2 or 0-4 (default: %(default)s)")
    parser.add_argument(
        "--steps",
        choices=(CAMS, ALL),
        default=CAMS,
        help="cam: training, CAMs and their scores; all: whatever the recipe has, from the CAMs on that are there "
        "(default: %(default)s)",
    )
    parser.add_argument("--against", metavar="POINT", help="the others are compared with it (default: the first point)")
    parser.add_argument(
        "--choose-on",
        metavar="SHARE",
        help="choose each variant's best point, and the threshold of CAMs, by this share of the scored images, like "
        "0.5, or by those of a list, and report the others (default: no choice is made)",
    )
    parser.add_argument(
        "--by-size",
        action="store_true",
        help="report by class, and by thirds of the scored images by the size of their objects, as well",
    )
    parser.add_argument("--out", required=True, metavar="OUT", help="folder of the sweep, outside --data")
    parser.add_argument("--at-once", type=int, metavar="N", help="runs at a time (default: one per GPU, else 1)")
    parser.set_defaults(seed=None)


def _add_passed_arguments(parser: CommandParser) -> None:
    """What each run gets as the sweep has it."""
    add_lists_arguments(parser)
    add_jobs_argument(parser, "of the CRF of each run")
    add_memory_argument(parser, LARGE_IMAGES)
    add_training_arguments(parser)


def run(args: argparse.Namespace) -> int:
    seeds, points, checked = check_sweep(args)

    from pplfast.lock import hold_folder
    from pplfast.sweep.table import text

    runs = _runs(args, seeds, points, checked)
    with ended_by_sigterm(), hold_folder(args.out):
        value = _conduct(args, runs, points, seeds)
    print(f"\n{text(value)}\nwritten: {', '.join(str(Path(args.out, f'sweep.{s}')) for s in ('json', 'md', 'svg'))}")
    return SOME_FAILED if value["runs"]["failed"] else 0


def check_sweep(args: argparse.Namespace) -> tuple[list[int], list[Point], list[Checked]]:
    """Everything that is wrong with the options and with the settings of any point, found without torch; the seeds, the
    points, and of each what its run with the first seed is given."""
    check_training_arguments(args)
    check_machine_arguments(args)
    if args.at_once is not None and args.at_once < 1:
        raise UserError(f"--at-once {args.at_once}: must be 1 or more")
    if args.recipe is None:
        args.recipe = default_recipe(args.data)
        print(f"recipe {args.recipe}: the default for a plain folder; `pplfast recipes` lists others", flush=True)
    seeds = parse_seeds(args.seeds, None)
    check_out_of_data(Path(args.out), config_from_arguments(args))
    variants = load_recipe(args.recipe, args.overrides).variants
    if args.variants is not None:
        variants = tuple(dict.fromkeys(word for word in args.variants.split(",") if word))
    points = make_points(variants, args.point, args.vary)
    names = [point.name for point in points]
    if not points:
        raise UserError("--variants is empty; choose from plain,ppl,explicit")
    if args.against is not None and args.against not in names:
        near = did_you_mean(args.against, names)
        raise UserError(f"--against {args.against}: no such point{near} (points: {', '.join(names)})")
    if args.steps == CAMS:
        for setting in (setting for point in points for setting in point.settings):
            if setting.split("=")[0].split(".")[0] in AFTER_CAMS:
                raise UserError(f"{setting}: decides nothing up to the CAMs; give --steps {ALL}, or leave it out")
    parser = CommandParser(prog="pplfast run")
    configure_run(parser)
    parsed = [parser.parse_args(_words(args, point, seeds[0])[1:]) for point in points]
    return seeds, points, [(one, check_run(one)[0]) for one in parsed]


def _words(args: argparse.Namespace, point: Point, seed: int) -> list[str]:
    """Of the `pplfast run` that does a point with a seed."""
    settings = [*args.overrides, *(CAMS_ONLY if args.steps == CAMS else ()), *point.settings]
    own = [f"--recipe={args.recipe}", *(f"--set={text}" for text in settings), f"--variants={point.variant}"]
    place = [f"--seed={seed}", f"--out={Path(args.out, point.name, f'seed{seed}')}", "--ranks=1"]
    return ["run", *_passed(args), *own, *place]


def _passed(args: argparse.Namespace) -> list[str]:
    """The options of `_add_passed_arguments` that were given."""
    parser = CommandParser(prog="pplfast run")
    _add_passed_arguments(parser)
    words = []
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if value != action.default:
            words.append(action.option_strings[0] + ("" if action.nargs == 0 else f"={value}"))
    return words


def _runs(
    args: argparse.Namespace, seeds: Sequence[int], points: Sequence[Point], checked: Sequence[Checked]
) -> "list[SweepRun]":
    """Seed after seed, so that all points have as many while it is unfinished. Imports torch."""
    from pplfast.sweep.runs import SweepRun

    configs = []
    for one, recipe in checked:
        one.words, one.local_rank = [], None
        configs.append(run_config(one, recipe))
    return [
        SweepRun(point, seed, _with_seed(config, Path(args.out), point, seed), tuple(_words(args, point, seed)))
        for seed in seeds
        for point, config in zip(points, configs, strict=True)
    ]


def _with_seed(config: "RunConfig", out: Path, point: Point, seed: int) -> "RunConfig":
    recipe = dataclasses.replace(config.recipe, seed=seed)
    return dataclasses.replace(config, recipe=recipe, out=out / point.name / f"seed{seed}")


def _conduct(
    args: argparse.Namespace, runs: "Sequence[SweepRun]", points: Sequence[Point], seeds: Sequence[int]
) -> dict[str, Any]:
    from pplfast.jobs.memory import budget_bytes
    from pplfast.sweep.conduct import check_runs, conduct
    from pplfast.sweep.parts import parts_of
    from pplfast.sweep.results import Results
    from pplfast.sweep.runs import make_slots, visible_gpus

    data, scored = check_runs(runs)
    parts = parts_of(args.choose_on, args.by_size, scored, runs[0].config.val)
    gpus = visible_gpus()
    at_once = args.at_once or len(gpus) or 1
    slots = make_slots(at_once, gpus, default_jobs(), budget_bytes(None, at_once) / 2**30)
    results = Results(Path(args.out), points, seeds, args.against or points[0].name, _about(args, scored, at_once))
    jobs = max(1, default_jobs() // at_once)
    return conduct(results, runs, slots, data, args.steps == CAMS, parts, jobs, partial(print, flush=True))


def _about(args: argparse.Namespace, scored: "dict[str, Dataset]", at_once: int) -> dict[str, Any]:
    """What was asked for, by which code."""
    from pplfast.benchmarks.results import commit

    texts = (f"{data.name}: {sum(map(bool, data.masks))} of {len(data)} images" for data in scored.values())
    return {
        "kind": "sweep",
        "command": shlex.join(["pplfast", *args.words]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "recipe": args.recipe,
        "set": args.overrides,
        "steps": args.steps,
        "choose_on": args.choose_on,
        "at_once": at_once,
        "scored": "scored on " + ", ".join(dict.fromkeys(texts)),
    }
