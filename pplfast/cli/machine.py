"""--jobs, --threads and --memory, the same for every command that works through a list of images."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.errors import UserError
from pplfast.jobs import JobOptions, Outcome
from pplfast.pool import default_jobs
from pplfast.storage import is_remote

if TYPE_CHECKING:
    from pplfast.data.dataset import Dataset

LARGE_IMAGES = "large ones go in smaller batches and in tiles, and images for which it does not suffice are bad"


def add_jobs_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--jobs", type=int, metavar="N", help=f"processes {what} (default: one per core of a rank)")


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="CPU threads of the network and of decoding, each (default: the cores of a rank, a quarter of them for "
        "decoding)",
    )


def add_memory_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str) -> None:
    """what: becomes of the images for which it does not suffice."""
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help=f"of each rank, for what grows with the images (default: half of what is free): {what}",
    )


def check_machine_arguments(args: argparse.Namespace) -> None:
    """Raises UserError for numbers that mean nothing; those that are not given pass."""
    if (jobs := getattr(args, "jobs", None)) is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: must be 1 or more")
    if getattr(args, "threads", 0) < 0:
        raise UserError(f"--threads {args.threads}: must be 1 or more")
    if (memory := getattr(args, "memory", None)) is not None:
        from pplfast.jobs.memory import budget_bytes

        budget_bytes(memory)


def add_job_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """What every command has that works through a list of images, alone or on many ranks."""
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the checksums of the images and outputs that are there, not only sizes and times",
    )
    parser.add_argument(
        "--files",
        action="store_true",
        help="of a data set in shards: write a file for each image (default: a shard beside each of its shards)",
    )
    parser.add_argument("--fail-on-bad", action="store_true", help="end at the first bad image, with exit code 2")
    parser.add_argument(
        "--prometheus",
        metavar="FILE",
        help="keep progress in this text file, for a node exporter (default: none is written)",
    )


def writes_shards(args: argparse.Namespace, dataset: "Dataset") -> bool:
    """Whether the outputs are shards. UserError for files at a URL."""
    if dataset.shards is not None and not args.files:
        return True
    if is_remote(args.out):
        what = "--files writes files" if args.files else "outputs of a data set of single files are files"
        raise UserError(f"--out {args.out}: {what}, and these go into a folder on a disk; give one")
    return False


def job_options(args: argparse.Namespace, dataset: "Dataset") -> JobOptions:
    """Of those arguments; gives torch its threads, of --threads or this rank's share of the cores. Imports torch: check
    the other arguments first."""
    import torch

    from pplfast.jobs.run import share_threads

    share_threads()
    if args.threads:
        torch.set_num_threads(args.threads)
    return JobOptions(
        memory=getattr(args, "memory", None),
        jobs=getattr(args, "jobs", None),
        threads=args.threads or None,
        rotated=getattr(args, "rotated", True),
        verify=args.verify,
        strict=args.fail_on_bad,
        prometheus=Path(args.prometheus) if args.prometheus else None,
        local_rank=args.local_rank,
        shards=writes_shards(args, dataset),
    )


def say_outcome(outcome: Outcome, what: str, out: str) -> int:
    """Print what came of a job, on its first rank; the exit code."""
    if os.environ.get("RANK", "0") == "0" and not outcome.unfinished:
        print(outcome.summary(what, out))
    return outcome.exit_code


def jobs_from_arguments(args: argparse.Namespace) -> int:
    return default_jobs() if args.jobs is None else int(args.jobs)
