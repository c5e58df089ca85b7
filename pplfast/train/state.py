"""The state of a run in a form that does not know how many ranks there were: weights, momentum, fp16's loss scale.

DeepSpeed's own ZeRO checkpoints split the momentum among the ranks that saved them. Here it is gathered parameter by
parameter on rank 0, which alone writes and reads files; what it reads goes to the other ranks over the process group.
So a run continues at another world size and on hosts that share no folder with rank 0's.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pplfast.cluster.ranks import Ranks, on_main
from pplfast.errors import UserError
from pplfast.models.values import bad_kind, bad_weight

MODEL, MOMENTUM = "model.", "momentum."  # prefixes of the tensors' names
BUFFER = "momentum_buffer"  # torch.optim.SGD's name


@dataclass(frozen=True)
class TrainState:
    tensors: dict[str, Tensor] = field(default_factory=dict)  # on the CPU; empty on all ranks but 0
    loss_scale: dict[str, float] = field(default_factory=dict)  # torch's GradScaler; empty unless fp16
    ready: "torch.cuda.Event | None" = None  # happens once the tensors have come from the device
    source: str = "checkpoint"  # the file that it was read from

    def wait(self) -> None:
        if self.ready is not None:
            self.ready.synchronize()


def collect_state(engine: Any, ranks: Ranks, momentum: bool) -> TrainState:
    """Called by all ranks. momentum: off at the end of a stage, as the next one starts without. The tensors are copies:
    training may go on at once. From a GPU they are still on their way, `wait` for them."""
    module = engine.module
    tensors = {MODEL + name: _host_copy(tensor) for name, tensor in module.state_dict().items()} if ranks.main else {}
    if momentum and _has_momentum(engine):
        _link_momentum(engine)
        for name, parameter in _trained(module):
            value = _momentum(engine, parameter)
            if ranks.main:
                tensors[MOMENTUM + name] = _host_copy(value)
    ready = None
    if ranks.device.type == "cuda":
        ready = torch.cuda.Event()
        ready.record()
    scaler = loss_scaler(engine)
    return TrainState(tensors, scaler.state_dict() if scaler else {}, ready)


def restore_weights(model: nn.Module, state: TrainState, ranks: Ranks) -> None:
    """Parameters and buffers, on all ranks, before an engine is started on them. UserError if they do not fit."""
    own = model.state_dict()
    on_main(ranks, lambda: _check_fit(own, state))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(_from_main(state.tensors.get(MODEL + name), tensor, ranks))


def restore_optimizer(engine: Any, state: TrainState, ranks: Ranks) -> None:
    """Momentum and loss scale, into an engine that has taken no step."""
    names = set(on_main(ranks, lambda: [name for name in state.tensors if name.startswith(MOMENTUM)]))
    if names:
        on_main(ranks, lambda: _check_momentum(engine.module, state))
        _allocate_momentum(engine)
        for name, parameter in _trained(engine.module):
            value = _from_main(state.tensors.get(MOMENTUM + name), parameter, ranks)
            if engine.zero_optimization():
                from deepspeed.utils import safe_set_full_optimizer_state

                safe_set_full_optimizer_state(parameter, value, BUFFER)
            else:
                # In the parameter's strides, as the optimizer would make it: fused SGD refuses others.
                engine.optimizer.state[parameter][BUFFER] = torch.empty_like(parameter).copy_(value)
    scale = on_main(ranks, lambda: checked_loss_scale(state))
    scaler = loss_scaler(engine)
    if scaler and scale:
        scaler.load_state_dict(scale)


def checked_loss_scale(state: TrainState) -> dict[str, float]:
    """For torch's GradScaler, empty without fp16. Raises UserError where it is no loss scale."""
    scale = state.loss_scale
    whole = {"growth_interval", "_growth_tracker"}
    right = not scale or scale.keys() == {"scale", "growth_factor", "backoff_factor", *whole}
    if not right or not all(
        isinstance(value, int if key in whole else int | float) and not isinstance(value, bool) and 0 <= value < 2**40
        for key, value in scale.items()
    ):
        raise UserError(
            f"{state.source}: manifest.json beside it has a wrong loss_scale; delete the folder and run again"
        )
    return scale


def loss_scaler(engine: Any) -> torch.amp.GradScaler | None:
    """DeepSpeed keeps it in the engine at ZeRO 0 and in the optimizer above; None unless the precision is fp16."""
    if engine.zero_optimization():
        scaler: torch.amp.GradScaler | None = engine.optimizer.torch_autocast_gradscaler
    else:
        scaler = engine.torch_autocast_z0_gradscaler
    return scaler


def lower_loss_scale(engine: Any) -> None:
    """After a step. At ZeRO 1 and 2 DeepSpeed (0.19.8) skips a step whose gradients overflow, on all ranks alike, but
    leaves the scale as it is: all later steps would overflow as well."""
    scaler = loss_scaler(engine)
    if scaler and engine.zero_optimization() and engine.optimizer.overflow:
        scaler.update(scaler.get_scale() * scaler.get_backoff_factor())


def _host_copy(tensor: Tensor) -> Tensor:
    """Contiguous, on the CPU. From a GPU into pinned memory, without waiting."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor.detach(), non_blocking=True)


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def _has_momentum(engine: Any) -> bool:
    optimizer = engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer
    return any(BUFFER in state for state in optimizer.state.values())


def _momentum(engine: Any, parameter: nn.Parameter) -> Tensor:
    """The whole momentum of one parameter; a collective under ZeRO."""
    if engine.zero_optimization():
        from deepspeed.utils import safe_get_full_optimizer_state

        momentum: Tensor = safe_get_full_optimizer_state(parameter, BUFFER)
    else:
        momentum = engine.optimizer.state[parameter][BUFFER]
    return momentum


def _allocate_momentum(engine: Any) -> None:
    """As the optimizer does in its first step."""
    if engine.zero_optimization():
        zero = engine.optimizer
        for partition in zero.single_partition_of_fp32_groups:
            zero.optimizer.state[partition][BUFFER] = torch.zeros_like(partition, requires_grad=False)
        _link_momentum(engine)


def _link_momentum(engine: Any) -> None:
    """Let DeepSpeed's mapping from parameters to the flat partitions see their momentum. DeepSpeed does so once, when
    the first parameter group has taken its first step: the others have no momentum yet then, and would have none."""
    if engine.zero_optimization():
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _check_fit(own: dict[str, Tensor], state: TrainState) -> None:
    for name, tensor in own.items():
        saved = state.tensors.get(MODEL + name)
        if saved is None or saved.shape != tensor.shape:
            shape = "nothing" if saved is None else tuple(saved.shape)
            raise UserError(
                f"{state.source}: holds {shape} for {name}, the model needs {tuple(tensor.shape)}; choose another --out"
            )
    weights = {name: state.tensors[MODEL + name] for name in own}
    if wrong := bad_kind(weights, own) or bad_weight(weights):
        raise UserError(f"{state.source}: {wrong}; the training diverged: choose another --out and a lower optim.lr")


def _check_momentum(module: nn.Module, state: TrainState) -> None:
    for name, parameter in _trained(module):
        saved = state.tensors.get(MOMENTUM + name)
        if saved is None or saved.shape != parameter.shape or not bool(torch.isfinite(saved).all()):
            raise UserError(f"{state.source}: holds no momentum for {name} that can be; choose another --out")


def _from_main(value: Tensor | None, like: Tensor, ranks: Ranks) -> Tensor:
    """Rank 0's value on all ranks, on the device of the process group, in `like`'s shape and type."""
    if ranks.main:
        assert value is not None, "rank 0 has what the checkpoint holds"
        value = value.to(ranks.device, like.dtype).contiguous()
    else:
        value = torch.empty(like.shape, dtype=like.dtype, device=ranks.device)
    if ranks.world > 1:
        dist.broadcast(value, src=0)
    return value
