"""M, the merge: (B*K*K, C, h, w) -> (B, C, H, W), fused with the tail and with the write into a larger tensor."""

from torch import Tensor

from .tail import affine_act


def patch_merge_plain(
    patches: Tensor,
    grid: int,
    height: int,
    width: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
) -> Tensor:
    """The definition: stitch the patches together, crop the padding, apply the tail."""
    count, channels, h, w = patches.shape
    batch = count // (grid * grid)
    whole = patches.reshape(batch, grid, grid, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    whole = whole.reshape(batch, channels, grid * h, grid * w)[:, :, :height, :width]
    return affine_act(whole, scale, shift, act).to(patches.dtype)


def patch_merge(
    patches: Tensor,
    grid: int,
    height: int,
    width: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
    out: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    merged = patch_merge_plain(patches, grid, height, width, scale, shift, act)
    if out is None:
        return merged
    out[:, offset : offset + merged.shape[1]] = merged
    return out
