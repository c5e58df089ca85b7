"""`pplfast label`: pseudo labels, from a classifier in one go (alone or on many ranks) or from CAM files."""

import argparse
import os
import sys
from pathlib import Path

from pplfast.cli.cam import add_cam_arguments, cam_config, check_classes
from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError
from pplfast.labels import background, crf
from pplfast.labels.pool import default_jobs
from pplfast.recipe import LabelConfig

ENGINES = ("pydensecrf", "device")


def configure(parser: argparse.ArgumentParser) -> None:
    defaults = LabelConfig()
    add_data_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="PATH",
                        help="the train folder of a run: images to labels in one go; also under a launcher "
                             "(deepspeed --module pplfast label ...). Start it again to continue")
    source.add_argument("--cams", metavar="DIR", help="folder of `pplfast cam`: labels from its maps")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.png; those there are kept")
    parser.add_argument("--background", default=defaults.background, choices=background.KINDS,
                        help="threshold: a constant; alpha: (1 - max of the CAMs)^alpha (default: %(default)s)")
    parser.add_argument("--value", type=float, metavar="X",
                        help="the threshold (usual: 0.15 to 0.30) or alpha (usual: 4, 24, 32); without it, with "
                             "--cams: the threshold with the best CAM mIoU, for a list that has masks; with --model: "
                             "the recipe's, else 0.25")
    parser.add_argument("--crf", default=defaults.crf, metavar="CRF",
                        help=f"preset of the dense CRF ({', '.join(crf.PRESETS)}, {crf.NONE}; default: %(default)s); "
                             "with --model also what computes it: pydensecrf (processes; the default), device (with "
                             "the network, exact too), or both words, device:labels")
    parser.add_argument("--jobs", type=int, metavar="N",
                        help=f"processes (default: one per core, here {default_jobs()}; shared by a machine's ranks)")
    _configure_model(parser.add_argument_group("with --model"))


def _configure_model(group: argparse._ArgumentGroup) -> None:
    add_cam_arguments(group)
    group.add_argument("--outputs", default="png", metavar="KIND,KIND",
                       help="png: VOC palette PNGs; npy: the CAM dicts of follow-up code; shards: WebDataset tars of "
                            ".jpg, .png, .json (default: %(default)s)")
    group.add_argument("--shard-size", type=int, default=1000, metavar="N",
                       help="images per tar (default: %(default)s)")
    group.add_argument("--unsure", metavar="LOW,HIGH",
                       help="two background thresholds instead of --value (usual: 0.05,0.30): what is neither a class "
                            "at HIGH nor background at LOW becomes 255")
    group.add_argument("--memory", type=float, default=8.0, metavar="GIB",
                       help="of each rank and its workers, for what grows with the images (default: %(default)s, "
                            "enough for 12 megapixels of two classes): batches get smaller, the network works in "
                            "tiles, and images for whose CRF it does not suffice are bad")
    group.add_argument("--rotated", action="store_true",
                       help="label images that EXIF turns, as stored; without it they are bad")
    group.add_argument("--fail-on-bad", action="store_true", help="end at the first bad image, with exit code 2")
    group.add_argument("--verify", action="store_true",
                       help="compare the checksums of the labels that are there, not only their sizes")
    group.add_argument("--prometheus", metavar="FILE", help="keep progress in this text file, for a node exporter")


def run(args: argparse.Namespace) -> int:
    engine, preset = parse_crf(args.crf)
    if args.cams:
        return _from_cams(args, engine, preset)
    return _from_images(args, engine or ENGINES[0], preset)


def _from_cams(args: argparse.Namespace, engine: str, preset: str) -> int:
    from pplfast.evaluate import evaluate_cams
    from pplfast.labels.pseudo import generate_labels

    if engine == "device":
        raise UserError("--crf device: needs --model; from CAM files the CRF is pydensecrf's")
    jobs = default_jobs() if args.jobs is None else args.jobs
    dataset = dataset_from_arguments(args)
    value = args.value
    if value is None:
        if args.background == "alpha":
            raise UserError("--background alpha needs --value; usual: 4, 24, 32")
        if not any(dataset.masks):
            raise UserError(f"{dataset.name}: has no masks to find the best threshold on; give --value (usual: 0.15 "
                            "to 0.30)")
        value = evaluate_cams(args.cams, dataset, jobs=jobs).threshold
        print(f"threshold {value:g}: the best CAM mIoU on {dataset.name}")
    config = LabelConfig(background=args.background, value=value, crf=preset)
    outcome = generate_labels(args.cams, dataset, config, args.out, jobs)
    print(outcome.summary("labels", args.out))
    return outcome.exit_code


def _from_images(args: argparse.Namespace, engine: str, preset: str) -> int:
    cam = cam_config(args)
    unsure = parse_unsure(args.unsure)
    dataset = dataset_from_arguments(args)
    check_classes(args.model, dataset)

    from pplfast.labels.stream.job import JobConfig, label_dataset, share_threads
    from pplfast.train import load_classifier

    config = JobConfig(
        out=Path(args.out), cam=cam, label=LabelConfig(args.background, _value(args, unsure), preset), engine=engine,
        outputs=tuple(dict.fromkeys(args.outputs.split(","))), unsure=unsure, memory=args.memory, jobs=args.jobs,
        shard_size=args.shard_size, rotated=args.rotated, verify=args.verify, strict=args.fail_on_bad,
        prometheus=Path(args.prometheus) if args.prometheus else None)
    share_threads()
    result = label_dataset(load_classifier(args.model), dataset, config, args.local_rank)
    if os.environ.get("RANK", "0") == "0" and not result.unfinished:
        print(result.summary(config.out))
    return result.exit_code


def _value(args: argparse.Namespace, unsure: tuple[float, float] | None) -> float:
    from pplfast.train import read_info

    if args.value is not None or unsure is not None:
        if args.value is not None and unsure is not None:
            raise UserError("--value and --unsure exclude each other: the two thresholds of --unsure replace the one")
        return args.value or 0.0
    if args.background == "alpha":
        raise UserError("--background alpha needs --value; usual: 4, 24, 32")
    value = read_info(args.model).recipe.get("label", {}).get("value") or background.DEFAULT_THRESHOLD
    if not args.local_rank:
        print(f"threshold {value:g}: give --value for another", file=sys.stderr)
    return value


def parse_crf(text: str) -> tuple[str, str]:
    """"labels" -> ("", "labels"); "device" -> ("device", the default preset); "device:labels" -> both."""
    engine, colon, preset = text.partition(":")
    if engine not in ENGINES:
        engine, preset = "", text
    elif not colon:
        preset = LabelConfig().crf
    crf.check_crf(preset)
    return engine, preset


def parse_unsure(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--unsure {text}: must be two thresholds, like 0.05,0.30") from None
    return low, high
