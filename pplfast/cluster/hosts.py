"""Host files as DeepSpeed reads them, and which of the hosts answer.

What a host file names goes to ssh, which takes some words for options: so nothing becomes a `Host` but a plain name.
"""

import ipaddress
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

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,63}")
LINE = re.compile(r"([^ \t]+)[ \t]+slots=([0-9]{1,4})(?:[ \t]+#.*)?")
MOST_SLOTS = 1024  # of a host: beyond any machine
MOST_HOSTS = 1024  # each takes a process of ssh on the machine that launches
MOST_BYTES = 1 << 20  # of a host file
# Characters of all hosts and of their ranks' numbers: they travel in one word of a command line, of 128 KiB at most,
# in base64.
MOST_CHARACTERS = 72_000


@dataclass(frozen=True)
class Host:
    """name: as ssh takes it, `name` or `user@name`. Raises UserError for what is none, and for slots out of range."""

    name: str
    slots: int  # ranks: one per GPU

    def __post_init__(self) -> None:
        user, at, name = self.name.rpartition("@")
        if not _is_address(name) or (at and not USER.fullmatch(user)):
            raise UserError(
                f"host {_shown(self.name)}: must be an IP address, or a name of letters, digits, '.', '-' and '_', "
                f"with 'user@' before it if need be"
            )
        if not 1 <= self.slots <= MOST_SLOTS:
            raise UserError(f"host {self.name}: slots={self.slots} must be 1 to {MOST_SLOTS}")

    def __str__(self) -> str:
        return f"{self.name} slots={self.slots}"

    @property
    def address(self) -> str:
        """Without the user."""
        return self.name.rpartition("@")[2]


def read_hostfile(path: str) -> list[Host]:
    """Lines `name slots=N`; empty ones and those that begin with # are left out. UserError names the bad line."""
    hosts: dict[str, Host] = {}  # by address: names of hosts are the same in capitals
    for number, line in enumerate(_read(path).split("\n"), 1):
        text = line.strip(" \t\r")
        if not text or text.startswith("#"):
            continue
        match = LINE.fullmatch(text)
        if not match:
            raise UserError(f"{path}: line {number} is {_shown(text)}; write it like 'node-a slots=8'")
        try:
            host = Host(match[1], int(match[2]))
        except UserError as error:
            raise UserError(f"{path}: line {number}: {error}") from None
        if host.address.lower() in hosts:
            raise UserError(f"{path}: line {number} names {host.address} again; one line per host")
        hosts[host.address.lower()] = host
    if not hosts:
        raise UserError(f"{path}: names no host; write lines like 'node-a slots=8'")
    if len(hosts) > MOST_HOSTS:
        raise UserError(f"{path}: names {len(hosts)} hosts, more than {MOST_HOSTS}: launch by Slurm instead")
    ranks = sum(host.slots for host in hosts.values())
    if sum(len(host.name) + 8 + len(f"{host.slots}, ") * host.slots for host in hosts.values()) > MOST_CHARACTERS:
        raise UserError(f"{path}: {ranks} ranks are more than a command line can name: launch by Slurm instead")
    return list(hosts.values())


def _read(path: str) -> str:
    """At most MOST_BYTES of it: it may be a pipe, or a device without an end."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: not a readable host file ({reason}); launch/hostfile.example shows one") from None
    if len(content) > MOST_BYTES:
        raise UserError(
            f"{path}: larger than a host file of {MOST_HOSTS} hosts can be; launch/hostfile.example shows one"
        )
    return text


def check_address(setting: str, address: str) -> str:
    """The name or the IP address of a host, as it was given. UserError, naming `setting`, for anything else."""
    if not _is_address(address):
        raise UserError(f"{setting} {_shown(address)}: must be a host's name or IP address")
    return address


def _is_address(text: str) -> bool:
    """A name or an IP address, which has no zone: that would be another on each host."""
    try:
        return bool(NAME.fullmatch(text)) or ("%" not in text and bool(ipaddress.IPv6Address(text)))
    except ValueError:
        return False


def _shown(text: str) -> str:
    """For a message of one line, whatever it holds."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


def answering(hosts: Sequence[Host]) -> list[Host]:
    """Those that can be logged into by ssh without a password, in the same order."""
    with ThreadPoolExecutor(min(32, len(hosts))) as pool:
        alive = list(pool.map(_answers, hosts))
    return [host for host, answers in zip(hosts, alive, strict=True) if answers]


def first_address(host: Host) -> str:
    """The first of the addresses that the host knows of itself. UserError if it says none."""
    words = (ask(host, ("hostname", "-I")) or b"").decode(errors="replace").split()
    try:
        return str(ipaddress.ip_address(words[0]))
    except (IndexError, ValueError):
        raise UserError(
            f"{host.name}: `hostname -I` gives no address there; name the one that the other hosts reach it by: "
            f"--master-addr ADDRESS"
        ) from None


def _answers(host: Host) -> bool:
    if ask(host, ("true",)) is not None:
        return True
    time.sleep(PAUSE)
    return ask(host, ("true",)) is not None


def ask(host: Host, command: Sequence[str]) -> bytes | None:
    """What the command prints there; None if it fails, or the host does not answer."""
    try:
        done = subprocess.run(
            ["ssh", *SSH_OPTIONS, "--", host.name, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=3 * CONNECT,
        )
    except FileNotFoundError:
        raise UserError("ssh: not installed; install OpenSSH's client on the machine that launches") from None
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
