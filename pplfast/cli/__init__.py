"""The `pplfast` command: picks the subcommand, and turns errors that the user can mend into one line."""

import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import cast

from pplfast.cli.parser import CommandParser
from pplfast.errors import AGAIN, Terminated, UserError, explain_os_error, out_of_memory
from pplfast.version import __version__

# name -> one-line help. Each lives in pplfast.cli.<name> with configure(parser) and run(args) -> exit code; "-" in the
# name of a command is "_" in that of its module.
# Only the module of the chosen command is imported, so that --help answers at once.
COMMANDS = {
    "data": "make a demo data set, check one, or draw masks from COCO's files",
    "init": "a recipe that fits a data set, and the command to run",
    "recipes": "the recipes that come with pplfast, and what is in them",
    "run": "the whole chain: train, CAMs, CRF, labels, evaluation, report",
    "sweep": "many runs: settings that vary, several seeds, and their comparison",
    "train": "train a classifier: plain, progressive or explicit patch learning",
    "cam": "class activation maps (CAMs) of a trained classifier",
    "label": "label PNGs of a data set, from a classifier or from CAM files",
    "refine": "class boundaries, and the random walk of CAMs within them",
    "predict": "labels of new images, from the segmentation network of a run",
    "segment": "a segmentation network from label PNGs, and its labels",
    "eval": "scores: mIoU of CAMs (threshold sweep) or of label PNGs",
    "report": "one self-contained HTML file of a run",
    "export": "labels in the formats of other tools: COCO, YOLO, CVAT and others",
    "export-model": "a segmentation network as an ONNX or PyTorch file, with a model card",
    "submit": "the tar.gz for the PASCAL VOC evaluation server",
    "launch": "a command on several GPUs or hosts, started again after a failure",
    "bench": "throughput against the plain PyTorch reference",
    "doctor": "versions, devices, and the backend that each part uses",
}

# These skip what is there already. Training continues with --resume, from its last checkpoint if it has one.
CONTINUING = {
    f"pplfast {command}" for command in ("run", "sweep", "cam", "label", "predict", "refine walk", "segment test")
}
RESUMING = {f"pplfast {command}" for command in ("train", "refine train", "segment train")}


NOT_READ = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)  # of which it is not known what was tried


def build_parser(chosen: str | None = None) -> CommandParser:
    """The parser of the whole command line, or with the options of one command only, which is faster to make."""
    parser = CommandParser(prog="pplfast", description="Pixel labels from image labels.")
    parser.add_argument("--version", action="version", version=f"pplfast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if chosen is None or name == chosen:
            _module(name).configure(command)
    return parser


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"pplfast.cli.{command.replace('-', '_')}")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    local_rank = _take_local_rank(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes are to be shown in every locale
        sys.stdout.reconfigure(errors="backslashreplace")
    # When a rank is lost, the others' connections to it fail: libtorch would print pages of C++ frames about each.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    args = build_parser(next((word for word in arguments if not word.startswith("-")), "")).parse_args(arguments)
    args.local_rank, args.words = local_rank, arguments
    try:
        return cast(int, _module(args.command).run(args))
    except UserError as error:
        return _report(args.prog, str(error), error.exit_code)
    except BrokenPipeError:  # `pplfast recipes | head`: at the end the interpreter would complain once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _report(args.prog, "what reads the output, or a worker process, has ended", UserError.exit_code)
    except (MemoryError, RuntimeError, OSError) as error:
        if out_of_memory(error):
            return _report(args.prog, _no_memory(error), UserError.exit_code)
        if not isinstance(error, OSError):
            raise
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "this machine"
        return _report(args.prog, str(explain_os_error(error, name, error.errno in NOT_READ)), UserError.exit_code)
    except KeyboardInterrupt as error:
        hint = "; the same command continues" if args.prog in CONTINUING else ""
        hint = "; the same command with --resume continues" if args.prog in RESUMING else hint
        terminated = isinstance(error, Terminated)
        if os.environ.get("RANK", "0") == "0":  # the others are told at the same time
            print(f"\n{args.prog}: {'terminated' if terminated else 'interrupted'}{hint}", file=sys.stderr)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


def _report(prog: str, message: str, exit_code: int) -> int:
    if message.endswith(AGAIN):
        message += (
            ": it continues" if prog in CONTINUING else " with --resume: it continues" if prog in RESUMING else ""
        )
    print(f"{prog}: error: {message}", file=sys.stderr)
    return exit_code


def _no_memory(error: BaseException) -> str:
    """What is known of it, and what there is to do about it, in one line."""
    known = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        f"out of memory{f' ({known[:160]})' if known else ''}; give it more, or take smaller batches and images, a "
        "lower --memory or fewer --jobs, where the command has them"
    )


def _take_local_rank(arguments: list[str]) -> int | None:
    """Remove the `--local_rank=N` that the DeepSpeed launcher puts before the subcommand."""
    for index, word in enumerate(arguments):
        if word.startswith("--local_rank="):
            del arguments[index]
            return int(word.split("=", 1)[1])
        if not word.startswith("-"):
            break
    return None
