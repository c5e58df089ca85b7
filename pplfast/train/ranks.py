"""The processes of a run: who they are, and how they fail together instead of waiting for each other."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from pplfast.errors import UserError

T = TypeVar("T")

EXIT_LOST = 75  # exit code of a run that lost a rank or a host (EX_TEMPFAIL): starting again may help
JOIN = 300.0  # seconds that a rank waits for the others to come, at most: they start at the same time
JOIN_POLL = 0.1  # seconds


class EveryRankError(UserError):
    """A user error that all ranks raise at the same place; this one prints it."""


class OtherRankError(UserError):
    """A user error that another rank raises, and prints, as well."""


class LostRankError(UserError):
    """A rank or a host is not there."""

    exit_code = EXIT_LOST


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    local_world: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0


def start_ranks(local_rank: int | None = None, timeout: float = 900.0) -> Ranks:
    """Join the process group of the launcher (RANK, WORLD_SIZE, ... in the environment), or make one of a single rank.

    local_rank: from the launcher's command line, where the environment does not have it. timeout: seconds to wait for
    the other ranks, and for their part in each collective. Raises LostRankError naming the ranks that did not come.
    """
    os.environ.setdefault("LOCAL_RANK", str(local_rank or 0))
    local = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        if "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ:
            store = _join(min(timeout, JOIN))
            # The watchdog speaks first: a collective's own time-out does not know whom it waited for.
            dist.init_process_group(
                backend,
                store=store,
                rank=int(os.environ["RANK"]),
                world_size=int(os.environ["WORLD_SIZE"]),
                timeout=timedelta(seconds=2 * timeout),
            )
        else:  # without a launcher: no port to find, nothing to collide with
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    world = dist.get_world_size()
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world)
    return Ranks(dist.get_rank(), world, local_world, device)


def connect_store(timeout: float = 30.0) -> dist.Store:
    """A connection of its own to the launcher's store, below this program's prefix. RuntimeError if it is gone."""
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the store itself
    main = os.environ["RANK"] == "0" and not served
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=main,
        multi_tenant=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout),
    )
    return dist.PrefixStore(f"pplfast/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def joined(rank: int) -> str:
    """The key of the launcher's store under which a rank leaves the name of its host."""
    return f"joined/{rank}"


def _join(timeout: float) -> dist.Store:
    """Wait until every rank has come to the store."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    keys = [joined(other) for other in range(world)]
    deadline = time.monotonic() + timeout
    try:
        store = connect_store(timeout)
        store.set(keys[rank], socket.gethostname())
        while not store.check(keys):
            if time.monotonic() > deadline:
                missing = [other for other in range(world) if not store.check([keys[other]])]
                raise LostRankError(
                    f"rank {', '.join(map(str, missing[:8]))} of {world} did not come within "
                    f"{timeout:.0f} s; check that its host is up and reaches {address}"
                )
            time.sleep(JOIN_POLL)
    except RuntimeError as error:
        raise LostRankError(
            f"rank {rank} on {socket.gethostname()}: no answer from rank 0 at {address} "
            f"({str(error).splitlines()[0]}); check that its host is up and the port is open"
        ) from None
    return store


def stop_ranks() -> None:
    """Leave the launcher's process group, at the end of the process."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()


def together(ranks: Ranks, action: Callable[[], T]) -> T:
    """Run `action` on every rank; if it raises UserError on any, all ranks raise, and one of them has the message."""
    result, message = _attempt(action)
    if ranks.world > 1:
        messages: list[Any] = [None] * ranks.world
        dist.all_gather_object(messages, message)
        first = next((rank for rank, text in enumerate(messages) if text is not None), None)
        if first is not None:
            raise (EveryRankError if first == ranks.rank else OtherRankError)(messages[first])
    elif message is not None:
        raise EveryRankError(message)
    return cast(T, result)  # no rank has a message: it is there


def on_main(ranks: Ranks, action: Callable[[], T]) -> T:
    """Run `action` on rank 0 and give its result, or its UserError, to all."""
    outcome = [_attempt(action) if ranks.main else (None, None)]
    if ranks.world > 1:
        dist.broadcast_object_list(outcome, src=0)
    result, message = outcome[0]
    if message is not None:
        raise (EveryRankError if ranks.main else OtherRankError)(message)
    return cast(T, result)


def gather(ranks: Ranks, value: T) -> list[T]:
    """The value of every rank, on every rank."""
    if ranks.world == 1:
        return [value]
    values: list[Any] = [None] * ranks.world
    dist.all_gather_object(values, value)
    return values


def _attempt(action: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return action(), None
    except UserError as error:
        return None, str(error)
