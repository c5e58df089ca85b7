"""Are the ranks still one network? Looked at where a stage ends: one pass over the weights, one small message.

A checksum is the sum of a tensor's bits taken as integers: any single changed value shows, on any device, without a
copy to the host.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pplfast.cluster.ranks import EveryRankError, OtherRankError, Ranks

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


def frozen_checksums(model: nn.Module) -> dict[str, int]:
    """Of the parameters that this stage must leave as they are."""
    frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return dict(zip(frozen, checksums(list(frozen.values())).tolist(), strict=True))


def check_ranks(model: nn.Module, frozen: dict[str, int], ranks: Ranks, stage: int) -> None:
    """Called by all ranks at the end of a stage; frozen: `frozen_checksums` of its start. Raises EveryRankError (and
    OtherRankError) if parameters or buffers differ between ranks, or a frozen parameter has changed."""
    tensors = model.state_dict()
    names, own = list(tensors), checksums(list(tensors.values())).to(ranks.device)
    shares = [torch.empty_like(own) for _ in range(ranks.world)]
    if ranks.world > 1:
        dist.all_gather(shares, own)
    else:
        shares = [own]
    found = torch.stack(shares).cpu()
    differing = [k for k in range(len(names)) if (found[:, k] != found[0, k]).any()]
    if differing:
        usual = found[:, differing[0]].mode().values
        odd = [str(rank) for rank in range(ranks.world) if found[rank, differing[0]] != usual]
        _refuse(
            ranks,
            f"stage {stage}: {_name([names[k] for k in differing])} differ between ranks (rank "
            f"{', '.join(odd[:8])} from most others); check the memory and the network of that host, then "
            f"start again with --resume",
        )
    now = dict(zip(names, found[0].tolist(), strict=True))
    changed = [name for name, value in frozen.items() if now[name] != value]
    if changed:
        _refuse(
            ranks,
            f"stage {stage}: {_name(changed)} should be frozen, but changed; this is an error of pplfast or "
            f"of DeepSpeed: report it with the versions in recipe.json",
        )


def checksums(tensors: list[Tensor]) -> Tensor:
    """int64 (len(tensors),)"""
    if not tensors:
        return torch.zeros(0, dtype=torch.int64)
    return torch.stack(
        [tensor.detach().view(INTEGERS[tensor.element_size()]).sum(dtype=torch.int64) for tensor in tensors]
    )


def _name(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more tensors" if len(names) > 1 else "")


def _refuse(ranks: Ranks, message: str) -> None:
    raise (EveryRankError if ranks.main else OtherRankError)(message)
