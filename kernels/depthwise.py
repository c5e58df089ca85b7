"""Depthwise convolution of channels_last maps, each channel with a filter of its own, without a gradient.

cuDNN makes a plan for every new shape of a map, and for a depthwise convolution it compiles code: 160 to 290 ms for
each layer and size on an H200 (other convolutions: 2 to 4 ms). The images of a data set have hundreds of sizes.
Nothing here depends on the size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .layout import empty_packed, packed
from .scale_act import scale_act
from .tail import act_value, load_channels

SIZES = ("H", "W", "OH", "OW", "TOP", "LEFT")
TILE, MOST_CHANNELS = 1024, 64  # numbers of a program's tile, channels of it: 8 numbers a thread
OPTIONS = {"num_warps": 4, "maxnreg": 128}  # without a stated limit ptxas spills 8 bytes in some variants


def depthwise_plain(x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int]) -> Tensor:
    """The definition, differentiable. padding: left, right, top, bottom, as in F.pad."""
    return F.conv2d(F.pad(x, padding), weight, None, stride, groups=x.shape[1])


# Bytes, E = size of an element: read the input once, write the output once. The k*k reads of a pixel come from the L1
# cache: a program's tile is a run of one row's pixels. Eager reads and writes the output again for bias and activation.
@triton.jit(do_not_specialize=SIZES)
def depthwise_kernel(
    x, weight, shift, y, H, W, OH, OW, TOP, LEFT, C,
    K: tl.constexpr, S: tl.constexpr, ACT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program: BP pixels of one row of y, BC channels."""
    row = tl.program_id(0)
    image = (row // OH).to(tl.int64)
    first_y = row % OH * S - TOP
    o_p = tl.program_id(1) * BP + tl.arange(0, BP)
    o_c = tl.program_id(2) * BC + tl.arange(0, BC)
    m_c = o_c < C
    b_sum = tl.zeros([BP, BC], tl.float32)
    for ky in range(K):
        in_y = first_y + ky
        inside = tl.where((in_y >= 0) & (in_y < H), W, 0)  # pixels of that row
        for kx in tl.static_range(K):
            in_x = o_p * S - LEFT + kx
            m_p = (in_x >= 0) & (in_x < inside)
            o_x = (((image * H + in_y) * W + in_x) * C)[:, None] + o_c[None, :]
            b_x = tl.load(x + o_x, mask=m_p[:, None] & m_c[None, :], other=0.0).to(tl.float32)  # [BP, BC]
            b_sum += b_x * tl.load(weight + o_c * (K * K) + (ky * K + kx), mask=m_c, other=0.0).to(tl.float32)[None, :]
    b_y = act_value(b_sum + load_channels(shift, o_c, m_c, 0.0)[None, :], ACT)
    o_y = ((row.to(tl.int64) * OW + o_p) * C)[:, None] + o_c[None, :]
    tl.store(y + o_y, b_y.to(y.dtype.element_ty), mask=(o_p < OW)[:, None] & m_c[None, :])


def depthwise_launch(rows: int, width: int, channels: int) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Launch grid and block sizes for a result of `rows` rows, over all images, of `width` pixels."""
    block_c = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    block_p = max(1, min(triton.next_power_of_2(width), TILE // block_c))
    return (rows, triton.cdiv(width, block_p), triton.cdiv(channels, block_c)), {"BP": block_p, "BC": block_c}


def depthwise(
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: tuple[int, int, int, int],
    shift: Tensor | None = None,
    act: str = "none",
) -> Tensor:
    """act(conv(pad(x), weight) + shift): x (B, C, H, W), weight (C, 1, k, k), both in one dtype; padding: left, right,
    top, bottom, zeros. Returns (B, C, H', W'), channels_last, in that dtype; sums are in float32.

    shift: float32 (C,) or None. Raises ValueError for a weight that is not one square filter a channel, RuntimeError
    where a gradient is wanted: for the fixed sizes of a training cuDNN's plans are made once, and its launches take
    the host less.
    """
    if weight.shape[:2] != (x.shape[1], 1) or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"weight is {tuple(weight.shape)}; must be ({x.shape[1]}, 1, k, k)")
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        raise RuntimeError("depthwise() has no gradient; use depthwise_plain()")
    if not use_triton(x):
        return scale_act(depthwise_plain(x, weight, stride, padding), None, shift, act, inplace=True)
    x, weight = packed(x), weight.contiguous()
    (batch, channels, height, width), kernel = x.shape, weight.shape[2]
    left, right, top, bottom = padding
    rows, columns = (height + top + bottom - kernel) // stride + 1, (width + left + right - kernel) // stride + 1
    y = empty_packed(x, (batch, channels, rows, columns))
    launch, blocks = depthwise_launch(batch * rows, columns, channels)
    run(
        depthwise_kernel, launch, x, x, weight, shift, y, height, width, rows, columns, top, left, channels,
        K=kernel, S=stride, ACT=act, **blocks, **OPTIONS,
    )  # fmt: skip
    return y
