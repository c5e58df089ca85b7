"""What commands share that take their settings from the recipe by which a network was trained."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from pplfast.errors import UserError


def add_scale_arguments(parser: argparse._ActionsContainer, table: str) -> None:
    """table: of the recipe that has the defaults."""
    parser.add_argument(
        "--scales",
        metavar="S,S",
        help=f"image sizes relative to the original (default: {table}.scales of the network's recipe)",
    )
    parser.add_argument(
        "--no-flip",
        action="store_true",
        help=f"leave out the mirrored images (default: {table}.flip of the network's recipe)",
    )


def scale_changes(args: argparse.Namespace) -> dict[str, Any]:
    """What --scales and --no-flip say otherwise than the recipe."""
    changes: dict[str, Any] = {}
    if args.scales is not None:
        changes["scales"] = parse_scales(args.scales)
    if args.no_flip:
        changes["flip"] = False
    return changes


def parse_scales(text: str) -> tuple[float, ...]:
    """ "0.5,1" -> (0.5, 1.0). Raises UserError for anything but numbers above 0."""
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale <= 8 for scale in scales):
        raise UserError(f"--scales {text}: must be numbers above 0 and at most 8, like 0.5,1,1.5")
    return scales


def scales_text(scales: Sequence[float], flip: bool) -> str:
    return f"scales {', '.join(f'{scale:g}' for scale in scales)}{' with flips' if flip else ''}"


def say_settings(text: str, changed: bool) -> None:
    """On rank 0: settings that a command took from the recipe of a training, so that nobody has to guess them."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{text} (recipe of the training{', changed by options' if changed else ''})", file=sys.stderr)
