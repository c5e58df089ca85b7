"""Class activation maps straight from patch layouts and the global map: neither merge nor concatenation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .layout import as_floats, last, packed
from .patch_merge import merge_into, patch_merge_plain
from .tail import act_value, affine_act, check_tail, load_channels, tail_last


def cam_head_plain(
    patches: list[tuple[Tensor, int]], global_map: Tensor, weight: Tensor, height: int, width: int,
    scale: Tensor | None = None, shift: Tensor | None = None, act: str = "none", classes: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The definition: merge, concatenate [M_1 .. M_S ; global], 1x1 convolution, ReLU, pick each image's classes."""
    sources = [*patches, (global_map, 1)]
    whole = torch.cat([affine_act(patch_merge_plain(t, k, height, width), scale, shift, act) for t, k in sources], 1)
    maps = F.conv2d(whole, weight.to(whole.dtype).view(*weight.shape[:2], 1, 1)).relu()
    if classes is None:
        return maps
    chosen = maps.gather(1, classes.clamp(min=0)[:, :, None, None].expand(-1, -1, height, width))
    return chosen * (classes >= 0)[:, :, None, None]


# Bytes, E = size of an element, N = B*C*H*W, S patch branches, n classes: read E * (S + 1) * N, write 4 * B*n*H*W;
# the weights, (S + 1)*C*n, stay in the L2 cache. 2 * (S + 1) * N * n FLOPs: with n = 20 and bf16, 20 FLOPs a byte,
# memory-bound on every GPU. Eager moves about E * 11 N (two merges and tails, concatenation, convolution).
@triton.jit(do_not_specialize=("H", "W", "n"))
def cam_head_kernel(
    sources, grids, hs, ws, weight, scale, shift, classes, out, H, W, C, n,
    SOURCES: tl.constexpr, ACT: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program: BP pixels of one image, so that its classes are one set of rows of the weight; a gather GEMM."""
    blocks = tl.cdiv(H * W, BP)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    o_p = tl.program_id(0) % blocks * BP + tl.arange(0, BP)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    m_p = o_p < H * W
    m_n = o_n < n
    if classes is not None:
        row = tl.load(classes + image * n + o_n, mask=m_n, other=-1).to(tl.int64)
    else:
        row = o_n.to(tl.int64)
    m_row = m_n & (row >= 0)
    Y = o_p // W
    X = o_p % W
    acc = tl.zeros([BP, BN], tl.float32)
    for s in tl.static_range(SOURCES):
        h = tl.cast(hs[s], tl.int32)
        w = tl.cast(ws[s], tl.int32)
        ky = Y // h
        kx = X // w
        patch = (image * grids[s] + ky) * grids[s] + kx
        cell = (patch * h + (Y - ky * h)) * w + (X - kx * w)
        p_x = sources[s] + cell[:, None] * C
        p_w = weight + (row * (SOURCES * C) + s * C)[None, :]
        for start in range(0, C, BK):
            o_c = start + tl.arange(0, BK)
            m_c = o_c < C
            b_x = tl.load(p_x + o_c[None, :], mask=m_p[:, None] & m_c[None, :], other=0.0)  # [BP, BK]
            b_w = tl.load(p_w + o_c[:, None], mask=m_c[:, None] & m_row[None, :], other=0.0)  # [BK, BN]
            b_scale = load_channels(scale, o_c, m_c, 1.0)
            b_shift = load_channels(shift, o_c, m_c, 0.0)
            b_z = act_value(b_x.to(tl.float32) * b_scale[None, :] + b_shift[None, :], ACT)
            # Channels beyond C meet zero weights; the dtype of the product is that of the maps.
            acc = tl.dot(b_z.to(b_x.dtype), b_w.to(b_x.dtype), acc, input_precision=PRECISION)
    acc = tl.where(acc < 0, 0.0, acc)
    o_out = ((image * n + o_n)[None, :] * H + Y[:, None]) * W + X[:, None]
    tl.store(out + o_out, acc, mask=m_p[:, None] & m_n[None, :])


def head_blocks(dtype: torch.dtype, classes: int, tiles: int, sources: int) -> dict[str, int | str]:
    """Block sizes; `tiles` is the number of 64-pixel tiles of all images."""
    wide = dtype == torch.float32
    return {
        "BP": 64 if tiles >= 512 else 32,  # a single image has few pixels: smaller tiles reach more of the GPU
        # 128 bytes of a pixel, or 64 where the addresses of more sources take the registers
        "BK": (64 if sources > 3 else 128) // dtype.itemsize,
        "BN": max(16, min(triton.next_power_of_2(classes), 64)),
        # three tf32 products give float32 accuracy on tensor cores; "ieee" would be bound by arithmetic
        "PRECISION": "tf32x3" if wide else "ieee",
        "num_warps": 4,
        "num_stages": 3,
        "maxnreg": 192,  # stated, or ptxas stops at 168 in some variants and spills 8 bytes for it
    }


def head_launch(
    batch: int, classes: int, height: int, width: int, dtype: torch.dtype, sources: int
) -> tuple[tuple[int, int], dict[str, int | str]]:
    """Launch grid and block sizes. Pixels lie on axis 0: the others end at 65,535."""
    blocks = head_blocks(dtype, classes, batch * triton.cdiv(height * width, 64), sources)
    return (batch * triton.cdiv(height * width, blocks["BP"]), triton.cdiv(classes, blocks["BN"])), blocks


def _launch(sources: list[Tensor], grids: list[int], weight: Tensor, scale: Tensor | None, shift: Tensor | None,
            act: str, classes: Tensor | None, out: Tensor) -> None:  # fmt: skip
    batch, n, height, width = out.shape
    launch, blocks = head_launch(batch, n, height, width, sources[0].dtype, len(sources))
    run(
        cam_head_kernel, launch, out,
        tuple(sources), tuple(grids), as_floats(s.shape[2] for s in sources), as_floats(s.shape[3] for s in sources),
        weight, scale, shift, classes, out, height, width, sources[0].shape[1], n,
        SOURCES=len(sources), ACT=act, **blocks,
    )  # fmt: skip


def _plain(sources: list[Tensor], grids: list[int], weight: Tensor, scale: Tensor | None, shift: Tensor | None,
           act: str, classes: Tensor | None, out: Tensor) -> None:  # fmt: skip
    """The classifier is linear: it goes first, on each layout as it lies, and only its n maps are merged and added."""
    batch, n = out.shape[:2]
    channels = sources[0].shape[1]
    rows = weight.to(out.dtype).view(weight.shape[0], len(sources), channels)
    if classes is not None:
        rows = rows[classes.clamp(min=0)] * (classes >= 0)[:, :, None, None]  # (B, n, sources, C)
    for s, (source, grid) in enumerate(zip(sources, grids, strict=True)):
        cells = tail_last(last(source), scale, shift, act).view(batch, -1, channels)
        maps = cells @ rows[..., s, :].transpose(-1, -2)  # (B, K*K*h*w, n)
        maps = maps.view(*source.shape[:1], *source.shape[2:], n).permute(0, 3, 1, 2)
        if grid == 1:
            merged = maps[:, :, : out.shape[2], : out.shape[3]]
        else:
            merged = torch.empty_like(out)
            merge_into(maps, grid, merged)
        if s == 0:
            out.copy_(merged)
        else:
            out += merged
    out.relu_()


def _output(sources: list[Tensor], grids: list[int], weight: Tensor, height: int, width: int,
            classes: Tensor | None) -> Tensor:  # fmt: skip
    batch = sources[0].shape[0] // grids[0] ** 2
    n = weight.shape[0] if classes is None else classes.shape[1]
    dtype = torch.promote_types(sources[0].dtype, torch.float32)
    return torch.empty((batch, n, height, width), dtype=dtype, device=sources[0].device)


@torch.library.custom_op("pplfast::cam_head", mutates_args=())
def _cam_head(
    sources: list[Tensor], grids: list[int], weight: Tensor, height: int, width: int, scale: Tensor | None,
    shift: Tensor | None, act: str, classes: Tensor | None,
) -> Tensor:  # fmt: skip
    out = _output(sources, grids, weight, height, width, classes)
    compute = _launch if use_triton(sources[0]) else _plain
    compute([packed(source) for source in sources], grids, weight.contiguous(), scale, shift, act,
        None if classes is None else classes.contiguous(), out)  # fmt: skip
    return out


@_cam_head.register_fake
def _(
    sources: list[Tensor], grids: list[int], weight: Tensor, height: int, width: int, scale: Tensor | None,
    shift: Tensor | None, act: str, classes: Tensor | None,
) -> Tensor:  # fmt: skip
    return _output(sources, grids, weight, height, width, classes)


def cam_head(
    patches: list[tuple[Tensor, int]], global_map: Tensor, weight: Tensor, height: int, width: int,
    scale: Tensor | None = None, shift: Tensor | None = None, act: str = "none",
    classes: Tensor | list[list[int]] | None = None,
) -> Tensor:  # fmt: skip
    """ReLU of the classifier's maps of [M_1 .. M_S ; global]: float32 (B, n, height, width), NCHW. No backward.

    patches: for each branch the final patches (B*K*K, C, h, w) and K; global_map: (B, C, height, width); weight:
    (n, (S+1)*C), or a 1x1 convolution's (n, (S+1)*C, 1, 1). act(x * scale + shift) is applied to every source on the
    way. classes: the classes wanted of each image, (B, k) padded with -1; the result is then (B, k, height, width),
    0 where padded. Products are in the sources' dtype, sums in float32. Raises ValueError for sizes that do not fit.
    """
    weight = weight.flatten(1)
    batch, channels, global_height, global_width = global_map.shape
    check_tail(channels, scale, shift, act)
    if (global_height, global_width) != (height, width):
        raise ValueError(f"the global map is {global_height} x {global_width}, not {height} x {width}")
    if weight.shape[1] != (len(patches) + 1) * channels:
        raise ValueError(f"weight {tuple(weight.shape)} does not match {len(patches) + 1} maps of {channels} channels")
    for tensor, grid in patches:
        count, own, h, w = tensor.shape
        if count != batch * grid * grid or own != channels or grid * h < height or grid * w < width:
            raise ValueError(f"patches {tuple(tensor.shape)} of a {grid} x {grid} grid do not fit the global map "
                             f"{tuple(global_map.shape)}")  # fmt: skip
        if tensor.dtype != global_map.dtype:
            raise ValueError(f"patches are {tensor.dtype}, the global map is {global_map.dtype}")
    if classes is not None:
        classes = torch.as_tensor(classes, dtype=torch.int64, device=global_map.device)
        if classes.dim() != 2 or classes.shape[0] != batch:
            raise ValueError(f"classes has shape {tuple(classes.shape)}; must be ({batch}, k)")
    sources, grids = [tensor for tensor, _ in patches] + [global_map], [grid for _, grid in patches] + [1]
    return _cam_head(sources, grids, weight, height, width, scale, shift, act, classes)
