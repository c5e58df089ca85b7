"""`pplfast train`: a classifier from a recipe and a data set, alone or under the `deepspeed` launcher."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError, did_you_mean
from pplfast.recipe import Recipe, load_recipe, preset_names, recipe_from_dict, recipe_to_dict
from pplfast.steps import VARIANTS

if TYPE_CHECKING:
    from pplfast.train import TrainOptions, TrainResult

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
MOST = 1e9  # of a number whose upper end is of no use
LOGGERS = ("jsonl", "tensorboard", "wandb", "mlflow")


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    add_recipe_arguments(parser)
    parser.add_argument(
        "--variant",
        default="ppl",
        choices=VARIANTS,
        help="plain: no patches; ppl: the recipe's stages one after the other; explicit: all positions "
        "at once (default: %(default)s)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out at its last checkpoint")
    add_deepspeed_argument(parser)
    add_training_arguments(parser)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help=f"a recipe file (TOML), or one of: {', '.join(preset_names())}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting of the recipe, like optim.lr=0.02 or stages.0.epochs=2; repeatable",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the recipe's seed")


def add_deepspeed_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--deepspeed",
        metavar="FILE.json",
        help="a DeepSpeed configuration: its ZeRO stage and precision replace the recipe's, what it "
        "says of speed is used as it stands (launch/ has some)",
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="per rank (default: the cores divided by the ranks of this machine)",
    )
    parser.add_argument(
        "--cache-mb",
        type=float,
        default=4096,
        metavar="MB",
        help="memory for decoded images, per rank (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=300,
        metavar="SECONDS",
        help="of training between two checkpoints; the end of a stage writes one as well (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="N",
        help="optimizer steps between two checkpoints, at most (default: as many as are done in --checkpoint-seconds)",
    )
    parser.add_argument(
        "--keep",
        type=int,
        default=3,
        metavar="N",
        help="how many of the latest checkpoints stay; those that end a stage stay as well (default: %(default)s)",
    )
    parser.add_argument(
        "--lost-after",
        type=float,
        default=60,
        metavar="SECONDS",
        help="with several ranks: end the run everywhere, within so long, once a rank gives no sign of "
        "life (default: %(default)s)",
    )
    parser.add_argument(
        "--stuck-after",
        type=float,
        default=900,
        metavar="SECONDS",
        help="with several ranks: the same once one makes no progress; longer than the longest step, "
        "checkpoint or start (default: %(default)s)",
    )
    parser.add_argument("--log-every", type=int, default=10, metavar="N", help="optimizer steps (default: %(default)s)")
    parser.add_argument(
        "--logger",
        default="jsonl,tensorboard",
        metavar="NAME,NAME",
        help=f"where the figures of training go: {', '.join(LOGGERS)}, or an own package.module:Class; log.jsonl is "
        "written in any case (default: %(default)s)",
    )
    parser.add_argument(
        "--profile",
        type=int,
        metavar="N",
        help="trace N optimizer steps behind the first few by torch.profiler, into profile/ of the training's folder",
    )
    parser.add_argument(
        "--compile",
        nargs="?",
        const="default",
        default="",
        choices=COMPILE_MODES,
        metavar="MODE",
        help="the network by torch.compile, in this mode: "
        f"{', '.join(COMPILE_MODES)} (without MODE: {COMPILE_MODES[0]})",
    )


def run(args: argparse.Namespace) -> int:
    check_training_arguments(args)
    recipe = recipe_from_arguments(args)
    dataset = dataset_from_arguments(args, args.out)

    recipe, extra = deepspeed_from_arguments(args, recipe)

    from pplfast.train import train  # after the arguments, so that their errors come at once

    options = dataclasses.replace(options_from_arguments(args), deepspeed=extra)
    return report(lambda: train(recipe, dataset, args.out, resume=args.resume, variant=args.variant, options=options))


def report(train: "Callable[[], TrainResult]") -> int:
    """Run it, and say on rank 0 what came of it. The exit code."""
    from pplfast.cluster.ranks import OtherRankError, stop_ranks

    try:
        result = train()
    except OtherRankError:
        return 2  # another rank prints the message
    finally:
        stop_ranks()
    if os.environ.get("RANK", "0") == "0":
        done = "was finished before" if result.already_finished else "finished"
        print(
            f"{result.folder}: {done}: {result.steps} steps, {result.seconds:.1f} s, loss {result.loss:.4f}",
            file=sys.stderr,
        )
    return 0


def deepspeed_from_arguments(args: argparse.Namespace, recipe: Recipe, part: str = "") -> tuple[Recipe, dict[str, Any]]:
    """The recipe and the engine's further settings as the file of --deepspeed has them; part: see
    `apply_deepspeed_file`."""
    if not args.deepspeed:
        return recipe, {}
    from pplfast.train.deepspeed_file import apply_deepspeed_file

    return apply_deepspeed_file(recipe, args.deepspeed, part)


def check_training_arguments(args: argparse.Namespace) -> None:
    for name in ("checkpoint_every", "keep", "log_every", "profile"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    for name in ("threads", "cache_mb"):
        if not 0 <= getattr(args, name) < MOST:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be 0 or more, below {MOST:g}")
    for name in ("checkpoint_seconds", "lost_after", "stuck_after"):
        if not 0 < getattr(args, name) < MOST:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0 seconds, below {MOST:g}"
            )
    for name in _logger_names(args):
        if name not in LOGGERS and ":" not in name:
            raise UserError(f"--logger {name}: choose from {', '.join(LOGGERS)}{did_you_mean(name, LOGGERS)}")


def _logger_names(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(args.logger.split(","))


def options_from_arguments(args: argparse.Namespace) -> "TrainOptions":
    """Imports torch: check the other arguments first."""
    from pplfast.train import TrainOptions

    return TrainOptions(
        threads=args.threads,
        cache_mb=args.cache_mb,
        checkpoint_seconds=args.checkpoint_seconds,
        checkpoint_every=args.checkpoint_every,
        keep=args.keep,
        log_every=args.log_every,
        loggers=_logger_names(args),
        profile=args.profile or 0,
        compile=args.compile,
        lost_after=args.lost_after,
        stuck_after=args.stuck_after,
        local_rank=args.local_rank,
    )


def recipe_from_arguments(args: argparse.Namespace) -> Recipe:
    """The recipe of `add_recipe_arguments`, with its changes applied and checked."""
    recipe = load_recipe(args.recipe, args.overrides)
    if args.seed is None:
        return recipe
    return recipe_from_dict(recipe_to_dict(recipe) | {"seed": args.seed}, "--seed")
