"""The DeepSpeed engine of one stage."""

import logging
import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pplfast.errors import UserError
from pplfast.precision import resolve_precision
from pplfast.recipe import OptimConfig
from pplfast.train.ranks import Ranks, on_main

AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
TAG = "state"  # the folder that DeepSpeed makes inside a checkpoint


def check_precision(optim: OptimConfig, device: torch.device) -> None:
    if optim.precision == "fp16" and device.type != "cuda":
        raise UserError("optim.precision = 'fp16': needs a GPU; choose bf16 or fp32")


def micro_batch(optim: OptimConfig, ranks: Ranks) -> int:
    """Images of one rank and one accumulation step. Raises UserError if the batch cannot be divided evenly."""
    parts = ranks.world * optim.accumulation
    if optim.batch % parts:
        raise UserError(f"optim.batch = {optim.batch}: is not a multiple of {ranks.world} ranks x "
                        f"optim.accumulation {optim.accumulation}; choose a multiple of {parts}")
    return optim.batch // parts


def start_engine(model: nn.Module, optim: OptimConfig, ranks: Ranks) -> Any:
    """A new engine on the model's current weights, its momentum at zero."""
    deepspeed = _import_deepspeed()
    engine, *_ = deepspeed.initialize(model=model, optimizer=_optimizer(model, optim), config=_config(optim, ranks))
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def load_engine(engine: Any, folder: Path) -> None:
    """Restore weights and momentum that this kind of engine saved; nothing but tensors and DeepSpeed's own records
    is unpickled, since `torch.load` is held to weights_only inside DeepSpeed too."""
    try:
        with _weights_only():
            path, _ = engine.load_checkpoint(str(folder), tag=TAG)
    except pickle.UnpicklingError:
        path = None
    if path is None:
        raise UserError(f"{folder}: holds no checkpoint of this DeepSpeed; delete it to continue from the one before")


def load_weights_of_checkpoint(model: nn.Module, folder: Path) -> None:
    """Only the weights, before an engine is started on them."""
    state = torch.load(folder / TAG / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["module"])


def _optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.SGD:
    """The parameters of `model.backbone` at the learning rate, all others (the head) at `head_factor` times it."""
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if id(parameter) in backbone], "factor": 1.0},
        {"params": [parameter for parameter in trained if id(parameter) not in backbone], "factor": optim.head_factor},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.SGD(used, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)


def _config(optim: OptimConfig, ranks: Ranks) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch(optim, ranks),
        "gradient_accumulation_steps": optim.accumulation,
        "gradient_clipping": optim.clip,
        "zero_optimization": {"stage": optim.zero},
        "zero_allow_untested_optimizer": True,  # DeepSpeed's word for plain SGD
        "steps_per_print": 10**9,
    }
    precision = on_main(ranks, lambda: resolve_precision(optim.precision, ranks.device))  # ranks must not differ
    if precision in AUTOCAST:
        # An empty list keeps the gradients in float32 on their way between ranks, as at ZeRO stage 0.
        config["torch_autocast"] = {
            "enabled": True, "dtype": AUTOCAST[precision], "lower_precision_safe_modules": []}
    return config


def _import_deepspeed() -> Any:
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # DeepSpeed's to mend
    # On CPUs DeepSpeed would compile a C++ extension for tensor-parallel inference at the first start: minutes, for
    # something that training does not call, and a run killed meanwhile leaves a lock that stalls all later ones.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed()  # adopts the process group of start_ranks()
    return deepspeed


@contextmanager
def _weights_only() -> Iterator[None]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
