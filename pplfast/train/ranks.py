"""The processes of a run: who they are, and how they fail together instead of waiting for each other."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pplfast.errors import UserError

T = TypeVar("T")


class OtherRankError(UserError):
    """A user error that another rank raises, and prints, as well."""


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    local_world: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0


def start_ranks(local_rank: int | None = None) -> Ranks:
    """Join the process group of the launcher (RANK, WORLD_SIZE, ... in the environment), or make one of a single rank.

    local_rank: from the launcher's command line, where the environment does not have it.
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
            dist.init_process_group(backend)
        else:  # without a launcher: no port to find, nothing to collide with
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    world = dist.get_world_size()
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world)
    return Ranks(dist.get_rank(), world, local_world, device)


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
            raise (UserError if first == ranks.rank else OtherRankError)(messages[first])
    elif message is not None:
        raise UserError(message)
    return result


def on_main(ranks: Ranks, action: Callable[[], T]) -> T:
    """Run `action` on rank 0 and give its result, or its UserError, to all."""
    outcome: list[Any] = [_attempt(action) if ranks.main else None]
    if ranks.world > 1:
        dist.broadcast_object_list(outcome, src=0)
    result, message = outcome[0]
    if message is not None:
        raise (UserError if ranks.main else OtherRankError)(message)
    return result


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
