"""`pplfast launch`: a command on all GPUs of one machine or of several hosts, started again after a failure."""

import argparse
import sys

from pplfast.cluster.launch import LaunchOptions, launch
from pplfast.errors import UserError

COMMANDS = ("train", "label", "refine train", "segment train")  # those that share their work among ranks


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hostfile",
        metavar="FILE",
        help="lines like 'node-a slots=8'; started by pdsh over ssh (default: this machine alone)",
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
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="COMMAND ...",
        help=f"one of {', '.join(COMMANDS)}, and its options",
    )


def run(args: argparse.Namespace) -> int:
    if not any(" ".join(args.arguments[:words]) in COMMANDS for words in (1, 2)):
        raise UserError(f"name the command to run on all ranks, after the options of launch: {', '.join(COMMANDS)}")
    for name in ("ranks", "restarts"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)}: must be 0 or more")
    options = LaunchOptions(args.hostfile, args.ranks, args.restarts, args.master_addr)
    return launch(args.arguments, options, lambda text: print(f"pplfast launch: {text}", file=sys.stderr, flush=True))
