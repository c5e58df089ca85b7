"""`pplfast cam`: class activation maps of a trained classifier."""

import argparse
import dataclasses
from typing import Any

from pplfast.cli.recorded import say_settings, scale_changes, scales_text
from pplfast.data.dataset import Dataset
from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError
from pplfast.recipe import CamConfig, part_from_dict


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="the train folder of a run, or its classifier.safetensors"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.npz; those there are kept")
    add_cam_arguments(parser)
    parser.add_argument(
        "--npy",
        action="store_true",
        help="also write <id>.npy, the dict (keys, cam, high_res) that follow-up code reads",
    )


def run(args: argparse.Namespace) -> int:
    changes = cam_changes(args)
    dataset = dataset_from_arguments(args)

    import torch  # after the arguments and the data set, so that their errors come at once

    from pplfast.labels.cam import generate_cams
    from pplfast.train import load_classifier

    check_classes(args.model, dataset)
    config = cam_config(args.model, changes)
    say_settings(f"CAMs at {scales_text(config.scales, config.flip)}", bool(changes))
    model = load_classifier(args.model).to("cuda" if torch.cuda.is_available() else "cpu")
    outcome = generate_cams(model, dataset, config, args.out, npy=args.npy)
    print(outcome.summary("CAMs", args.out))
    return outcome.exit_code


def add_cam_arguments(parser: argparse._ActionsContainer) -> None:
    """How the maps are made: the options of `cam_changes`."""
    parser.add_argument(
        "--scales",
        metavar="S,S",
        help="image sizes relative to the original (default: those of the classifier's recipe)",
    )
    parser.add_argument("--no-flip", action="store_true", help="leave out the mirrored images")
    parser.add_argument("--batch", type=int, metavar="N", help="images of one shape at a time (default: the recipe's)")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        help="auto: bf16 where the device computes it natively, else fp32 (default: the recipe's)",
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


def cam_config(model: str, changes: dict[str, Any]) -> CamConfig:
    """As in the recipe that the classifier was trained by, but for the changes."""
    from pplfast.train import read_info

    return dataclasses.replace(part_from_dict(CamConfig, read_info(model).recipe.get("cam", {}), model), **changes)


def check_classes(model: str, dataset: Dataset) -> None:
    """UserError where the data set's classes are not those that the classifier was trained for."""
    from pplfast.train import read_info

    trained = read_info(model).class_names
    if trained != dataset.classes.names:
        raise UserError(
            f"{model}: was trained for the classes {', '.join(trained)}, not "
            f"{', '.join(dataset.classes.names)}; give --classes as in training"
        )
