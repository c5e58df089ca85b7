"""The DeepSpeed engine of one stage."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from pplfast.cluster.ranks import Ranks
from pplfast.errors import UserError
from pplfast.models.backbone import Network
from pplfast.recipe import OptimConfig

AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
BUCKET = 8_000_000  # gradients reduced together: 32 MB in float32, enough to fill a fast link


def check_precision(optim: OptimConfig, device: torch.device) -> None:
    if optim.precision == "fp16" and device.type != "cuda":
        raise UserError("optim.precision = 'fp16': needs a GPU; choose bf16 or fp32")


@dataclass(frozen=True)
class Share:
    """How the images of an optimizer step are computed."""

    parts: int  # one after the other, their gradients added up
    group: int  # images of a part, over all ranks
    micro_batch: int  # images of a part that one rank has, at most


def share_batch(optim: OptimConfig, world: int) -> Share:
    """Among `world` ranks, any number of which a run continues on. With `optim.micro_batch` the parts follow from it.
    Raises UserError if some ranks would have nothing to do."""
    parts = optim.accumulation
    if optim.micro_batch:
        fitting = (n for n in range(1, optim.batch + 1) if optim.batch % n == 0)
        parts = next(n for n in fitting if optim.batch <= n * world * optim.micro_batch)
    group = optim.batch // parts
    if group < world:
        raise UserError(
            f"optim.batch = {optim.batch} in {parts} parts: is less than an image for each of {world} ranks; use fewer "
            f"ranks, or a larger batch"
        )
    return Share(parts, group, -(-group // world))


def check_compile(mode: str, share: Share) -> None:
    if mode == "reduce-overhead" and share.parts > 1:
        # A replayed CUDA graph may write its gradients to the memory where those of the part before still are: untried.
        raise UserError(
            f"--compile {mode}: cannot add up the gradients of {share.parts} parts of a batch; choose default, or set "
            f"optim.accumulation = 1 and no optim.micro_batch"
        )


def compile_network(model: nn.Module, mode: str) -> None:
    """By torch.compile, in place, in its mode of that name; "": not at all. Before an engine is started on the model:
    all batches of a stage have one shape. The names of its parameters stay."""
    if mode:
        torch.compiler.reset()  # the graphs of the stage before, and their memory
        model.compile(mode=mode, dynamic=False)


def start_engine(
    model: Network, optim: OptimConfig, ranks: Ranks, extra: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """A new engine on the model's current weights, its momentum at zero. optim: its precision decided, not "auto".
    extra: DeepSpeed settings of the user's."""
    deepspeed = _import_deepspeed()
    config = _config(model, optim, ranks)
    zero = config["zero_optimization"] | extra.get("zero_optimization", {})
    if zero.get("offload_optimizer"):
        zero.pop("compute_grad_norm", None)  # DeepSpeed cannot do without there
    config |= {**extra, "zero_optimization": zero}
    optimizer = _optimizer(model, optim, ranks.device)
    try:
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, NotImplementedError) as error:
        if not extra:
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--deepspeed: DeepSpeed refuses the file's settings ({type(error).__name__}: {reason})"
        ) from error
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def _optimizer(model: Network, optim: OptimConfig, device: torch.device) -> torch.optim.SGD:
    """The parameters of `model.backbone` at the learning rate, all others (the head) at `head_factor` times it. On a
    GPU one kernel updates many parameters, but for fp16: where the first step overflows, fused SGD skips it with the
    memory of the momentum allocated and never written, and the second step reads it."""
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if id(parameter) in backbone], "factor": 1.0},
        {"params": [parameter for parameter in trained if id(parameter) not in backbone], "factor": optim.head_factor},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.SGD(
        used,
        lr=optim.lr,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        fused=device.type == "cuda" and optim.precision != "fp16",
    )


def _config(model: nn.Module, optim: OptimConfig, ranks: Ranks) -> dict[str, Any]:
    share = share_batch(optim, ranks.world)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": share.micro_batch,
        "gradient_accumulation_steps": share.parts,
        "gradient_clipping": optim.clip,
        # DeepSpeed overlaps the reduction with the backward pass at ZeRO 1 and 2 only. Its buckets of 500 million
        # elements would hold a whole network, and leave nothing to overlap.
        "zero_optimization": {
            "stage": optim.zero,
            "overlap_comm": True,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        },
        "zero_allow_untested_optimizer": True,  # DeepSpeed's word for plain SGD
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device twice a step
    }
    if optim.zero and not optim.clip and optim.precision != "fp16":
        # Nobody asks for the gradients' norm, and the host would wait for it in each step. fp16's overflows are found
        # by it: there the wait stays, as it does where gradients are clipped.
        config["zero_optimization"]["compute_grad_norm"] = False
    if optim.precision in AUTOCAST:
        # The parameters of the listed modules are reduced in the lower precision, where ZeRO is on.
        config["torch_autocast"] = {
            "enabled": True,
            "dtype": AUTOCAST[optim.precision],
            "lower_precision_safe_modules": _kinds_of_modules(model) if optim.reduction == "bf16" else [],
        }
    config["communication_data_type"] = optim.reduction  # without autocast, and at ZeRO 0
    return config


def _kinds_of_modules(model: nn.Module) -> list[str]:
    """The classes that hold parameters of their own, by their full names."""
    kinds = {type(module) for module in model.modules() if next(module.parameters(recurse=False), None) is not None}
    return sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)


def _import_deepspeed() -> Any:
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # DeepSpeed's to mend
    # On CPUs DeepSpeed would compile a C++ extension for tensor-parallel inference at the first start: minutes, for
    # something that training does not call, and a run killed meanwhile leaves a lock that stalls all later ones.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # A flag of the process, set by any engine with autocast and never taken back: a float32 engine after it would
    # ignore optim.reduction, and after an fp16 one scale its loss.
    deepspeed.runtime.torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    deepspeed.runtime.torch_autocast.TORCH_AUTOCAST_DTYPE = None
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed()  # adopts the process group of start_ranks()
    return deepspeed
