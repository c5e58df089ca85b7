"""M, the merge: (B*K*K, C, h, w) -> (B, C, H, W), fused with the tail and with the write into a larger tensor."""

import torch
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .geometry import valid_extents
from .layout import elements, empty_packed, last, packed, patch_row, row_launch, tile
from .tail import act_slope, act_value, affine_act, check_tail, load_channels, slope_last, tail_last


def patch_merge_plain(
    patches: Tensor, grid: int, height: int, width: int,
    scale: Tensor | None = None, shift: Tensor | None = None, act: str = "none",
) -> Tensor:  # fmt: skip
    """The definition: stitch the patches together, crop the padding, apply the tail."""
    count, channels, h, w = patches.shape
    batch = count // (grid * grid)
    whole = patches.reshape(batch, grid, grid, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    whole = whole.reshape(batch, channels, grid * h, grid * w)[:, :, :height, :width]
    return affine_act(whole, scale, shift, act).to(patches.dtype)


# Bytes, E = size of an element, N = B*C*H*W, P = B*K*K*C*h*w (= N without padding):
#   forward   read N (the cropped cells are not touched), write N: E * 2 N
#   backward  read N (grad), N (patches, only with an activation), write P: E * (2 N + P)
@triton.jit
def _merge_kernel(
    patches, out, scale, shift, K, h, w, H, W, C, out_channels, offset,
    ACT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    patch_pixel, map_pixel, inside, _, _ = patch_row(tl.program_id(0), K, h, w, H, W)
    o_p, o_c = tile(BP, BC)
    m_c = o_c < C
    m_in = (o_p < inside)[:, None] & m_c[None, :]
    b_x = tl.load(patches + elements(patch_pixel, o_p, o_c, C), mask=m_in, other=0.0).to(tl.float32)  # [BP, BC]
    b_scale = load_channels(scale, o_c, m_c, 1.0)
    b_shift = load_channels(shift, o_c, m_c, 0.0)
    b_y = act_value(b_x * b_scale[None, :] + b_shift[None, :], ACT)
    o_out = elements(map_pixel, o_p, o_c, out_channels) + offset
    tl.store(out + o_out, b_y.to(out.dtype.element_ty), mask=m_in)


@triton.jit
def _merge_backward_kernel(
    grad, patches, grad_patches, scale, shift, K, h, w, H, W, C,
    ACT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    patch_pixel, map_pixel, inside, _, _ = patch_row(tl.program_id(0), K, h, w, H, W)
    o_p, o_c = tile(BP, BC)
    m_c = o_c < C
    m_in = (o_p < inside)[:, None] & m_c[None, :]
    o_patch = elements(patch_pixel, o_p, o_c, C)
    b_scale = load_channels(scale, o_c, m_c, 1.0)
    b_grad = tl.load(grad + elements(map_pixel, o_p, o_c, C), mask=m_in, other=0.0).to(tl.float32)  # [BP, BC]
    b_grad *= b_scale[None, :]
    if ACT != "none":
        b_shift = load_channels(shift, o_c, m_c, 0.0)
        b_x = tl.load(patches + o_patch, mask=m_in, other=0.0).to(tl.float32)
        b_grad = act_slope(b_grad, b_x * b_scale[None, :] + b_shift[None, :], ACT)
    m_out = (o_p < w)[:, None] & m_c[None, :]  # the cropped cells get 0
    tl.store(grad_patches + o_patch, b_grad.to(grad_patches.dtype.element_ty), mask=m_out)


def launch_merge(
    patches: Tensor, grid: int, out: Tensor, offset: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> None:
    """Write the merge into channels [offset, offset + C) of `out`; both are packed."""
    count, channels, h, w = patches.shape
    height, width = out.shape[2:]
    launch, blocks = row_launch(count * h, w, channels, patches.dtype)
    run(
        _merge_kernel, launch, patches, patches, out, scale, shift, grid, h, w, height, width, channels, out.shape[1],
        offset, ACT=act, **blocks,
    )  # fmt: skip


def merge_into(patches: Tensor, grid: int, out: Tensor, scale: Tensor | None = None, shift: Tensor | None = None,
               act: str = "none") -> None:  # fmt: skip
    """Plain version, `patches` packed, `out` a (B, C, H, W) view of any strides: one strided copy per position."""
    count, channels, h, w = patches.shape
    height, width = out.shape[2:]
    target, source = last(out), last(patches).view(count // (grid * grid), grid, grid, h, w, channels)
    for ky, rows in enumerate(valid_extents(h, grid, height)):
        for kx, columns in enumerate(valid_extents(w, grid, width)):
            part = source[:, ky, kx, :rows, :columns]
            if scale is not None or shift is not None or act != "none":
                part = tail_last(part, scale, shift, act)
            target[:, ky * h : ky * h + rows, kx * w : kx * w + columns] = part


def _map_shape(patches: Tensor, grid: int, height: int, width: int) -> tuple[int, int, int, int]:
    return patches.shape[0] // (grid * grid), patches.shape[1], height, width


@torch.library.custom_op("pplfast::patch_merge", mutates_args=())
def _patch_merge(
    patches: Tensor, grid: int, height: int, width: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> Tensor:
    patches, out = packed(patches), empty_packed(patches, _map_shape(patches, grid, height, width))
    if use_triton(patches):
        launch_merge(patches, grid, out, 0, scale, shift, act)
    else:
        merge_into(patches, grid, out, scale, shift, act)
    return out


@_patch_merge.register_fake
def _(patches, grid, height, width, scale, shift, act):
    return empty_packed(patches, _map_shape(patches, grid, height, width))


@torch.library.custom_op("pplfast::patch_merge_backward", mutates_args=())
def _patch_merge_backward(
    grad: Tensor, patches: Tensor, grid: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> Tensor:
    channels, h, w = patches.shape[1:]
    height, width = grad.shape[2:]
    grad, patches, out = packed(grad), packed(patches), empty_packed(patches, patches.shape)
    if use_triton(patches):
        launch, blocks = row_launch(patches.shape[0] * h, w, channels, patches.dtype)
        run(
            _merge_backward_kernel, launch, patches, grad, patches, out, scale, shift, grid, h, w, height, width,
            channels, ACT=act, **blocks,
        )  # fmt: skip
        return out
    shape = (grad.shape[0], grid, grid, h, w, channels)
    source, cells, target = last(grad), last(patches).view(shape), last(out).view(shape)
    wide = torch.promote_types(patches.dtype, torch.float32)
    for ky, rows in enumerate(valid_extents(h, grid, height)):
        for kx, columns in enumerate(valid_extents(w, grid, width)):
            upper = source[:, ky * h : ky * h + rows, kx * w : kx * w + columns].to(wide)
            part = target[:, ky, kx]
            part[:, :rows, :columns] = slope_last(cells[:, ky, kx, :rows, :columns], scale, shift, act, upper)
            part[:, rows:] = 0
            part[:, :rows, columns:] = 0
    return out


@_patch_merge_backward.register_fake
def _(grad, patches, grid, scale, shift, act):
    return empty_packed(patches, patches.shape)


def _merge_setup(ctx, inputs, output) -> None:
    patches, ctx.grid, _, _, scale, shift, ctx.act = inputs
    ctx.save_for_backward(patches, scale, shift)


def _merge_backward(ctx, grad):
    patches, scale, shift = ctx.saved_tensors
    grad = torch.ops.pplfast.patch_merge_backward(grad, patches, ctx.grid, scale, shift, ctx.act)
    return grad, None, None, None, None, None, None


_patch_merge.register_autograd(_merge_backward, setup_context=_merge_setup)


@torch.library.custom_op("pplfast::patch_merge_into", mutates_args=("out",))
def _patch_merge_into(
    out: Tensor, offset: int, patches: Tensor, grid: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> None:
    patches = packed(patches)
    if use_triton(patches):
        launch_merge(patches, grid, out, offset, scale, shift, act)
    else:
        merge_into(patches, grid, out[:, offset : offset + patches.shape[1]], scale, shift, act)


def patch_merge(
    patches: Tensor, grid: int, height: int, width: int,
    scale: Tensor | None = None, shift: Tensor | None = None, act: str = "none",
    out: Tensor | None = None, offset: int = 0,
) -> Tensor:  # fmt: skip
    """Stitch patches (B*K*K, C, h, w), crop to height x width, apply act(x * scale + shift): (B, C, height, width).

    The result has the patches' dtype and is channels_last. With `out` (B, C', height, width), channels_last, it is
    written into the channels [offset, offset + C) of it and `out` is returned. Differentiable with respect to
    `patches`; under autograd the write into `out` costs a copy. Raises ValueError for sizes that do not fit.
    """
    count, channels, h, w = patches.shape
    check_tail(channels, scale, shift, act)
    if count % (grid * grid) or grid * h < height or grid * w < width:
        raise ValueError(f"patches {tuple(patches.shape)} of a {grid} x {grid} grid do not cover {height} x {width}")
    if out is None:
        return _patch_merge(patches, grid, height, width, scale, shift, act)
    if out.shape != (count // (grid * grid), out.shape[1], height, width) or offset + channels > out.shape[1]:
        raise ValueError(f"out {tuple(out.shape)} has no room for {channels} channels at {offset}, {height} x {width}")
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError("out must be channels_last")
    if torch.is_grad_enabled() and (patches.requires_grad or out.requires_grad):
        merged = _patch_merge(patches, grid, height, width, scale, shift, act)
        out[:, offset : offset + channels] = merged.to(out.dtype)
    else:
        _patch_merge_into(out, offset, patches, grid, scale, shift, act)
    return out
