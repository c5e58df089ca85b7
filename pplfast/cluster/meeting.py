"""How ranks find each other: by the launcher's variables, at its store."""

import errno
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch.distributed as dist

from pplfast.errors import UserError

EXIT_LOST = 75  # exit code of a run that lost a rank or a host (EX_TEMPFAIL): starting again may help
JOIN = 300.0  # seconds that a rank waits for the others to come, at most: they start at the same time
JOIN_POLL = 0.1  # seconds
MOST_RANKS = 65536


class LostRankError(UserError):
    """A rank or a host is not there."""

    exit_code = EXIT_LOST


@dataclass(frozen=True)
class Place:
    """Of this process among the ranks, and where rank 0 listens."""

    rank: int
    world: int
    address: str
    port: int


def place_of_rank(environ: Mapping[str, str]) -> Place:
    """As the launcher's variables say. UserError names one that is not there, or cannot be."""
    world = read_number(environ, "WORLD_SIZE", 1, MOST_RANKS)
    return Place(
        read_number(environ, "RANK", 0, world - 1),
        world,
        environ["MASTER_ADDR"],
        read_number(environ, "MASTER_PORT", 1, 65535),
    )


def world_size(environ: Mapping[str, str]) -> int:
    """The number of ranks; 1 without a launcher. UserError for what is no number."""
    return read_number(environ, "WORLD_SIZE", 1, MOST_RANKS) if environ.get("WORLD_SIZE") else 1


def local_world(environ: Mapping[str, str], otherwise: int) -> int:
    """The ranks of this machine, where the launcher says. UserError for what is no number."""
    named = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if environ.get(name)), None)
    return read_number(environ, named, 1, MOST_RANKS) if named else otherwise


def read_number(environ: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environ.get(name)
    if text is None:
        raise UserError(f"{name}: is not set, though other variables of a launcher are; set it for each rank")
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"{name}={text[:30]!a}: must be a number; start the ranks by a launcher, which sets it")
    if not least <= int(text) <= most:
        raise UserError(f"{name}={text}: must be {least} to {most}")
    return int(text)


def connect_store(timeout: float = 30.0) -> dist.Store:
    """A connection of its own to the launcher's store, below this program's prefix. RuntimeError if it is gone."""
    place = place_of_rank(os.environ)
    store = dist.TCPStore(
        place.address,
        place.port,
        is_master=_listens(place),
        multi_tenant=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout),
    )
    return dist.PrefixStore(f"pplfast/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def joined(rank: int) -> str:
    """The key of the launcher's store under which a rank leaves the name of its host."""
    return f"joined/{rank}"


def _listens(place: Place) -> bool:
    """Whether this rank holds the store: torchrun does so itself."""
    return place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


@cache  # a process that has once listened at the port may do so again
def check_port(port: int) -> None:
    """LostRankError where another program of this machine listens at it, UserError where this one must not."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise LostRankError(
                    f"port {port} on {socket.gethostname()} is in use by another program, and rank 0 must listen "
                    f"there; choose another MASTER_PORT"
                ) from None
            if error.errno == errno.EACCES:
                raise UserError(f"MASTER_PORT={port}: only root may listen there; choose one of 1024 or more") from None


def join(place: Place, timeout: float) -> dist.Store:
    """Wait until every rank has come to the store."""
    rank, world = place.rank, place.world
    keys = [joined(other) for other in range(world)]
    deadline = time.monotonic() + timeout
    if _listens(place):
        check_port(place.port)
    try:
        store = connect_store(timeout)
        store.set(f"world/{rank}", str(world))
        store.set(keys[rank], socket.gethostname())
        unheard = set(range(1, world)) if rank == 0 else {0}  # rank 0 hears of all, and all of rank 0
        while unheard or not store.check(keys):
            unheard -= {other for other in unheard if _agrees(store, place, other)}
            if time.monotonic() > deadline:
                missing = [other for other in range(world) if not store.check([keys[other]])]
                raise LostRankError(
                    f"rank {', '.join(map(str, missing[:8]))} of {world} did not come within "
                    f"{timeout:.0f} s; check that its host is up and reaches {place.address}:{place.port}"
                )
            time.sleep(JOIN_POLL)
    except RuntimeError as error:
        raise LostRankError(
            f"rank {rank} on {socket.gethostname()}: no answer from rank 0 at {place.address}:{place.port} "
            f"({str(error).splitlines()[0]}); check that its host is up and the port is open"
        ) from None
    return store


def _agrees(store: dist.Store, place: Place, other: int) -> bool:
    """Whether the other rank has come; UserError on both if it was told of another number of ranks: one of them would
    wait for a rank that nobody started."""
    if not store.check([joined(other)]):
        return False
    its = int(store.get(f"world/{other}"))
    if its == place.world:
        return True
    ranks = sorted([(place.rank, place.world, socket.gethostname()), (other, its, store.get(joined(other)).decode())])
    if place.rank == 0:
        time.sleep(10 * JOIN_POLL)  # the store ends with this rank, and the other has to read it
    (first, here, host), (second, there, host2) = ranks
    raise UserError(
        f"WORLD_SIZE is {here} on {host} (rank {first}) and {there} on {host2} (rank {second}); start all ranks with "
        f"the same number of ranks"
    )
