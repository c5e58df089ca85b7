"""The processes of a run: who they are, and how they fail together instead of waiting for each other."""

import itertools
import json
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from pplfast.cluster.meeting import (
    JOIN,
    JOIN_POLL,
    MOST_RANKS,
    LostRankError,
    connect_store,
    join,
    joined,
    local_world,
    place_of_rank,
    read_number,
)
from pplfast.errors import UserError, explain_os_error

T = TypeVar("T")

BEAT = 1.0  # seconds between rank 0's signs of life while the others wait
# Seconds without one until it counts as lost, though its connection stands: long enough for native code that lets no
# other thread run, and for a machine that swaps.
SILENCE = 30.0


class EveryRankError(UserError):
    """A user error that all ranks raise at the same place; this one prints it."""


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


def start_ranks(local_rank: int | None = None, timeout: float = 900.0) -> Ranks:
    """Join the process group of the launcher (RANK, WORLD_SIZE, ... in the environment), or make one of a single rank.

    local_rank: from the launcher's command line, where the environment does not have it. timeout: seconds to wait for
    the other ranks, and for their part in each collective. Raises LostRankError naming the ranks that did not come,
    or a port that is in use, and UserError for variables that cannot be.
    """
    os.environ.setdefault("LOCAL_RANK", str(local_rank or 0))
    local = read_number(os.environ, "LOCAL_RANK", 0, MOST_RANKS)
    cuda = torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise UserError(f"LOCAL_RANK={local}: this machine has {torch.cuda.device_count()} GPUs; start no more ranks")
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        if "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ:
            place = place_of_rank(os.environ)
            store = join(place, min(timeout, JOIN))
            # The watchdog speaks first: a collective's own time-out does not know whom it waited for.
            dist.init_process_group(
                backend,
                store=store,
                rank=place.rank,
                world_size=place.world,
                timeout=timedelta(seconds=2 * timeout),
            )
        else:  # without a launcher: no port to find, nothing to collide with
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    world = dist.get_world_size()
    return Ranks(dist.get_rank(), world, local_world(os.environ, world), device)


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
    return _given(ranks, result, message)


def while_others_wait(ranks: Ranks, action: Callable[[], T]) -> T:
    """`on_main` for what may take hours: a collective would end by its time-out.

    The result travels as JSON, and on every rank it is what JSON makes of it (a tuple becomes a list). Raises
    LostRankError on the others once rank 0 is gone: at once if its process ended, after SILENCE seconds if its host is
    cut off; and on rank 0, at the end, for those that are gone by then.
    """
    if ranks.world == 1:
        outcome = json.dumps(_attempt(action))
    else:
        key = f"wait/{next(_waits)}"
        outcome = _work_alone(ranks, action, key) if ranks.main else _wait_for_main(ranks, key)
    return cast(T, _given(ranks, *json.loads(outcome)))


def on_all(ranks: Ranks, action: Callable[[], T]) -> T:
    """Run `action` on every rank, which may be done hours apart, and give rank 0's result to all, as JSON has it.

    What raises UserError on any rank is raised by all, and one has the message. action: rank 0's ends last, or waits
    for the others by itself; it calls nothing that waits at the store.
    """
    failure: str | None = None
    if not ranks.main:
        _, failure = _attempt(action)
    result = while_others_wait(ranks, action)

    def fail() -> None:
        if failure is not None:
            raise UserError(failure)

    together(ranks, fail)
    return result


_waits = itertools.count()  # all ranks count alike


def _work_alone(ranks: Ranks, action: Callable[[], T], key: str) -> str:
    """On rank 0: the outcome as JSON, once all others have read it: the store may end with this process."""
    store, done = connect_store(), threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):  # the store is gone, which is found below
            for count in itertools.count():
                store.set(f"{key}/beat", str(count))
                if done.wait(BEAT):
                    return

    beating = threading.Thread(target=beat, daemon=True, name=f"{key} beat")
    beating.start()
    try:
        outcome = json.dumps(_attempt(action))
    finally:
        done.set()
        beating.join()
    waiting = list(range(1, ranks.world))
    deadline = time.monotonic() + SILENCE
    try:
        store.set(f"{key}/outcome", outcome)
        while waiting := [rank for rank in waiting if not store.check([f"{key}/{rank}"])]:
            if time.monotonic() > deadline:
                gone = ", ".join(f"rank {rank} on {store.get(joined(rank)).decode()}" for rank in waiting[:8])
                raise LostRankError(f"{gone} did not wait for rank 0: killed, or the host is down or cut off")
            time.sleep(JOIN_POLL)
    except RuntimeError as error:
        raise _lost_store(error) from None
    return outcome


def _wait_for_main(ranks: Ranks, key: str) -> str:
    """On the others: what `_work_alone` gives."""
    news: queue.SimpleQueue[str | RuntimeError | None] = queue.SimpleQueue()

    def listen() -> None:  # in a thread: it may block for ever in the network
        beat = b""
        try:
            store = connect_store()
            while not store.check([f"{key}/outcome"]):
                if store.check([f"{key}/beat"]) and beat != (beat := store.get(f"{key}/beat")):
                    news.put(None)
                time.sleep(BEAT / 2)
            outcome = store.get(f"{key}/outcome").decode()
            store.set(f"{key}/{ranks.rank}", "")
            news.put(outcome)
        except RuntimeError as error:
            news.put(error)

    threading.Thread(target=listen, daemon=True, name=key).start()
    patience = JOIN  # until rank 0 has come
    while True:
        try:
            found = news.get(timeout=patience)
        except queue.Empty:
            raise LostRankError(
                f"rank 0 gave no sign of life for {patience:.0f} s: its host is down or cut off"
            ) from None
        if isinstance(found, RuntimeError):
            raise _lost_store(found) from None
        if found is not None:
            return found
        patience = SILENCE


def _lost_store(error: RuntimeError) -> LostRankError:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return LostRankError(
        f"the connection to rank 0 at {where} was lost ({str(error).splitlines()[0]}): killed, or its host is down"
    )


def gather(ranks: Ranks, value: T) -> list[T]:
    """The value of every rank, on every rank."""
    if ranks.world == 1:
        return [value]
    values: list[Any] = [None] * ranks.world
    dist.all_gather_object(values, value)
    return values


def _given(ranks: Ranks, result: T | None, message: str | None) -> T:
    """What rank 0 has for all."""
    if message is not None:
        raise (EveryRankError if ranks.main else OtherRankError)(message)
    return cast(T, result)  # without a message it is there


def _attempt(action: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return action(), None
    except UserError as error:
        return None, str(error)
    except OSError as error:  # the others would wait for this rank
        return None, str(explain_os_error(error, error.filename or "a file of this run"))
