"""One of two ranks of the scaling measurement, on a core of its own. Arguments: core, size, batch, position, rounds.

In every round, one after the other: rank 0 alone, both without talking, both as in training, the reduction alone.
Rank 0 prints one JSON line of lists of seconds.
"""

import json
import os
import sys
import time
from collections.abc import Callable

core, size, batch, position, rounds = sys.argv[1:]
os.sched_setaffinity(0, {int(core)})
os.environ["DS_ACCELERATOR"] = "cpu"

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from pplfast.benchmarks import models  # noqa: E402
from pplfast.cluster.ranks import start_ranks, stop_ranks  # noqa: E402
from pplfast.data.loader import Batch  # noqa: E402
from pplfast.recipe import OptimConfig  # noqa: E402
from pplfast.train.engine import start_engine  # noqa: E402
from pplfast.train.loss import image_losses  # noqa: E402
from pplfast.train.step import train_step  # noqa: E402

STEPS, WARM_UPS = 4, 3  # of a sample; before the first round

torch.set_num_threads(1)
ranks = start_ranks()
model = models.make_pplfast(models.Case("efficientnet_lite0", 20, ((position, 2),)))
models.freeze(model, 3)
model.train()
engine = start_engine(model, OptimConfig(batch=2 * int(batch), precision="fp32"), ranks)
images = torch.randn(int(batch), 3, int(size), int(size)).contiguous(memory_format=torch.channels_last)
labels = (torch.rand(int(batch), 20) < 0.1).float()
inputs = [Batch(images, labels, torch.ones(int(batch)), torch.arange(int(batch)), 2 * int(batch))]
gradients = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
flat, loss = torch.zeros(gradients), torch.zeros(())


def train() -> None:
    train_step(
        engine,
        inputs,
        lambda outputs, batch: image_losses(outputs, batch.targets, batch.weights),
        1,
        lambda what: None,
        ranks,
    )


def without_talking() -> None:
    """The same step, but for the reduction of the gradients and of the loss."""
    engine.enable_backward_allreduce = False
    engine.set_gradient_accumulation_boundary(True)
    engine.backward(image_losses(engine(images), labels, inputs[0].weights).sum())
    engine.step()
    engine.enable_backward_allreduce = True


def reduce() -> None:
    dist.all_reduce(flat)
    dist.all_reduce(loss)


def sample(action: Callable[[], None], both: bool = True) -> float:
    """Seconds per call, of the slower rank: a step is over when both have finished it."""
    dist.barrier()
    seconds = 0.0
    if both or ranks.main:
        start = time.perf_counter()
        for _ in range(STEPS):
            action()
        seconds = (time.perf_counter() - start) / STEPS
    slower = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(slower, dist.ReduceOp.MAX)
    return float(slower)


for _ in range(WARM_UPS):
    train()
times: dict[str, list[float]] = {"alone": [], "beside": [], "pair": [], "reduce": []}
for _ in range(int(rounds)):
    times["alone"].append(sample(without_talking, both=False))
    times["beside"].append(sample(without_talking))
    times["pair"].append(sample(train))
    times["reduce"].append(sample(reduce))
if ranks.main:
    print(json.dumps({"gradients": gradients, "seconds": times}))
engine.destroy()
stop_ranks()
