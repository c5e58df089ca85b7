"""Words and variables that a shell on another host reads: as they are, and nothing of them executed.

DeepSpeed joins its command line for pdsh without quoting (`deepspeed.launcher.multinode_runner`): a word with a space
and a variable with a special character get double quotes, in which $, ` and \\ still act; all else gets none. pdsh then
replaces %h, %n, %u and %%. What is made here is right once both have done so.
"""

import re
import shlex
from collections.abc import Mapping

from pplfast.errors import UserError

# What DeepSpeed passes on from its own environment: EXPORT_ENVS of its runner, and those of its accelerators here.
BY_DEEPSPEED = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
# DeepSpeed passes PYTHON* alone to other hosts; without these the ranks there would not find each other, or run
# differently.
BY_US = ("NCCL_", "GLOO_", "OMP_", "GOMP_", "MKL_", "TORCH_", "DS_ACCELERATOR")

PLAIN_PATH = re.compile(r"[A-Za-z0-9_@+=:,./-]+")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def remote_word(word: str) -> str:
    """An argument of the program for DeepSpeed's launcher. UserError for one that is no UTF-8 text."""
    _encode(f"argument {word!a}", word)
    if " " in word:  # DeepSpeed adds the quotes around it, and a \ before each " in it
        quoted = re.sub(r"([\\$`])", r"\\\1", word)
    else:
        quoted = shlex.quote(word)
    return quoted.replace("%", "%%")


def remote_variables(environ: Mapping[str, str], folder: str) -> str:
    """The lines of DeepSpeed's file of variables: all that it or we pass to other hosts, over what it would write.

    folder: the one that the command runs in, which DeepSpeed puts before PYTHONPATH. Raises UserError for a name that
    no shell can set, and for a value of several lines.
    """
    passed = {name: value for name, value in environ.items() if name.startswith((*BY_DEEPSPEED, *BY_US))}
    if "PYTHONPATH" in passed:
        passed["PYTHONPATH"] = f"{folder}:{passed['PYTHONPATH']}"
    lines = []
    for name, value in passed.items():
        shown = f"the environment variable {name!a}"
        if not NAME.fullmatch(name):
            raise UserError(f"{shown}: has a name that cannot be set on other hosts; unset it")
        if "\n" in value or "\r" in value:
            raise UserError(f"{shown}: has a value of several lines, which cannot be passed to other hosts; unset it")
        _encode(shown, value)
        quoted = re.sub(r'([\\"$`])', r"\\\1", value).replace("%", "%%")
        lines.append(f"{name}={quoted}\n")
    return "".join(lines)


def check_path(what: str, path: str) -> None:
    """Of a path that DeepSpeed writes into a command line as it is."""
    if not PLAIN_PATH.fullmatch(path):
        raise UserError(
            f"{what} {path!a}: has characters that a shell on the other hosts would read; use a path of letters, "
            f"digits and _@+=:,./-"
        )


def _encode(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what}: is not UTF-8 text and cannot be passed to other hosts") from None
