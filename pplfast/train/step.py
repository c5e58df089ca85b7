"""One optimizer step, and the watch over its loss."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pplfast.cluster.ranks import EveryRankError, OtherRankError, Ranks, gather
from pplfast.data.loader import Batch, TrainLoader
from pplfast.models.dropout import drawn_by
from pplfast.models.values import bad_weight
from pplfast.train.checkpoint import CheckpointFolder
from pplfast.train.schedules import steps_per_epoch
from pplfast.train.state import lower_loss_scale


def step_batches(loader: TrainLoader, accumulation: int, step: int) -> Iterator[list[Batch]]:
    """The micro-batches of step `step`, `step` + 1, ... counted over all epochs, without end.

    A step never reaches into the next epoch, so that accumulation and one larger batch see the same images.
    """
    per_epoch = steps_per_epoch(loader.batches_per_epoch, accumulation)
    epoch, start = divmod(step, per_epoch)
    while True:
        batches = iter(loader.epoch(epoch, start * accumulation))
        for _ in range(start, per_epoch):
            yield list(itertools.islice(batches, accumulation))
        epoch, start = epoch + 1, 0


def seed_step(seed: int, stage: int, step: int, rank: int) -> None:
    """torch's generator, from which networks of one's own may draw, as a function of the step: a resumed run draws the
    same without a saved state. What comes with pplfast draws by `drawn_by`, without regard to the rank."""
    state = np.random.SeedSequence([seed % 2**32, stage, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def train_step(
    engine: Any,
    batches: Sequence[Batch],
    image_losses: Callable[[Tensor, Batch], Tensor],
    accumulation: int,
    mark: Callable[[str], None],
    ranks: Ranks,
    wish: bool = False,
    draw: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor]:
    """Forward, backward and update. Returns float32 (2,) on the device, the same on all ranks: the mean loss over all
    images of all ranks, and how many ranks have a `wish`; and this rank's losses, one per row of the batches.

    image_losses: the network's outputs and the batch -> weighted losses (B,). mark: told what is about to be done.
    draw: the seed and the step, for dropout.

    DeepSpeed averages gradients over ranks and accumulation steps. With unequal shares (the last step of an epoch)
    that is not the mean over the images: each loss is scaled so that it is.
    """
    images = sum(batch.total for batch in batches)
    losses = []
    for k, batch in enumerate(batches):
        engine.set_gradient_accumulation_boundary(k == len(batches) - 1)
        mark("forward")
        with drawn_by(*draw, batch.indices.numpy(), ranks.device):
            batch_losses = image_losses(engine(batch.images), batch)
        mark("backward")
        engine.backward(batch_losses.sum() * (ranks.world * accumulation / images))
        engine.step()
        if k == len(batches) - 1:
            lower_loss_scale(engine)
        losses.append(batch_losses.detach())
    own = torch.cat(losses)
    shared = torch.stack((own.sum() / images, own.new_full((), float(wish))))
    if ranks.world > 1:
        dist.all_reduce(shared)
    return shared, own


@dataclass(frozen=True)
class _Pending:
    step: int
    shared: Tensor  # on the CPU, complete once `ready` has happened
    ready: "torch.cuda.Event | None"
    losses: Tensor  # on the device
    indices: Tensor


class LossWatch:
    """Reads each loss one step late, so that the device never waits for the host, and stops at one that is not finite.

    All ranks watch the loss over all ranks, so they stop at the same step. The wish for a checkpoint travels with it:
    so they agree on its step as well, without a message of its own.
    """

    def __init__(self, ids: Sequence[str], ranks: Ranks, checkpoints: CheckpointFolder) -> None:
        self._ids, self._ranks, self._checkpoints = ids, ranks, checkpoints
        self._pending: _Pending | None = None
        self.sum, self.count = 0.0, 0  # of the losses that were read since the last `interval_mean`
        self.last = float("nan")  # the last loss that was read
        self.wished = False  # by any rank in the steps that were read, until set back

    def add(self, step: int, shared: Tensor, losses: Tensor, batches: Sequence[Batch]) -> None:
        """shared, losses: of `train_step`. Raises UserError if the loss of the step before was not finite."""
        self._read()
        ready = None
        if shared.device.type == "cuda":
            host = torch.empty(shared.shape, dtype=shared.dtype, pin_memory=True)
            shared = host.copy_(shared, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._pending = _Pending(step, shared, ready, losses, torch.cat([batch.indices for batch in batches]))

    def interval_mean(self) -> float:
        """The mean loss of the steps since the last call, this one included. Raises as `add` does."""
        self._read()
        mean = self.sum / self.count
        self.sum, self.count = 0.0, 0
        return mean

    def settle(self) -> None:
        """Wait for the last step's loss. Raises as `add` does."""
        self._read()

    def settle_weights(self, model: nn.Module, step: int) -> None:
        """After a step whose update no loss has seen yet. Raises as `add` does, for weights that are not finite or
        absurd: the same on all ranks, as the weights are."""
        if wrong := bad_weight(model.state_dict()):
            self._end(f"step {step}: {wrong}: the training diverged; last good checkpoint: ", "start another --out")

    def _end(self, what: str, remedy: str) -> NoReturn:
        if not self._ranks.main:
            raise OtherRankError("the training diverged")
        self._checkpoints.wait()
        raise EveryRankError(f"{what}{self._checkpoints.last or 'none'}; {remedy} with a lower optim.lr")

    def _read(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if pending.ready is not None:
            pending.ready.synchronize()
        self.last, wishes = pending.shared.tolist()
        self.wished |= wishes > 0
        if not math.isfinite(self.last):
            self._stop(pending)
        self.sum, self.count = self.sum + self.last, self.count + 1

    def _stop(self, pending: _Pending) -> None:
        bad = ~torch.isfinite(pending.losses.cpu())
        ids = [[self._ids[i] for i in indices.tolist()] for indices in (pending.indices[bad], pending.indices)]
        shares = gather(self._ranks, ids)
        bad_ids, all_ids = (list(dict.fromkeys(name for share in shares for name in share[k])) for k in (0, 1))
        rest = "" if len(bad_ids) == len(all_ids) else f" (of the batch {' '.join(all_ids)})"
        self._end(
            f"step {pending.step}: the loss is {self.last}; images: {' '.join(bad_ids)}{rest}; last good checkpoint: ",
            "check these images, or start another --out",
        )
