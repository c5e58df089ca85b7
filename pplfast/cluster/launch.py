"""A `pplfast` command on every rank through DeepSpeed's launcher, started again on the hosts that are left."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pplfast.cluster.hosts import SSH_OPTIONS, Host, answering, check_address, first_address, read_hostfile
from pplfast.cluster.shell import check_path, remote_variables, remote_word
from pplfast.errors import UserError

PROGRAM = ("--module", "pplfast")
# Of the launcher's own lines only errors: the others say, around each message of ours, what it sets, starts and kills.
QUIET = "--quiet"
EXIT_LOST, EXIT_INTERRUPTED = 75, 130  # of a command that lost a rank, as its own ranks say it; by the user
NOT_WORTH_A_RESTART = (2, 3, EXIT_INTERRUPTED)  # 2: to be mended first; 3: finished, but for bad images


@dataclass(frozen=True)
class LaunchOptions:
    hostfile: str | None = None  # None: this machine alone
    ranks: int = 0  # of this machine, without a host file; 0: one per GPU
    restarts: int = 0
    master_addr: str | None = None  # of the first host, where `hostname -I` there says it wrongly


def launch(command: Sequence[str], options: LaunchOptions, say: Callable[[str], None]) -> int:
    """Run `pplfast *command` on all ranks and give its exit code. After a failure it is started again, training with
    --resume, at most `options.restarts` times, on the hosts that answer then; 75 if a rank or a host was lost in the
    last attempt. Raises UserError if none answers, and for what cannot be passed to them."""
    if options.master_addr is not None:
        check_address("--master-addr", options.master_addr)
    hosts = read_hostfile(options.hostfile) if options.hostfile else None
    for attempt in range(options.restarts + 1):
        alive = _check(hosts, options, say) if hosts else None
        resume = ["--resume"] if attempt and "train" in command[:2] and "--resume" not in command else []
        start = _on_hosts(alive, options) if alive else _here(options)
        with start as (launcher, environment):
            words = [*command, *resume]
            ended = _wait([*launcher, *PROGRAM, *(map(remote_word, words) if alive else words)], environment)
        code, killed = exit_code(ended)
        if code == 0 or code in NOT_WORTH_A_RESTART:
            return code
        left = options.restarts - attempt
        say(
            f"attempt {attempt + 1} ended with exit code {code}{f' ({killed})' if killed else ''}; "
            + (
                f"starting again from the last checkpoint, {left} restart{'s' if left > 1 else ''} left"
                if left
                else "no restart left"
                if options.restarts
                else "--restarts N would start it again"
            )
        )
    return code


def _check(hosts: list[Host], options: LaunchOptions, say: Callable[[str], None]) -> list[Host]:
    alive = answering(hosts)
    missing = [host.name for host in hosts if host not in alive]
    if not alive:
        raise UserError(
            f"{options.hostfile}: none of its {len(hosts)} hosts answers; try `ssh {hosts[0].name} true`, "
            f"which must work without a password"
        )
    if missing:
        say(f"{', '.join(missing)}: no answer by ssh; going on with {', '.join(host.name for host in alive)}")
    return alive


def exit_code(ended: int) -> tuple[int, str]:
    """What a command under DeepSpeed's launcher ended with, as an exit code of ours, and what was killed.

    A rank that was killed by signal N ends its launcher with 256 - N, a launcher that was killed there with 128 + N by
    way of a shell, one that was killed here with -N. The ranks themselves end with 128 + SIGTERM for who ended them
    all. 255 is ssh's own: no connection.
    """
    if ended == 255:
        return EXIT_LOST, "the connection to a host was lost, or a rank was killed by SIGHUP"
    if ended in (EXIT_INTERRUPTED, 128 + signal.SIGTERM) or 0 <= ended <= 128:
        return ended, ""
    number = -ended if ended < 0 else 256 - ended if ended > 192 else ended - 128
    if number == signal.SIGINT:
        return EXIT_INTERRUPTED, ""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return EXIT_LOST, f"{'its launcher' if ended < 0 else 'a rank or its launcher'} was killed by {name}"


def _wait(command: list[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the launcher has been interrupted as well, and ends its ranks
        process.wait()
        return EXIT_INTERRUPTED


Start = tuple[list[str], dict[str, str]]  # a launcher's command line, up to the program, and its environment


@contextmanager
def _here(options: LaunchOptions) -> Iterator[Start]:
    """The part of DeepSpeed's launcher that starts the ranks of one machine. The other part would look for hosts to
    start in /job/hostfile, and give exit code 0 if this one is killed."""
    devices = _devices(options.ranks)
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
    launcher = [sys.executable, "-u", "-m", "deepspeed.launcher.launch", f"--world_info={world}", QUIET]
    yield [*launcher, "--master_addr=127.0.0.1", f"--master_port={_free_port()}"], dict(os.environ)


def _devices(ranks: int) -> list[str] | list[int]:
    """What each rank gets as its CUDA_VISIBLE_DEVICES: of those that are visible here. ranks 0: one per GPU."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    visible = [name.strip() for name in names if name.strip() not in ("", "-1")]
    if not ranks:
        import torch  # slow, and not wanted where the ranks are counted

        ranks = max(1, torch.cuda.device_count())
    if visible and ranks > len(visible):
        raise UserError(f"--ranks {ranks}: CUDA_VISIBLE_DEVICES names {len(visible)} of this machine; name as many")
    return visible[:ranks] or list(range(ranks))


@contextmanager
def _on_hosts(hosts: list[Host], options: LaunchOptions) -> Iterator[Start]:
    """DeepSpeed's launcher for several hosts, with the host file of this attempt and the variables for the hosts."""
    if not shutil.which("pdsh"):
        raise UserError(
            "pdsh: not installed; install it on the machine that launches, or start each host by hand "
            "(launch/README.md)"
        )
    check_path("the folder you are in,", os.getcwd())
    check_path("the Python that runs this,", sys.executable)
    lines = remote_variables(os.environ, os.getcwd())
    # Of one host: no other needs to reach it.
    address = hosts[0].address if len(hosts) == 1 else options.master_addr or first_address(hosts[0])
    with tempfile.TemporaryDirectory(prefix="pplfast-launch-") as folder:
        variables, hostfile = Path(folder) / "environment", Path(folder) / "hostfile"
        variables.write_text(lines, encoding="utf-8")
        hostfile.write_text("".join(f"{host}\n" for host in hosts), encoding="utf-8")
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", QUIET, "--hostfile", str(hostfile)]
        # A fresh port: ranks of the attempt before may still hold theirs. The hosts have just been asked.
        launcher += ["--force_multi", "--no_ssh_check", "--master_addr", address, "--master_port", str(_free_port())]
        environment = dict(os.environ, DS_ENV_FILE=str(variables))
        environment["PDSH_SSH_ARGS_APPEND"] = " ".join(
            [*SSH_OPTIONS, os.environ.get("PDSH_SSH_ARGS_APPEND", "")]
        ).strip()
        yield launcher, environment


def _free_port() -> int:
    """Free here, where the first rank usually runs, and unlikely to be taken elsewhere."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
