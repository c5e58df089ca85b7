"""What the commands that label with a segmentation network share: its options, and the network with their changes."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pplfast.cli.machine import (
    LARGE_IMAGES,
    add_job_arguments,
    add_jobs_argument,
    add_memory_argument,
    add_threads_argument,
    check_machine_arguments,
)
from pplfast.cli.recorded import add_scale_arguments, say_settings, scale_changes, scales_text
from pplfast.networks import SEGMENTATION
from pplfast.recipe import SegmentationConfig
from pplfast.recipe.crf_presets import NONE, PRESETS, check_crf

if TYPE_CHECKING:
    from pplfast.data.classes import ClassList
    from pplfast.models.segmentation import SegmentationNet


def add_segmenting_arguments(parser: argparse.ArgumentParser, jobs: str) -> None:
    """jobs: what the processes are of, for --jobs."""
    parser.add_argument("--model", required=True, metavar="PATH", help=SEGMENTATION.help)
    add_scale_arguments(parser, "segmentation")
    parser.add_argument(
        "--crf",
        metavar="CRF",
        help=f"preset of the dense CRF: {', '.join(PRESETS)}, {NONE} "
        "(default: segmentation.crf of the network's recipe)",
    )
    add_jobs_argument(parser, jobs)
    add_memory_argument(parser, LARGE_IMAGES)
    add_threads_argument(parser)
    add_job_arguments(parser)


def segmenting_changes(args: argparse.Namespace) -> dict[str, Any]:
    """What the options change of the network's recipe; raises UserError for values out of range, before any wait."""
    changes = scale_changes(args)
    if args.crf is not None:
        check_crf(args.crf)
        changes["crf"] = args.crf
    check_machine_arguments(args)
    return changes


def load_segmenting(folder: Path, changes: dict[str, Any]) -> "tuple[SegmentationNet, ClassList, SegmentationConfig]":
    """The network of a folder, and its recipe's settings with the changes, which are said."""
    from pplfast.train.network_file import read_settings
    from pplfast.train.segmentation import NAME, load_segmentation

    config = dataclasses.replace(read_settings(folder, NAME, SegmentationConfig), **changes)
    say_settings(f"{scales_text(config.scales, config.flip)}, CRF {config.crf}", bool(changes))
    return *load_segmentation(folder), config
