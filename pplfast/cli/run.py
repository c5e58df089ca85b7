"""`pplfast run`: the whole chain."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from pplfast.data.options import add_data_arguments, config_from_arguments
from pplfast.errors import UserError
from pplfast.labels.background import check_background
from pplfast.labels.crf import check_crf
from pplfast.labels.pool import default_jobs
from pplfast.recipe import Recipe, load_recipe, preset_names, recipe_from_dict, recipe_to_dict


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = ("Train, CAMs, CRF, labels, evaluation, report. Steps that are done are skipped: after an "
                          "interruption the same command continues; after a change of settings it redoes what "
                          "depends on them.")
    add_data_arguments(parser, with_list=False)
    parser.add_argument("--train-list", metavar="NAME", help="list to train on (default: train; all of a plain folder)")
    parser.add_argument("--val-list", metavar="NAME",
                        help="list that gets CAMs and labels, scored where it has masks (default: val; all of a plain "
                             "folder)")
    parser.add_argument("--recipe", required=True, metavar="NAME|FILE",
                        help=f"a TOML file, or one of: {', '.join(preset_names())}")
    parser.add_argument("--variants", metavar="V,V",
                        help="of plain, ppl, explicit (default: those of the recipe)")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder of the run")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, metavar="N", help="default: the recipe's")
    seeds.add_argument("--seeds", metavar="N,N", help="run each of them, into RUN/seed<N>, and print their mean")
    parser.add_argument("--threshold", type=float, metavar="X",
                        help="background threshold (default: the recipe's; where that has none, the one with the best "
                             "CAM mIoU, or 0.25 without masks)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), metavar="N",
                        help="processes of the CRF (default: one per core, here %(default)s)")


def run(args: argparse.Namespace) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("`pplfast run` works in one process; under a launcher use `pplfast train`, then `pplfast cam`, "
                        "`label` and `eval`")
    recipe = _recipe(args)
    seeds = _seeds(args.seeds) if args.seeds is not None else None
    from pplfast.run import RunConfig, run, run_seeds, seeds_table, summary_table, with_default_lists

    train, val = with_default_lists(config_from_arguments(args), args.train_list, args.val_list)
    config = RunConfig(train, val, recipe, recipe.variants, Path(args.out), args.jobs,
                       command=shlex.join(["pplfast", *sys.argv[1:]]))
    if seeds is None:
        print(summary_table(run(config)))
        print(f"report: {config.out / 'report.html'}")
    else:
        print(seeds_table(run_seeds(config, seeds)))
        print(f"reports: {', '.join(str(config.out / f'seed{seed}' / 'report.html') for seed in seeds)}")
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with the options put in, and checked again."""
    table = recipe_to_dict(load_recipe(args.recipe))
    if args.variants is not None:
        table["variants"] = tuple(dict.fromkeys(word for word in args.variants.split(",") if word))
        if not table["variants"]:
            raise UserError("--variants is empty; choose from plain,ppl,explicit")
    if args.seed is not None:
        table["seed"] = args.seed
    if args.threshold is not None:
        check_background("threshold", args.threshold)
        table["label"] |= {"background": "threshold", "value": args.threshold}
    recipe = recipe_from_dict(table, args.recipe)
    check_crf(recipe.label.crf)
    if recipe.label.background != "threshold" or recipe.label.value:
        check_background(recipe.label.background, recipe.label.value)
    return recipe


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: must be whole numbers, like 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: the same seed twice")
    return seeds
