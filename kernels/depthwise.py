"""Depthwise convolution of channels_last maps, each channel with a filter of its own.

cuDNN builds a plan for every new shape of a map, and for depthwise convolutions it compiles one: measured on an H200,
0.1 to 0.3 s for each layer and size. Images of a data set have hundreds of sizes. Nothing here depends on the size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .layout import empty_packed, packed
from .scale_act import scale_act
from .tail import act_value, load_channels

SIZES = ("H", "W", "OH", "OW", "TOP", "LEFT")
TILE, MOST_CHANNELS, WARPS = 1024, 64, 4  # numbers of a program's tile, channels of it: 8 a thread
WEIGHT_PROGRAMS = 2048  # of the weight's gradient, about: each sums some rows of the map for one tap


def depthwise_plain(x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int]) -> Tensor:
    """The definition, differentiable. padding: left, right, top, bottom, as in F.pad."""
    return F.conv2d(F.pad(x, padding), weight, None, stride, groups=x.shape[1])


# Bytes, E = size of an element, N and M = numbers of the input and of the output:
#   forward          read N, write M: E * (N + M)
#   gradient of x    read M, write N: E * (N + M)
#   gradient of w    read N and M for each of the k*k taps, from the L2 cache but for the first: E * (N + M)
# The k*k reads of a pixel come from the L1 cache: a program's tile is a run of one row's pixels.
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


@triton.jit(do_not_specialize=SIZES)
def depthwise_input_kernel(
    grad, weight, grad_x, H, W, OH, OW, TOP, LEFT, C,
    K: tl.constexpr, S: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program: BP pixels of one row of x, BC channels. Output pixel o reads input pixel S * o - before + tap."""
    row = tl.program_id(0)
    image = (row // H).to(tl.int64)
    in_y = row % H
    o_p = tl.program_id(1) * BP + tl.arange(0, BP)
    o_c = tl.program_id(2) * BC + tl.arange(0, BC)
    m_c = o_c < C
    b_sum = tl.zeros([BP, BC], tl.float32)
    for ky in range(K):
        far_y = in_y + TOP - ky  # S times the output row
        inside = tl.where((far_y >= 0) & (far_y % S == 0) & (far_y // S < OH), OW, 0)
        for kx in tl.static_range(K):
            far_x = o_p + LEFT - kx
            m_p = (far_x >= 0) & (far_x % S == 0) & (far_x // S < inside)
            o_g = (((image * OH + far_y // S) * OW + far_x // S) * C)[:, None] + o_c[None, :]
            b_g = tl.load(grad + o_g, mask=m_p[:, None] & m_c[None, :], other=0.0).to(tl.float32)  # [BP, BC]
            b_sum += b_g * tl.load(weight + o_c * (K * K) + (ky * K + kx), mask=m_c, other=0.0).to(tl.float32)[None, :]
    o_x = ((row.to(tl.int64) * W + o_p) * C)[:, None] + o_c[None, :]
    tl.store(grad_x + o_x, b_sum.to(grad_x.dtype.element_ty), mask=(o_p < W)[:, None] & m_c[None, :])


@triton.jit(do_not_specialize=(*SIZES, "ROWS", "SHARE"))
def depthwise_weight_kernel(
    x, grad, parts, H, W, OH, OW, TOP, LEFT, ROWS, SHARE, C,
    K: tl.constexpr, S: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program: SHARE rows of the output, one tap, BC channels, into parts (programs, taps, C): summed afterwards,
    without atomics, so that repeated runs agree bit by bit."""
    tap = tl.program_id(1)
    ky = tap // K
    kx = tap % K
    o_c = tl.program_id(2) * BC + tl.arange(0, BC)
    m_c = o_c < C
    b_sum = tl.zeros([BP, BC], tl.float32)
    first = tl.program_id(0) * SHARE
    for i in range(0, SHARE):
        row = first + i
        in_y = row % OH * S - TOP + ky
        inside = tl.where((row < ROWS) & (in_y >= 0) & (in_y < H), W, 0)
        if inside > 0:
            image_row = (row // OH).to(tl.int64) * H + in_y
            for start in range(0, OW, BP):
                o_p = start + tl.arange(0, BP)
                in_x = o_p * S - LEFT + kx
                m = ((o_p < OW) & (in_x >= 0) & (in_x < inside))[:, None] & m_c[None, :]
                o_x = ((image_row * W + in_x) * C)[:, None] + o_c[None, :]
                o_g = ((row.to(tl.int64) * OW + o_p) * C)[:, None] + o_c[None, :]
                b_x = tl.load(x + o_x, mask=m, other=0.0).to(tl.float32)
                b_sum += b_x * tl.load(grad + o_g, mask=m, other=0.0).to(tl.float32)
    o_part = (tl.program_id(0).to(tl.int64) * (K * K) + tap) * C + o_c
    tl.store(parts + o_part, tl.sum(b_sum, 0), mask=m_c)


def depthwise_tile(width: int, channels: int) -> dict[str, int]:
    """Block sizes over rows of `width` pixels."""
    block_c = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    return {"BP": max(1, min(triton.next_power_of_2(width), TILE // block_c)), "BC": block_c}


class _Shape:
    """What the kernels want to know of x (B, C, H, W), its output and the filter."""

    def __init__(self, x: Tensor, kernel: int, stride: int, padding: tuple[int, int, int, int]) -> None:
        left, right, top, bottom = padding
        self.batch, self.channels, self.height, self.width = x.shape
        self.out_height = (self.height + top + bottom - kernel) // stride + 1
        self.out_width = (self.width + left + right - kernel) // stride + 1
        self.sizes = (self.height, self.width, self.out_height, self.out_width, top, left)
        self.kernel, self.stride = kernel, stride

    @property
    def output(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.out_height, self.out_width

    def launch(self, height: int, width: int) -> tuple[tuple[int, int, int], dict[str, int]]:
        """Over rows of `width` pixels, `height` an image."""
        blocks = depthwise_tile(width, self.channels)
        grid = (self.batch * height, triton.cdiv(width, blocks["BP"]), triton.cdiv(self.channels, blocks["BC"]))
        return grid, blocks | {"num_warps": WARPS}


def _forward(x: Tensor, weight: Tensor, shift: Tensor | None, act: str, size: _Shape) -> Tensor:
    y = empty_packed(x, size.output)
    launch, options = size.launch(size.out_height, size.out_width)
    run(
        depthwise_kernel, launch, x, x, weight, shift, y, *size.sizes, size.channels, K=size.kernel, S=size.stride,
        ACT=act, **options,
    )  # fmt: skip
    return y


def _grad_x(grad: Tensor, weight: Tensor, size: _Shape) -> Tensor:
    grad_x = empty_packed(grad, (size.batch, size.channels, size.height, size.width))
    launch, options = size.launch(size.height, size.width)
    run(
        depthwise_input_kernel, launch, grad, grad, weight, grad_x, *size.sizes, size.channels, K=size.kernel,
        S=size.stride, **options,
    )  # fmt: skip
    return grad_x


def _grad_weight(x: Tensor, grad: Tensor, size: _Shape) -> Tensor:
    """(C, 1, k, k), float32."""
    taps, rows = size.kernel**2, size.batch * size.out_height
    (_, _, blocks), options = size.launch(size.out_height, size.out_width)
    share = triton.cdiv(rows, max(1, WEIGHT_PROGRAMS // (taps * blocks)))
    programs = triton.cdiv(rows, share)
    parts = x.new_empty((programs, taps, size.channels), dtype=torch.float32)
    run(
        depthwise_weight_kernel, (programs, taps, blocks), x, x, grad, parts, *size.sizes, rows, share, size.channels,
        K=size.kernel, S=size.stride, **options,
    )  # fmt: skip
    return parts.sum(0).t().reshape(size.channels, 1, size.kernel, size.kernel)


class _Depthwise(torch.autograd.Function):
    """No registered operator, for the reason of scale_act's: many small ones in a step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.size = _Shape(x, weight.shape[2], stride, padding)
        return _forward(x, weight, None, "none", ctx.size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad = packed(grad)
        grad_x = _grad_x(grad, weight, ctx.size) if ctx.needs_input_grad[0] else None
        grad_weight = _grad_weight(x, grad, ctx.size).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None


def depthwise(
    x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int], shift: Tensor | None = None,
    act: str = "none",
) -> Tensor:  # fmt: skip
    """act(conv(pad(x), weight) + shift): x (B, C, H, W), weight (C, 1, k, k), both in one dtype; padding: left, right,
    top, bottom, zeros. Returns (B, C, H', W'), channels_last, in that dtype; sums are in float32.

    Differentiable with respect to x and weight. shift: float32 (C,) or None. Raises ValueError for a weight that is
    not one square filter a channel.
    """
    if weight.shape[:2] != (x.shape[1], 1) or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"weight is {tuple(weight.shape)}; must be ({x.shape[1]}, 1, k, k)")
    if not use_triton(x) or torch.compiler.is_compiling():
        y = depthwise_plain(x, weight, stride, padding)
    else:
        x, weight = packed(x), weight.contiguous()
        if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
            return _forward(x, weight, shift, act, _Shape(x, weight.shape[2], stride, padding))
        y = _Depthwise.apply(x, weight, stride, padding)
    return y if shift is None and act == "none" else scale_act(y, None, shift, act, inplace=True)
