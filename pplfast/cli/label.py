"""`pplfast label`: pseudo labels, from a classifier in one go (alone or on many ranks) or from CAM files."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.cli.cam import add_cam_arguments, cam_changes, cam_config
from pplfast.cli.machine import (
    MEMORY,
    add_jobs_argument,
    add_threads_argument,
    check_machine_arguments,
    jobs_from_arguments,
    use_threads,
)
from pplfast.cli.model import dataset_of_model, find_model
from pplfast.cli.parser import CommandParser
from pplfast.cli.recorded import say_settings, scales_text
from pplfast.data.options import OWN_CLASSES, RARE, add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError
from pplfast.labels import presets
from pplfast.networks import CLASSIFIER
from pplfast.recipe import LabelConfig

if TYPE_CHECKING:
    from pplfast.labels.stream.job import JobConfig

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
        "the threshold with the best CAM mIoU, for a list that has masks; with --model label.value of the network's "
        f"recipe, or {presets.DEFAULT_THRESHOLD:g} where that is 0)",
    )
    parser.add_argument(
        "--crf",
        metavar="CRF",
        help=f"preset of the dense CRF ({', '.join(presets.PRESETS)}, {presets.NONE}; default: with --model "
        f"label.crf of the network's recipe, with --cams {defaults.crf}); with --model also what computes it: "
        "pydensecrf (processes), device (with the network, exact too; the default on a GPU), or "
        "both words, device:labels",
    )
    add_jobs_argument(parser, "of the CRF, shared by a machine's ranks")
    parser.add_argument(
        "--memory",
        type=float,
        default=MEMORY,
        metavar="GIB",
        help="of each rank and its workers, for what grows with the images (default: %(default)s, "
        "enough for 12 megapixels of two classes): batches get smaller, the network works in "
        "tiles, and images for whose CRF it does not suffice are bad; with --cams of each image",
    )
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
        "--unsure",
        metavar="LOW,HIGH",
        help="two background thresholds instead of --value (usual: 0.05,0.30): what is neither a class "
        "at HIGH nor background at LOW becomes 255 (default: every pixel is decided)",
    )
    group.add_argument(
        "--rotated", action="store_true", help="label images that EXIF turns, as stored; without it they are bad"
    )
    group.add_argument("--fail-on-bad", action="store_true", help="end at the first bad image, with exit code 2")
    group.add_argument(
        "--verify", action="store_true", help="compare the checksums of the labels that are there, not only their sizes"
    )
    group.add_argument(
        "--prometheus",
        metavar="FILE",
        help="keep progress in this text file, for a node exporter (default: none is written)",
    )
    add_threads_argument(group, "the cores of a rank, a quarter of them for decoding")


def run(args: argparse.Namespace) -> int:
    engine, preset = parse_crf(args.crf)
    check_machine_arguments(args)
    if args.cams:
        return _from_cams(args, engine, preset)
    return _from_images(args, engine or presets.AUTO, preset)


def _from_cams(args: argparse.Namespace, engine: str, preset: str) -> int:
    from pplfast.evaluate import evaluate_cams
    from pplfast.labels.pseudo import generate_labels

    if engine == presets.DEVICE:
        raise UserError("--crf device: needs --model; from CAM files the CRF is pydensecrf's")
    jobs = jobs_from_arguments(args)
    dataset = dataset_from_arguments(args)
    kind, value = args.background or LabelConfig().background, args.value
    if value is None:
        if kind == "alpha":
            raise UserError(ALPHA_NEEDS_VALUE)
        if not any(dataset.masks):
            raise UserError(
                f"{dataset.name}: has no masks to find the best threshold on; give --value (usual: 0.15 to 0.30)"
            )
        value = evaluate_cams(args.cams, dataset, jobs=jobs).threshold
        print(f"threshold {value:g}: the best CAM mIoU on {dataset.name}")
    config = LabelConfig(background=kind, value=value, crf=preset or LabelConfig().crf)
    outcome = generate_labels(args.cams, dataset, config, args.out, jobs, args.memory)
    print(outcome.summary("labels", args.out))
    return outcome.exit_code


def _from_images(args: argparse.Namespace, engine: str, preset: str) -> int:
    changes = cam_changes(args)
    unsure = parse_unsure(args.unsure)
    if unsure is not None and args.value is not None:
        raise UserError("--value and --unsure exclude each other: the two thresholds of --unsure replace the one")
    folder = find_model(args.model, CLASSIFIER)
    dataset = dataset_of_model(args, folder, CLASSIFIER)

    from pplfast.labels.stream.job import JobConfig, check_config, label_dataset, share_threads
    from pplfast.train import load_classifier

    config = JobConfig(
        out=Path(args.out),
        cam=cam_config(folder, changes),
        label=label_config(args, folder, preset, unsure),
        engine=engine,
        outputs=tuple(dict.fromkeys(args.outputs.split(","))),
        unsure=unsure,
        memory=args.memory,
        jobs=args.jobs,
        threads=args.threads or None,
        shard_size=args.shard_size,
        rotated=args.rotated,
        verify=args.verify,
        strict=args.fail_on_bad,
        prometheus=Path(args.prometheus) if args.prometheus else None,
    )
    check_config(config)
    _say(config, bool(changes) or any(value is not None for value in (args.background, args.value, args.crf, unsure)))
    share_threads()
    use_threads(args)
    result = label_dataset(load_classifier(folder), dataset, config, args.local_rank)
    if os.environ.get("RANK", "0") == "0" and not result.unfinished:
        print(result.summary(config.out))
    return result.exit_code


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


def _say(config: "JobConfig", changed: bool) -> None:
    label, unsure = config.label, config.unsure
    background_text = f"{unsure[0]:g} and {unsure[1]:g}" if unsure else f"{label.background} {label.value:g}"
    say_settings(
        f"CAMs at {scales_text(config.cam.scales, config.cam.flip)}, background {background_text}, CRF {label.crf}",
        changed,
    )


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
