"""Everything that exists only to be fast on a CPU. `install` is the one way in; nothing of it runs on a GPU.

The networks in pplfast.models read as they run on a GPU, and compute the same without this package.
"""

import torch
from torch import nn


def install(model: nn.Module, device: torch.device) -> None:
    """Let `model` run on `device` by the CPU's own implementations, where `device` is one; elsewhere nothing happens.

    Names and values of the parameters stay. For the whole process, freed memory is kept for the next tensors, and
    OpenMP's threads sleep while they wait as long as other processes want the cores.
    """
    if device.type != "cpu":
        return
    from pplfast.cpu.convolution import CpuConv, CpuMBConv
    from pplfast.cpu.memory import keep_freed_memory
    from pplfast.cpu.strips import CpuPatchClassifier
    from pplfast.cpu.waiting import yield_to_neighbours
    from pplfast.models.efficientnet import MBConv
    from pplfast.models.layers import Conv
    from pplfast.patch.classifier import PatchClassifier

    keep_freed_memory()
    yield_to_neighbours()
    replacements = {Conv: CpuConv, MBConv: CpuMBConv, PatchClassifier: CpuPatchClassifier}
    for module in model.modules():
        module.__class__ = replacements.get(type(module), type(module))
