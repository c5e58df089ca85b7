"""Host files as DeepSpeed reads them, and which of the hosts answer."""

import re
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pplfast.errors import UserError

CONNECT = 10  # seconds until a host that does not answer counts as down
PAUSE = 3  # seconds until a host is asked a second time: one refused connection must not cost a run its GPUs
# An idle connection to a host that was cut off would hang for a quarter of an hour: ssh asks every 3 s, three times.
SSH_OPTIONS = (
    "-o",
    "BatchMode=yes",
    "-o",
    f"ConnectTimeout={CONNECT}",
    "-o",
    "ServerAliveInterval=3",
    "-o",
    "ServerAliveCountMax=3",
)


@dataclass(frozen=True)
class Host:
    name: str
    slots: int  # ranks: one per GPU

    def __str__(self) -> str:
        return f"{self.name} slots={self.slots}"


def read_hostfile(path: str) -> list[Host]:
    """Lines `name slots=N`; empty ones and those that begin with # are left out. UserError names the bad line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable host file ({error}); launch/hostfile.example shows one") from None
    hosts: list[Host] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)(?:\s+#.*)?", text)
        if not match or int(match[2]) < 1:
            raise UserError(f"{path}: line {number} is '{text}'; write it like 'node-a slots=8'")
        if match[1] in [host.name for host in hosts]:
            raise UserError(f"{path}: line {number} names {match[1]} again; one line per host")
        hosts.append(Host(match[1], int(match[2])))
    if not hosts:
        raise UserError(f"{path}: names no host; write lines like 'node-a slots=8'")
    return hosts


def answering(hosts: Sequence[Host]) -> list[Host]:
    """Those that can be logged into by ssh without a password, in the same order."""
    with ThreadPoolExecutor(min(32, len(hosts))) as pool:
        alive = list(pool.map(_answers, hosts))
    return [host for host, answers in zip(hosts, alive, strict=True) if answers]


def _answers(host: Host) -> bool:
    if _logs_in(host):
        return True
    time.sleep(PAUSE)
    return _logs_in(host)


def _logs_in(host: Host) -> bool:
    try:
        done = subprocess.run(
            ["ssh", *SSH_OPTIONS, host.name, "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=3 * CONNECT,
        )
    except FileNotFoundError:
        raise UserError("ssh: not installed; install OpenSSH's client on the machine that launches") from None
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
