"""A `pplfast` command on every rank through DeepSpeed's launcher, started again on the hosts that are left."""

import base64
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from pplfast.cluster.hosts import SSH_OPTIONS, Host, answering, check_address, first_address, read_hostfile
from pplfast.errors import UserError

LEASH = ("-m", "pplfast.cluster.leash")
PROGRAM = ("--module", "pplfast")
# Of the launcher's own lines only errors: the others say, around each message of ours, what it sets, starts and kills.
QUIET = "--quiet"
EXIT_LOST = 75  # of a command that lost a rank, as its own ranks say it; that module imports torch
ENDED = {128 + number: number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}  # by exit code
# 2: to be mended first; 3: finished, but for bad images; ended by someone who does not want it again. The scripts in
# launch/ name the same.
NOT_WORTH_A_RESTART = (2, 3, *ENDED)
POLL = 0.2  # seconds
ENDING = 40.0  # seconds that the launchers of all hosts have to end their ranks, which they kill after 30
# Variables that ranks on other hosts get as they are here: of these beginnings.
PASSED_ON = ("PYTHON", "MLFLOW", "MV2", "UCX", "NCCL", "GLOO_", "OMP_", "GOMP_", "MKL_", "TORCH_", "DS_ACCELERATOR")


Starts = dict[str | None, list[str]]  # command lines by host; None: here


@dataclass(frozen=True)
class LaunchOptions:
    hostfile: str | None = None  # None: this machine alone
    ranks: int = 0  # of this machine, without a host file; 0: one per GPU
    restarts: int = 0
    master_addr: str | None = None  # of the first host, where `hostname -I` there says it wrongly


def launch(command: Sequence[str], options: LaunchOptions, say: Callable[[str], None]) -> int:
    """Run `pplfast *command` on all ranks and give its exit code. After a failure it is started again, training with
    --resume, at most `options.restarts` times, on the hosts that answer then; 75 if a rank or a host was lost in the
    last attempt. SIGINT, SIGTERM and SIGHUP end it on all hosts: 128 + the signal's number, when nothing runs any more.
    Raises UserError if no host answers. Called by the main thread."""
    if options.master_addr is not None:
        check_address("--master-addr", options.master_addr)
    hosts = read_hostfile(options.hostfile) if options.hostfile else None
    words = list(command)
    with _signals() as received:
        for left in range(options.restarts, -1, -1):
            alive = _check(hosts, options, say) if hosts else None
            starts = _on_hosts(alive, options, words) if alive else _here(options, words)
            code, killed = exit_code(0 if received else _run(starts, received, say))
            if received:
                return 128 + received[0]
            if code == 0 or code in NOT_WORTH_A_RESTART:
                return code
            if "train" in words[:2] and "--resume" not in words:
                words.append("--resume")
            plan = "no restart left" if options.restarts else "--restarts N would start it again"
            if left:
                plan = f"starting again from the last checkpoint, {left} restart{'s' if left > 1 else ''} left"
            attempt = options.restarts - left + 1
            say(f"attempt {attempt} ended with exit code {code}{f' ({killed})' if killed else ''}; {plan}")
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

    A rank that was killed by signal N ends its launcher with 256 - N, a launcher that was killed gives 128 + N or -N.
    The ranks themselves end with 128 + SIGTERM for who ended them all. 255 is ssh's own: no connection.
    """
    if ended == 255:
        return EXIT_LOST, "the connection to a host was lost, or a rank was killed by SIGHUP"
    if ended in ENDED or 0 <= ended <= 128:
        return ended, ""
    number = -ended if ended < 0 else 256 - ended if ended > 192 else ended - 128
    if number == signal.SIGINT:
        return 128 + number, ""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return EXIT_LOST, f"{'its launcher' if ended < 0 else 'a rank or its launcher'} was killed by {name}"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """What of SIGINT, SIGTERM and SIGHUP has come; but for those that whoever started this wants ignored (nohup)."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDED.values()}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _run(starts: Starts, received: list[int], say: Callable[[str], None]) -> int:
    """Start these and wait until all have ended. The highest exit code of any. At a signal, or an error here, the other
    end of each one's standard input is closed, which ends its ranks."""
    processes: list[subprocess.Popen[bytes]] = []
    relays: list[threading.Thread] = []
    try:
        for host, command in starts.items():
            # Of their own session: Ctrl-C reaches this process alone, which passes it on to all hosts alike.
            output = None if host is None else subprocess.PIPE
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
            processes.append(process)
            for own, its in ((1, process.stdout), (2, process.stderr)):
                if its is not None:
                    relays.append(threading.Thread(target=_relay, args=(f"{host}: ".encode(), its, own), daemon=True))
                    relays[-1].start()
        while not received and any(process.poll() is None for process in processes):
            time.sleep(POLL)
        if received:
            say(f"{signal.Signals(received[0]).name}: ending all ranks")
    finally:
        _end(processes)
        for relay in relays:
            relay.join(1.0)  # not for ever: a process that was left over may hold it open
    return max((process.returncode for process in processes), key=abs)


def _relay(label: bytes, lines: IO[bytes], own: int) -> None:
    """Each line of a host with its name, whole."""
    for line in lines:
        os.write(own, label + line)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + ENDING
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _here(options: LaunchOptions, words: list[str]) -> Starts:
    return {None: _launcher({"localhost": _devices(options.ranks)}, 0, "127.0.0.1", _free_port(), words)}


def _on_hosts(hosts: list[Host], options: LaunchOptions, words: list[str]) -> Starts:
    """By ssh. What the shells there read is quoted."""
    # Of one host: no other needs to reach it.
    address = hosts[0].address if len(hosts) == 1 else options.master_addr or first_address(hosts[0])
    # A fresh port: ranks of the attempt before may still hold theirs. The hosts have just been asked.
    port = _free_port()
    world = {host.name: list(range(host.slots)) for host in hosts}
    variables = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(PASSED_ON)]
    starts: Starts = {}
    for rank, host in enumerate(hosts):
        remote = shlex.join(["env", *variables, *_launcher(world, rank, address, port, words)])
        remote = f"cd {shlex.quote(os.getcwd())} && exec {remote}"
        starts[host.address] = ["ssh", *SSH_OPTIONS, "--", host.name, remote]
    return starts


def _launcher(
    world: Mapping[str, Sequence[int | str]], rank: int, address: str, port: int, words: list[str]
) -> list[str]:
    """The part of DeepSpeed's launcher that starts the ranks of one host, `rank` among those of `world` (name: what
    each rank gets as its CUDA_VISIBLE_DEVICES). The other part would look for hosts in /job/hostfile, leave words
    unquoted, and give exit code 0 where what connects it to the hosts is killed."""
    info = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    place = [f"--world_info={info}", f"--node_rank={rank}", f"--master_addr={address}", f"--master_port={port}"]
    return [sys.executable, *LEASH, *place, QUIET, *PROGRAM, *words]


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


def _free_port() -> int:
    """Free here, where the first rank usually runs, and unlikely to be taken elsewhere."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
