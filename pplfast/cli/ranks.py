"""How many ranks, and where: the same options for `pplfast launch` and `pplfast run`."""

import argparse

from pplfast.cluster.hosts import MOST_SLOTS, read_hostfile
from pplfast.cluster.launch import LaunchOptions
from pplfast.errors import UserError


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hostfile",
        metavar="FILE",
        help="lines like 'node-a slots=8'; started by ssh (default: this machine alone)",
    )
    parser.add_argument(
        "--ranks",
        type=int,
        default=0,
        metavar="N",
        help="ranks of this machine, without --hostfile (default: one per GPU)",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="start again so many times after a failure, on the hosts that answer; training continues "
        "from its last checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--master-addr", metavar="ADDRESS", help="of the first host (default: the first that `hostname -I` gives there)"
    )


def launch_options(args: argparse.Namespace) -> LaunchOptions:
    """Those of `add_launch_arguments`. Raises UserError for numbers and host files that mean nothing."""
    for name in ("ranks", "restarts"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)}: must be 0 or more")
    if args.ranks > MOST_SLOTS:
        raise UserError(f"--ranks {args.ranks}: must be {MOST_SLOTS} or less")
    if args.hostfile:
        read_hostfile(args.hostfile)  # what is wrong with it does not wait for the command's own options
    return LaunchOptions(args.hostfile, args.ranks, args.restarts, args.master_addr)
