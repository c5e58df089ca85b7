"""The maps of one image that is too large to go through the network at once: in tiles, its patches cut by the grid of
the whole image.

The image is padded to multiples of the blocks' strides, as the classifier pads it, and a tile begins at one: padding
that goes by the parity of a map's size, as TensorFlow's, then puts every window where it lies in the whole map.
"""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor, nn

from pplfast.kernels import cam_head
from pplfast.kernels.geometry import PatchGrid, ceil_div, valid_extents
from pplfast.models.backbone import Backbone
from pplfast.patch.branches import Cut, remaining_stride
from pplfast.patch.classifier import PatchClassifier

# Pixels that a tile sees beyond its own part, on each side where there are any: what its blocks reach, within bounds.
LEAST_OVERLAP, MOST_OVERLAP = 32, 256
SMALLEST = 128  # pixels on a side of a tile's own part
SMALL_MAP = 4.0  # numbers for each pixel of the image: a map that is kept whole between two blocks has no more

Place = tuple[slice, slice]  # rows, columns


@torch.no_grad()
def tiled_maps(model: PatchClassifier, image: Tensor, classes: Tensor | None, most_pixels: int) -> Tensor:
    """image (1, 3, height, width) -> `model.maps(image, classes)`, float32 (1, n, H, W), in tiles.

    classes: int64 (1, n), or None for all. most_pixels: of a tile with its overlap; tiles of SMALLEST pixels and their
    overlap are taken in any case. Memory: that of `model.maps` on so many pixels, and two feature maps of the whole
    image, of SMALL_MAP numbers a pixel each, or of what there are at a cut.

    How exact: up to rounding where a tile's overlap covers what its blocks reach. The whole map is put together behind
    each block that makes a small one, so these are few blocks: of the networks of pplfast, ResNet-101 at output stride
    8 alone reaches further than MOST_OVERLAP. An own backbone's reach is that of its modules with a kernel_size; what
    it computes by functions has LEAST_OVERLAP, and nothing covers a mean over the whole map.
    Raises ValueError for more than one image, RuntimeError for an explicit classifier without cuts.
    """
    if len(image) != 1:
        raise ValueError(f"image is {tuple(image.shape)}; must be (1, 3, height, width)")
    model.check_cuts()
    backbone, last = model.backbone, len(model.backbone.specs)
    head = _Head(model, classes)
    x, done = backbone.pad(image), 0
    total = torch.zeros((1, head.count, *_cells(x.shape[2:], backbone.stride)), device=image.device)
    for branch in sorted(range(len(model.cuts)), key=lambda index: model.cuts[index].position):
        cut = model.cuts[branch]
        x, done = _advance(backbone, x, done, cut.position, most_pixels)
        x, done = _whole(backbone, x, done, cut.position, most_pixels), cut.position
        _add_patches(backbone, x, cut, most_pixels, head, branch, total)
    x, done = _advance(backbone, x, done, last, most_pixels)
    for place, inner, y in _tiles(backbone, x, done, last, most_pixels):
        total[:, :, *place] += head(y, model.branches)[:, :, *inner]
        if model.branches and not model.cuts:  # the patched half sees the unsplit image
            total[:, :, *place] += head(y, 0)[:, :, *inner]
    return total.clamp_(min=0)


class _Head:
    """The classifier's share of one branch, before the ReLU: features before the tail (B, C, h, w) -> float32
    (B, count, h, w). cam_head ends with the ReLU: x = relu(x) - relu(-x)."""

    def __init__(self, model: PatchClassifier, classes: Tensor | None) -> None:
        weight = model.classifier.weight.flatten(1)
        self._tail = model.backbone.tail
        self._weights = [torch.cat((part, -part)) for part in weight.chunk(model.branches + 1, 1)]
        self.count = len(weight) if classes is None else classes.shape[1]
        self._classes = classes
        if classes is not None:
            self._classes = torch.cat((classes, torch.where(classes < 0, classes, classes + len(weight))), 1)

    def __call__(self, x: Tensor, branch: int) -> Tensor:
        classes = None if self._classes is None else self._classes.expand(len(x), -1)
        tail, weight, (height, width) = self._tail, self._weights[branch], x.shape[2:]
        maps = cam_head([], x, weight, height, width, tail.scale, tail.shift, tail.act, classes=classes)
        positive, negative = maps.chunk(2, 1)
        return positive - negative


def _advance(backbone: Backbone, x: Tensor, first: int, last: int, most_pixels: int) -> tuple[Tensor, int]:
    """x before block `first` -> the last small map before block `last`, and the block that it lies before. x as it is
    where it needs no tiles."""
    numbers = [spec.channels / _stride(backbone, 0, index + 1) ** 2 for index, spec in enumerate(backbone.specs)]
    small = max(SMALL_MAP, min(numbers))
    for position in range(first + 1, last):
        if numbers[position - 1] <= small and x.numel() // x.shape[1] > _room(backbone, first, most_pixels):
            x, first = _whole(backbone, x, first, position, most_pixels), position
    return x, first


def _whole(backbone: Backbone, x: Tensor, first: int, last: int, most_pixels: int) -> Tensor:
    """Blocks first .. last - 1 on the whole maps x, tile by tile."""
    if first == last:
        return x
    out: Tensor | None = None
    for place, inner, y in _tiles(backbone, x, first, last, most_pixels):
        if out is None:
            shape = (*y.shape[:2], *_cells(x.shape[2:], _stride(backbone, first, last)))
            out = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
        out[:, :, *place] = y[:, :, *inner]
    assert out is not None, "a map has a tile"
    return out


def _add_patches(
    backbone: Backbone, x: Tensor, cut: Cut, most_pixels: int, head: _Head, branch: int, total: Tensor
) -> None:
    """Cut x by the grid of the whole image, and add the patches' maps: several patches at a time, or one in tiles."""
    stride, last = remaining_stride(backbone, cut.position), len(backbone.specs)
    height, width = x.shape[2:]
    patch_grid = PatchGrid(height, width, cut.grid, stride)
    h, w, final_h, final_w = (
        patch_grid.patch_height,
        patch_grid.patch_width,
        patch_grid.final_patch_height,
        patch_grid.final_patch_width,
    )
    rows, columns = (
        valid_extents(extent, patch_grid.grid, size) for extent, size in ((h, patch_grid.height), (w, patch_grid.width))
    )
    at_once = max(1, _room(backbone, cut.position, most_pixels) // (h * w))
    for first in range(0, patch_grid.patches, at_once):
        numbers = range(first, min(first + at_once, patch_grid.patches))
        patches = x.new_zeros((len(numbers), x.shape[1], h, w)).contiguous(memory_format=torch.channels_last)
        for patch, number in zip(patches, numbers, strict=True):
            ky, kx = divmod(number, patch_grid.grid)
            patch[:, : rows[ky], : columns[kx]] = x[0, :, ky * h : ky * h + rows[ky], kx * w : kx * w + columns[kx]]
        patches, done = _advance(backbone, patches, cut.position, last, most_pixels)
        for place, inner, y in _tiles(backbone, patches, done, last, most_pixels):
            for maps, number in zip(head(y, branch)[:, :, *inner], numbers, strict=True):
                ky, kx = divmod(number, patch_grid.grid)
                here = total[0, :, ky * final_h : (ky + 1) * final_h, kx * final_w : (kx + 1) * final_w][:, *place]
                here += maps[:, : here.shape[1], : here.shape[2]]  # what lies in the padding is cropped


def _tiles(
    backbone: Backbone, x: Tensor, first: int, last: int, most_pixels: int
) -> Iterator[tuple[Place, Place, Tensor]]:
    """Blocks first .. last - 1 on x (B, C, h, w): of each tile where it lies in the output, which of its cells those
    are, and its output with the overlap."""
    stride = _stride(backbone, first, last)
    before = _stride(backbone, 0, first)
    room = _room(backbone, first, most_pixels) // (len(x) * stride**2)
    halo, smallest = (ceil_div(pixels, before * stride) for pixels in (_reach(backbone, first, last), SMALLEST))
    size = _cells(x.shape[2:], stride)
    parts = _parts(size, halo, smallest, room)
    for top in range(0, size[0], parts[0]):
        for left in range(0, size[1], parts[1]):
            rows, columns = _side(top, parts[0], halo, size[0]), _side(left, parts[1], halo, size[1])
            source = [
                slice(begin * stride, whole - (cells - end) * stride)
                for (begin, _, _, end), whole, cells in zip((rows, columns), x.shape[2:], size, strict=True)
            ]
            y = backbone.run(x[:, :, *source].contiguous(memory_format=torch.channels_last), first, last)
            place, inner = (
                (slice(rows[1] - y0, rows[2] - y0), slice(columns[1] - x0, columns[2] - x0))
                for y0, x0 in ((0, 0), (rows[0], columns[0]))
            )
            yield place, inner, y


def _reach(backbone: Backbone, first: int, last: int) -> int:
    """Pixels beyond its own that an output cell of blocks first .. last - 1 depends on, at most; within the bounds."""
    reach = 0
    for index in range(first, last):
        for module in (inner for outer in backbone.block_modules(index) for inner in outer.modules()):
            if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
                sides = zip(*(_pair(getattr(module, name, 1)) for name in ("kernel_size", "dilation")), strict=True)
                reach += max(kernel // 2 * dilation for kernel, dilation in sides) * _stride(backbone, 0, index + 1)
    return min(max(reach, LEAST_OVERLAP), MOST_OVERLAP)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _side(start: int, part: int, halo: int, size: int) -> tuple[int, int, int, int]:
    """Along one side, in cells of the output: where the tile begins, its own part begins, that ends, the tile ends."""
    end = min(start + part, size)
    return max(0, start - halo), start, end, min(end + halo, size)


def _parts(size: tuple[int, int], halo: int, smallest: int, room: int) -> tuple[int, int]:
    """Rows and columns of a tile's own part: as few tiles as fit `room` cells with their overlap."""
    counts = [1, 1]
    while True:
        parts = [ceil_div(side, count) for side, count in zip(size, counts, strict=True)]
        seen = [min(side, part + 2 * halo) for side, part in zip(size, parts, strict=True)]
        longer = 0 if parts[0] >= parts[1] else 1
        if prod(seen) <= room or ceil_div(size[longer], counts[longer] + 1) < smallest:
            return parts[0], parts[1]
        counts[longer] += 1


def _cells(size: torch.Size | tuple[int, ...], stride: int) -> tuple[int, int]:
    return ceil_div(size[0], stride), ceil_div(size[1], stride)


def _room(backbone: Backbone, position: int, most_pixels: int) -> int:
    """Cells of the map before block `position` that lie in so many pixels."""
    return most_pixels // _stride(backbone, 0, position) ** 2


def _stride(backbone: Backbone, first: int, last: int) -> int:
    return prod(spec.stride for spec in backbone.specs[first:last])
