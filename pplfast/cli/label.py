"""`pplfast label`: pseudo labels, from a classifier in one go (alone or on many ranks) or from CAM files."""

import argparse
import dataclasses
import os
from pathlib import Path

from pplfast.cli.cam import add_cam_arguments, cam_changes, cam_config
from pplfast.cli.machine import (
    LARGE_IMAGES,
    add_job_arguments,
    add_jobs_argument,
    add_memory_argument,
    add_threads_argument,
    check_machine_arguments,
    job_options,
    jobs_from_arguments,
    say_outcome,
    writes_shards,
)
from pplfast.cli.model import dataset_of_model, find_model, take_range
from pplfast.cli.parser import CommandParser
from pplfast.cli.recorded import say_settings, scales_text
from pplfast.data.options import OWN_CLASSES, RARE, add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError
from pplfast.networks import CLASSIFIER
from pplfast.recipe import LabelConfig
from pplfast.recipe import crf_presets as presets
from pplfast.storage import join

ALPHA_NEEDS_VALUE = "--background alpha needs --value; usual: 4, 24, 32"


def configure(parser: CommandParser) -> None:
    defaults = LabelConfig()
    add_data_arguments(parser, shown=RARE, classes=f"with --model the network's; with --cams {OWN_CLASSES}")
    source = parser.group("input").add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model",
        metavar="PATH",
        help=f"{CLASSIFIER.help}; images to labels in one go, also by `pplfast launch`; the same command continues",
    )
    source.add_argument("--cams", metavar="DIR", help="folder of `pplfast cam`: labels from its maps")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.png; those there are kept")
    parser.add_argument(
        "--background",
        choices=presets.BACKGROUNDS,
        help="threshold: a constant; alpha: (1 - max of the CAMs)^alpha (default: with --model "
        f"label.background of the network's recipe, with --cams {defaults.background})",
    )
    parser.add_argument(
        "--value",
        type=float,
        metavar="X",
        help="the threshold (usual: 0.15 to 0.30) or alpha (usual: 4, 24, 32) (default: with --cams "
        "the threshold with the best CAM mIoU on a list that has masks, else one chosen from the maps; with --model "
        f"label.value of the network's recipe, or {presets.DEFAULT_THRESHOLD:g} where that is 0)",
    )
    parser.add_argument(
        "--crf",
        metavar="CRF",
        help=f"preset of the dense CRF ({', '.join(presets.PRESETS)}, {presets.NONE}; default: with --model "
        f"label.crf of the network's recipe, with --cams {defaults.crf}); also what computes it: "
        "pydensecrf (processes), device (exact too; the default on a GPU), or "
        "both words, device:labels",
    )
    add_jobs_argument(parser, "of the CRF, shared by a machine's ranks")
    parser.add_argument(
        "--unsure",
        metavar="LOW,HIGH",
        help="two background thresholds instead of --value (usual: 0.05,0.30): what is neither a class "
        "at HIGH nor background at LOW becomes 255 (default: every pixel is decided)",
    )
    add_memory_argument(parser, f"{LARGE_IMAGES}; 8 are enough for 12 megapixels of two classes with a CRF")
    add_threads_argument(parser)
    add_job_arguments(parser)
    _configure_model(parser.add_argument_group("with --model"))


def _configure_model(group: argparse._ArgumentGroup) -> None:
    add_cam_arguments(group)
    group.add_argument(
        "--outputs",
        default="png",
        metavar="KIND,KIND",
        help="png: VOC palette PNGs; npy: the CAM dicts of follow-up code; shards: WebDataset tars of "
        ".jpg, .png, .json (default: %(default)s)",
    )
    group.add_argument(
        "--shard-size", type=int, default=1000, metavar="N", help="images per tar (default: %(default)s)"
    )
    group.add_argument(
        "--rotated", action="store_true", help="label images that EXIF turns, as stored; without it they are bad"
    )


def run(args: argparse.Namespace) -> int:
    engine, preset = parse_crf(args.crf)
    check_machine_arguments(args)
    unsure = parse_unsure(args.unsure)
    if unsure is not None and args.value is not None:
        raise UserError("--value and --unsure exclude each other: the two thresholds of --unsure replace the one")
    make = _from_cams if args.cams else _from_images
    return make(args, engine or presets.AUTO, preset, unsure)


def _from_cams(args: argparse.Namespace, engine: str, preset: str, unsure: tuple[float, float] | None) -> int:
    from pplfast.evaluate import choose_threshold, evaluate_cams

    take_range(args, join(args.cams, "settings.json"))
    dataset = dataset_from_arguments(args, args.out)
    kind, value = args.background or LabelConfig().background, args.value
    if kind == "alpha" and value is None:
        raise UserError(ALPHA_NEEDS_VALUE)
    config = LabelConfig(background=kind, value=value or 0.0, crf=preset or LabelConfig().crf)
    if value is None and unsure is None:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError("--value: give it where several ranks work; one alone finds it")
        jobs = jobs_from_arguments(args)
        if any(mask is not None for mask in dataset.masks):
            value = evaluate_cams(args.cams, dataset, jobs=jobs).threshold
            print(f"threshold {value:g}: the best CAM mIoU on {dataset.name}")
        else:
            chosen = choose_threshold(args.cams, dataset, jobs)
            value = chosen.threshold
            print(chosen)
        config = LabelConfig(background=kind, value=value, crf=config.crf)
    from pplfast.labels.label import label_cams

    options = dataclasses.replace(job_options(args, dataset), rotated=True)  # the CAMs are of the images as stored
    outcome = label_cams(args.cams, dataset, config, args.out, unsure, engine, options)
    return say_outcome(outcome, "labels", args.out)


def _from_images(args: argparse.Namespace, engine: str, preset: str, unsure: tuple[float, float] | None) -> int:
    changes = cam_changes(args)
    folder = find_model(args.model, CLASSIFIER)
    dataset = dataset_of_model(args, folder, CLASSIFIER)

    from pplfast.labels.label import check_rule, label_dataset
    from pplfast.train import load_classifier

    cam, label = cam_config(folder, changes), label_config(args, folder, preset, unsure)
    outputs = tuple(dict.fromkeys(args.outputs.split(",")))
    check_rule(label, unsure, outputs)
    if "shards" in outputs and writes_shards(args, dataset):
        raise UserError("--outputs shards: those of a data set in shards are; leave it out, or add --files")
    changed = bool(changes) or any(value is not None for value in (args.background, args.value, args.crf, unsure))
    background = f"{unsure[0]:g} and {unsure[1]:g}" if unsure else f"{label.background} {label.value:g}"
    scales = scales_text(cam.scales, cam.flip)
    say_settings(f"CAMs at {scales}, background {background}, CRF {label.crf}", changed)
    model, options = load_classifier(folder), job_options(args, dataset)
    outcome = label_dataset(model, dataset, cam, label, args.out, unsure, outputs, engine, args.shard_size, options)
    return say_outcome(outcome, "labels", args.out)


def label_config(
    args: argparse.Namespace, folder: Path, preset: str, unsure: tuple[float, float] | None
) -> LabelConfig:
    """As in the recipe that the classifier was trained by, but for the options.

    preset: of the CRF, "" for the recipe's. With `unsure` the background's value has no meaning and is 0.
    """
    from pplfast.train.model_file import read_recorded

    recorded = read_recorded(folder, "label", LabelConfig)
    if unsure is not None:
        return LabelConfig("threshold", 0.0, preset or recorded.crf)
    kind = args.background or recorded.background
    return LabelConfig(kind, _value(args, kind, recorded), preset or recorded.crf)


def _value(args: argparse.Namespace, kind: str, recorded: LabelConfig) -> float:
    if args.value is not None:
        if args.background is None and kind == "alpha" and args.value < 1:
            raise UserError(
                f"--value {args.value:g}: the recipe's background is alpha, whose exponents are 1 or more; "
                "add --background threshold, if it is one"
            )
        return float(args.value)
    value = recorded.value if kind == recorded.background else 0.0
    if not value and kind == "alpha":
        raise UserError(ALPHA_NEEDS_VALUE)
    return value or presets.DEFAULT_THRESHOLD


def parse_crf(text: str | None) -> tuple[str, str]:
    """What computes it, and its preset: "labels" -> ("", "labels"); "device" -> ("device", ""); "device:labels"."""
    if text is None:
        return "", ""
    engine, colon, preset = text.partition(":")
    if engine not in presets.ENGINES:
        engine, preset = "", text
    elif not colon:
        return engine, ""
    presets.check_crf(preset)
    return engine, preset


def parse_unsure(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--unsure {text}: must be two thresholds, like 0.05,0.30") from None
    return low, high
