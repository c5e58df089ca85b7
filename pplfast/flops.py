"""The floating-point operations of a training step, and what a device could do of them."""

import math
import re
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from pplfast.kernels.backend import force

TERA = 1e12


def training_flops(model: nn.Module, size: int, device: torch.device) -> int:
    """Operations of a forward and a backward pass of `model`, as it stands, on one image of size x size.

    Counted are the multiplications and additions of convolutions (depthwise ones included) and matrix products: forward
    in all blocks and branches that run; backward where a gradient is wanted, so for frozen blocks not at all. The loss,
    the optimizer and pointwise work are not counted. Branches that run as one batch count as they run: also the
    gradient at the cut of one that stops there, where another's goes on.

    One black image is run through: tensors without values would cost seconds of imports, and some networks cannot do
    without. Parameters, their gradients and buffers stay as they are; random numbers are drawn.
    """
    images = torch.zeros(1, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    search, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False  # for a shape that never comes again
    counter = FlopCounterMode(display=False, custom_mapping=BACKWARD)
    try:
        # Plain PyTorch: the counter does not see into the operators of our own.
        with force("plain"), counter:
            outputs = functional_call(model, buffers, (images,))
            torch.autograd.grad(outputs.sum(), trained, allow_unused=True)
    finally:
        torch.backends.cudnn.benchmark = search
    return int(counter.get_total_flops())


def _convolution_backward(
    grad_shape: list[int], x_shape: list[int], w_shape: list[int], *others: Any, out_shape: Any, **options: Any
) -> int:
    """As many operations as the forward pass for each of the two gradients that is wanted.

    torch 2.13 counts the weight gradient of a depthwise convolution as if it were a dense one.
    """
    *_, transposed, _, _, output_mask = others
    gradients: int = sum(output_mask[:2])
    return 2 * math.prod(x_shape if transposed else grad_shape) * math.prod(w_shape[1:]) * gradients


BACKWARD = {torch.ops.aten.convolution_backward: _convolution_backward}  # as FlopCounterMode's custom_mapping

# GPU name, as the driver gives it -> TFLOP/s, dense (data sheets that print rates "with sparsity" are halved): products
# of half-precision operands summed in float32 on tensor cores, in bf16 and in fp16 (None: the GPU has none), and
# float32 without TF32, which pplfast does not use. Sources: NVIDIA's data sheets of each product, for GeForce and RTX
# the white papers of their architecture. Whole names only: a MIG slice, a laptop's or a national variant is another
# GPU.
_PEAKS: dict[str, tuple[float | None, float, float]] = {
    r"NVIDIA B200": (2250, 2250, 75),
    r"NVIDIA H200": (989.4, 989.4, 66.9),
    r"NVIDIA H200 NVL": (835.5, 835.5, 60),
    r"NVIDIA GH200 (96GB HBM3|120GB|144G HBM3e|480GB)": (989.4, 989.4, 66.9),
    r"NVIDIA H100 80GB HBM3": (989.4, 989.4, 66.9),
    r"NVIDIA H100 NVL": (835.5, 835.5, 60),
    r"NVIDIA H100 PCIe": (756, 756, 51),
    r"NVIDIA A100(-SXM4-[48]0GB|-PCIE-40GB| 80GB PCIe)": (312, 312, 19.5),
    r"NVIDIA A40": (149.7, 149.7, 37.4),
    r"NVIDIA A10": (125, 125, 31.2),
    r"NVIDIA RTX A6000": (154.8, 154.8, 38.7),
    r"NVIDIA L40S": (362, 362, 91.6),
    r"NVIDIA L40": (181, 181, 90.5),
    r"NVIDIA L4": (121, 121, 30.3),
    r"NVIDIA RTX 6000 Ada Generation": (364.2, 364.2, 91.1),
    r"NVIDIA GeForce RTX 4090": (165.2, 165.2, 82.6),
    r"NVIDIA GeForce RTX 3090": (71, 71, 35.6),
    r"Tesla V100-SXM[23]-(16|32)GB(-LS)?": (None, 125, 15.7),
    r"Tesla V100-PCIE-(16|32)GB": (None, 112, 14),
    r"Tesla V100S-PCIE-32GB": (None, 130, 16.4),
    r"Tesla T4": (None, 65, 8.1),
}


def peak_flops(name: str, precision: str) -> float | None:
    """FLOP/s that NVIDIA states for the GPU of this name at `precision` ("bf16", "fp16", "fp32"); None: not known."""
    rates = next((rates for pattern, rates in _PEAKS.items() if re.fullmatch(pattern, name)), None)
    rate = None if rates is None else rates[("bf16", "fp16", "fp32").index(precision)]
    return None if rate is None else rate * TERA


def device_peak(device: torch.device, precision: str) -> float | None:
    """`peak_flops` of a device. None for a CPU: its peak depends on clocks and instructions that no table has, and a
    product timed at the start would measure the other processes too."""
    return peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
