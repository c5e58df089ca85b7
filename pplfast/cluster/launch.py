"""A `pplfast` command on every rank through DeepSpeed's launcher, started again on the hosts that are left."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pplfast.cluster.hosts import SSH_OPTIONS, Host, answering, read_hostfile
from pplfast.errors import UserError

# DeepSpeed passes PYTHON* alone to other hosts; without these the ranks there would not find each other, or run
# differently.
PASSED_ON = ("NCCL_", "GLOO_", "OMP_", "MKL_", "TORCH_", "DS_ACCELERATOR")
PROGRAM = ("--module", "pplfast")
# Of the launcher's own lines only errors: the others say, around each message of ours, what it sets, starts and kills.
QUIET = "--quiet"
NOT_WORTH_A_RESTART = (2, 3, 130)  # to be mended first; finished, but for bad images; interrupted by the user


@dataclass(frozen=True)
class LaunchOptions:
    hostfile: str | None = None  # None: this machine alone
    ranks: int = 0  # of this machine, without a host file; 0: one per GPU
    restarts: int = 0
    master_addr: str | None = None  # of the first host, where `hostname -I` there says it wrongly


def launch(command: Sequence[str], options: LaunchOptions, say: Callable[[str], None]) -> int:
    """Run `pplfast *command` on all ranks and give its exit code. After a failure it is started again, training with
    --resume, at most `options.restarts` times, on the hosts that answer then. Raises UserError if none does."""
    hosts = read_hostfile(options.hostfile) if options.hostfile else None
    for attempt in range(options.restarts + 1):
        alive = _check(hosts, options, say) if hosts else None
        resume = ["--resume"] if attempt and "train" in command[:2] and "--resume" not in command else []
        with _files(alive) as (hostfile, variables):
            code = _run([*command, *resume], options, alive, hostfile, variables)
        if code == 0 or code in NOT_WORTH_A_RESTART:
            return code
        left = options.restarts - attempt
        say(
            f"attempt {attempt + 1} ended with exit code {code}; "
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


def _run(command: list[str], options: LaunchOptions, hosts: list[Host] | None, hostfile: Path, variables: Path) -> int:
    launcher = Path(sys.executable).with_name("deepspeed")
    port = ["--master_port", str(_free_port())]  # a fresh one: ranks of the attempt before may still hold theirs
    if hosts:
        if not shutil.which("pdsh"):
            raise UserError(
                "pdsh: not installed; install it on the machine that launches, or start each host by hand "
                "(launch/README.md)"
            )
        where = ["--hostfile", str(hostfile), "--force_multi"]
        address = options.master_addr if len(hosts) > 1 else hosts[0].name  # no other host needs to reach it
        where += ["--master_addr", address] if address else []
    else:
        where = ["--num_accelerators", str(options.ranks)] if options.ranks else []
    environment = dict(os.environ, DS_ENV_FILE=str(variables))
    environment["PDSH_SSH_ARGS_APPEND"] = " ".join([*SSH_OPTIONS, os.environ.get("PDSH_SSH_ARGS_APPEND", "")]).strip()
    process = subprocess.Popen(
        [sys.executable, str(launcher), QUIET, *where, *port, *PROGRAM, *command], env=environment
    )
    try:
        return process.wait()
    except KeyboardInterrupt:  # the launcher has been interrupted as well, and ends its ranks
        process.wait()
        return 130


@contextmanager
def _files(hosts: list[Host] | None) -> Iterator[tuple[Path, Path]]:
    """The host file of this attempt (None: this machine) and the variables for the other hosts."""
    with tempfile.TemporaryDirectory(prefix="pplfast-launch-") as folder:
        variables, hostfile = Path(folder) / "environment", Path(folder) / "hostfile"
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) and "\n" not in value}
        variables.write_text("".join(f"{name}={value}\n" for name, value in passed.items()), encoding="utf-8")
        hostfile.write_text("".join(f"{host}\n" for host in hosts or []), encoding="utf-8")
        yield hostfile, variables


def _free_port() -> int:
    """Free here, where the first rank usually runs, and unlikely to be taken elsewhere."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
