"""`pplfast cam`: class activation maps of a trained classifier."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from pplfast.cli.machine import (
    LARGE_IMAGES,
    add_job_arguments,
    add_memory_argument,
    add_threads_argument,
    check_machine_arguments,
    job_options,
    say_outcome,
)
from pplfast.cli.model import OF_NETWORK, dataset_of_model, find_model
from pplfast.cli.recorded import add_scale_arguments, say_settings, scale_changes, scales_text
from pplfast.data.options import add_data_arguments
from pplfast.errors import UserError
from pplfast.networks import CLASSIFIER
from pplfast.recipe import CamConfig


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser, classes=OF_NETWORK)
    parser.add_argument("--model", required=True, metavar="PATH", help=CLASSIFIER.help)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.npz; those there are kept")
    add_cam_arguments(parser)
    parser.add_argument(
        "--npy",
        action="store_true",
        help="also write <id>.npy, the dict (keys, cam, high_res) that follow-up code reads",
    )
    add_memory_argument(parser, LARGE_IMAGES)
    add_threads_argument(parser)
    add_job_arguments(parser)


def run(args: argparse.Namespace) -> int:
    changes = cam_changes(args)
    check_machine_arguments(args)
    folder = find_model(args.model, CLASSIFIER)
    dataset = dataset_of_model(args, folder, CLASSIFIER)

    # after the arguments and the data set, so that their errors come at once
    from pplfast.labels.cam import generate_cams
    from pplfast.train import load_classifier

    config = cam_config(folder, changes)
    say_settings(f"CAMs at {scales_text(config.scales, config.flip)}", bool(changes))
    outcome = generate_cams(load_classifier(folder), dataset, config, args.out, args.npy, job_options(args, dataset))
    return say_outcome(outcome, "CAMs", args.out)


def add_cam_arguments(parser: argparse._ActionsContainer) -> None:
    """How the maps are made: the options of `cam_changes`."""
    add_scale_arguments(parser, "cam")
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images of one shape at a time on a GPU (default: cam.batch of the network's recipe)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        help="auto: bf16 where the device computes it natively, else fp32 "
        "(default: cam.precision of the network's recipe)",
    )


def cam_changes(args: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_cam_arguments` say otherwise than the recipe. Needs no classifier yet."""
    changes = scale_changes(args)
    if args.batch is not None:
        if args.batch < 1:
            raise UserError(f"--batch {args.batch}: must be 1 or more")
        changes["batch"] = args.batch
    if args.precision is not None:
        changes["precision"] = args.precision
    return changes


def cam_config(model: Path, changes: dict[str, Any]) -> CamConfig:
    """As in the recipe that the classifier was trained by, but for the changes."""
    from pplfast.train.model_file import read_recorded

    recorded = read_recorded(model, "cam", CamConfig)
    return dataclasses.replace(recorded, **changes)
