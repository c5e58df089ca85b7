"""--jobs, --threads and --memory, the same for every command that works through a list of images."""

import argparse

from pplfast.errors import UserError
from pplfast.labels.pool import default_jobs

MEMORY = 8.0  # GiB, the `memory` of the functions that make CAMs and labels, where none is given
LARGE_IMAGES = "batches of large ones get smaller, and images for which it does not suffice are bad"
DECODING = 2  # the `threads` of the functions that make CAMs and labels, where none are given


def add_jobs_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--jobs", type=int, metavar="N", help=f"processes {what} (default: one per core)")


def add_threads_argument(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str = f"one per core, {DECODING} for decoding"
) -> None:
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help=f"CPU threads of the network and of decoding, each (default: {default})",
    )


def add_memory_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str) -> None:
    """what: becomes of the images for which it does not suffice."""
    parser.add_argument(
        "--memory",
        type=float,
        default=MEMORY,
        metavar="GIB",
        help=f"for what grows with the images (default: %(default)s): {what}",
    )


def check_machine_arguments(args: argparse.Namespace) -> None:
    """Raises UserError for numbers that mean nothing; those that are not given pass."""
    if (jobs := getattr(args, "jobs", None)) is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: must be 1 or more")
    if getattr(args, "threads", 0) < 0:
        raise UserError(f"--threads {args.threads}: must be 1 or more")
    if (memory := getattr(args, "memory", None)) is not None:
        from pplfast.labels.memory import budget_bytes

        budget_bytes(memory)


def jobs_from_arguments(args: argparse.Namespace) -> int:
    return default_jobs() if args.jobs is None else int(args.jobs)


def use_threads(args: argparse.Namespace) -> int:
    """Give torch the threads of --threads, where it is given; returns those for decoding.

    Imports torch: check the other arguments first.
    """
    if not args.threads:
        return DECODING
    import torch

    torch.set_num_threads(args.threads)
    return int(args.threads)
