"""`pplfast cam`: class activation maps of a trained classifier."""

import argparse

from pplfast.data.dataset import Dataset
from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError
from pplfast.recipe import CamConfig


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    parser.add_argument("--model", required=True, metavar="PATH",
                        help="the train folder of a run, or its classifier.safetensors")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.npz; those there are kept")
    add_cam_arguments(parser)
    parser.add_argument("--npy", action="store_true",
                        help="also write <id>.npy, the dict (keys, cam, high_res) that follow-up code reads")


def run(args: argparse.Namespace) -> int:
    config = cam_config(args)
    dataset = dataset_from_arguments(args)

    import torch  # after the arguments and the data set, so that their errors come at once

    from pplfast.labels.cam import generate_cams
    from pplfast.train import load_classifier

    check_classes(args.model, dataset)
    model = load_classifier(args.model).to("cuda" if torch.cuda.is_available() else "cpu")
    outcome = generate_cams(model, dataset, config, args.out, npy=args.npy)
    print(outcome.summary("CAMs", args.out))
    return outcome.exit_code


def add_cam_arguments(parser: argparse.ArgumentParser) -> None:
    """How the maps are made: the options of `cam_config`."""
    defaults = CamConfig()
    parser.add_argument("--scales", default=",".join(f"{scale:g}" for scale in defaults.scales), metavar="S,S",
                        help="image sizes relative to the original (default: %(default)s)")
    parser.add_argument("--no-flip", action="store_true", help="leave out the mirrored images")
    parser.add_argument("--batch", type=int, default=defaults.batch, metavar="N",
                        help="images of one shape at a time (default: %(default)s)")
    parser.add_argument("--precision", default=defaults.precision, choices=("auto", "fp32", "bf16"),
                        help="auto: bf16 where the device computes it natively, else fp32 (default: %(default)s)")


def cam_config(args: argparse.Namespace) -> CamConfig:
    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: must be 1 or more")
    return CamConfig(scales=parse_scales(args.scales), flip=not args.no_flip, batch=args.batch,
                     precision=args.precision)


def check_classes(model: str, dataset: Dataset) -> None:
    """UserError where the data set's classes are not those that the classifier was trained for."""
    from pplfast.train import read_info

    trained = read_info(model).class_names
    if trained != dataset.classes.names:
        raise UserError(f"{model}: was trained for the classes {', '.join(trained)}, not "
                        f"{', '.join(dataset.classes.names)}; give --classes as in training")


def parse_scales(text: str) -> tuple[float, ...]:
    """"0.5,1" -> (0.5, 1.0). Raises UserError for anything but numbers above 0."""
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale <= 8 for scale in scales):
        raise UserError(f"--scales {text}: must be numbers above 0 and at most 8, like 0.5,1,1.5")
    return scales
