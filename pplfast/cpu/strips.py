"""Maps without gradient: the cells of a patch that no cut has reached yet equal the unsplit map's, so only strips along
the cuts are computed.

Behind a cut, each convolution carries the zeros at a patch's border further inwards. Until then the patched branch is
the global one, and its interior is taken from there. Exact up to rounding. Where K leaves a remainder, the padding at
the bottom and right does the same as a cut: behind the first layer it is not zero. For the dense networks, whose
convolutions outweigh the copies; not for EfficientNet, where strips gained 1 to 2 % of a map.

Legend: K grid, h x w a patch, s the stride of a unit; strips and regions are given in cells of the whole map.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.kernels import patch_split
from pplfast.kernels.geometry import PatchGrid, ceil_div
from pplfast.models.backbone import Backbone
from pplfast.models.resnet import Bottleneck, ResNet
from pplfast.models.wideresnet import PreActivationBottleneck, PreActivationUnit, WideResNet38
from pplfast.patch.branches import Cut, remaining_stride
from pplfast.patch.classifier import Features, PatchClassifier

# Of all cells, at most so many in strips: beyond that, copying them costs what their convolutions save.
LARGEST_SHARE = 0.75


class CpuPatchClassifier(PatchClassifier):
    """A progressive classifier's maps share the cells of both branches; training runs as everywhere."""

    def features(self, images: Tensor) -> Features:
        alone = torch.is_grad_enabled() or self.training or len(self.cuts) != 1
        if alone or type(self.backbone) not in (ResNet, WideResNet38):  # a subclass may have other blocks
            return super().features(images)
        patches, global_map = run_shared(self.backbone, self.backbone.pad(images), self.cuts[0])
        return Features([(patches, self.cuts[0].grid)], global_map)


@dataclass(frozen=True)
class Unit:
    """A block as it runs on any rectangle of its input whose sides are multiples of its stride."""

    run: Callable[[Tensor], Tensor]
    stride: int
    reach: int  # input cells beyond an output's own stride x stride cells that it depends on, at most


@dataclass(frozen=True)
class _Strip:
    source: tuple[slice, slice]  # of the map before the unit
    target: tuple[slice, slice]  # of the map behind it: what the strip decides
    own: tuple[slice, slice]  # where that lies in the unit's output for the strip


def run_shared(backbone: Backbone, images: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Images (B, 3, height, width) -> patches (B*K*K, C, h, w) and the global map (B, C, H, W), as `run_branches`."""
    last = len(backbone.specs)
    x = backbone.run(images, 0, cut.position)
    if not can_share(x, cut.grid, remaining_stride(backbone, cut.position)):
        patches = patch_split(x, cut.grid, remaining_stride(backbone, cut.position))
        return backbone.run(patches, cut.position, last), backbone.run(x, cut.position, last)
    shared = SharedPatches.cut(x, cut.grid)
    for index in range(cut.position, last):
        part = unit(backbone, index)
        following = part.run(x)
        if not shared.step(part, following):
            return backbone.run(shared.patches(), index, last), backbone.run(following, index + 1, last)
        x = following
    return shared.patches(), x


def unit(backbone: Backbone, index: int) -> Unit:
    """Block `index` of a network whose blocks are one residual unit each; not the first block."""
    stride, module = backbone.specs[index].stride, backbone.block_modules(index)[0]
    if isinstance(module, Bottleneck):
        reach = module.conv2.dilation[0]
    elif isinstance(module, PreActivationUnit):
        reach = module.conv_branch2a.dilation[0] + module.conv_branch2b1.dilation[0] * stride
    else:
        reach = cast(PreActivationBottleneck, module).conv_branch2b1.dilation[0]
    return Unit(lambda x: backbone.run(x, index, index + 1), stride, reach)


@dataclass
class SharedPatches:
    """The patches of a cut, stitched into one map (B, C, K*h, K*w) beside the unsplit one."""

    x: Tensor
    grid: int
    padding: tuple[int, int]  # rows and columns of x beyond the unsplit map
    reached: int  # cells at each side of a cut, and from the padding's end, that differ from the unsplit map's

    @classmethod
    def cut(cls, x: Tensor, grid: int) -> "SharedPatches":
        """x (B, C, H, W), for which `can_share` holds."""
        height, width = x.shape[2:]
        cells = PatchGrid(height, width, grid)
        padding = (grid * cells.patch_height - cells.height, grid * cells.patch_width - cells.width)
        return cls(_pad(x, padding), grid, padding, max(padding))

    def step(self, unit: Unit, global_map: Tensor) -> bool:
        """Run `unit`; global_map: its output for the unsplit map. False, and nothing done, where it does not pay."""
        strips = _strips(self.x.shape[2:], self.grid, unit, self.reached, self.padding)
        if strips is None:
            return False
        whole = _pad(global_map, self.padding)
        if any(strips):
            whole = whole.clone() if whole is global_map else whole
            for kind in strips:
                outputs = unit.run(torch.cat([self.x[:, :, *strip.source] for strip in kind]))
                for strip, part in zip(kind, outputs.chunk(len(kind)), strict=True):
                    whole[:, :, *strip.target] = part[:, :, *strip.own]
            self.reached = ceil_div(self.reached + unit.reach, unit.stride)
        self.x = whole
        return True

    def patches(self) -> Tensor:
        """(B*K*K, C, h, w)."""
        return patch_split(self.x, self.grid, 1)


def can_share(x: Tensor, grid: int, stride: int) -> bool:
    """Whether x, cut into grid x grid patches with `stride` to come, can share the unsplit map's cells.

    Where K leaves a remainder, only if no stride is to come and if the padding lies in the last patches alone.
    """
    fits = all(size % (grid * stride) == 0 for size in x.shape[2:])
    return fits or (stride == 1 and all(size > (grid - 1) * ceil_div(size, grid) for size in x.shape[2:]))


def _pad(x: Tensor, padding: tuple[int, int]) -> Tensor:
    """Zeros at the bottom and right. F.pad may leave channels_last."""
    if not any(padding):
        return x
    return F.pad(x, (0, padding[1], 0, padding[0])).contiguous(memory_format=torch.channels_last)


def _strips(
    size: Sequence[int], grid: int, unit: Unit, reached: int, padding: tuple[int, int]
) -> tuple[list[_Strip], list[_Strip]] | None:
    """Strips along the vertical cuts, the height of a patch, then along the horizontal ones; padding counts as a cut
    at its end. None: does not pay."""
    s, (h, w) = unit.stride, (side // grid for side in size)
    out_h, out_w = h // s, w // s
    wide = ceil_div(reached + unit.reach, s)  # outputs that differ from the unsplit map's
    context = ceil_div(unit.reach, s)  # outputs at a strip's open side that miss cells beyond it: dropped
    thick = wide + context
    if grid == 1 or wide == 0:  # a grid of 1 has no padding
        return [], []
    ends = tuple(bool(side) for side in padding)
    skipped = max(wide - context, 0)  # outputs of a horizontal strip's width that vertical ones have, context or not
    sides_y, sides_x = (2 * (grid - 1) + end for end in ends)  # of a column, a row of patches
    cells = thick * (sides_x * out_h + sides_y * (out_w - skipped)) / (grid * out_h * out_w)
    if thick >= min(out_h, out_w) or cells > LARGEST_SHARE:
        return None

    def strip(
        ky: int,
        kx: int,
        rows: tuple[int, int],
        columns: tuple[int, int],
        kept_rows: tuple[int, int],
        kept_columns: tuple[int, int],
    ) -> _Strip:
        """All in outputs of patch (ky, kx)."""
        y, x = ky * out_h, kx * out_w
        return _Strip(
            (slice((y + rows[0]) * s, (y + rows[1]) * s), slice((x + columns[0]) * s, (x + columns[1]) * s)),
            (slice(y + kept_rows[0], y + kept_rows[1]), slice(x + kept_columns[0], x + kept_columns[1])),
            (
                slice(kept_rows[0] - rows[0], kept_rows[1] - rows[0]),
                slice(kept_columns[0] - columns[0], kept_columns[1] - columns[0]),
            ),
        )

    vertical, horizontal = [], []
    for ky in range(grid):
        for kx in range(grid):
            for computed, kept in _sides(kx, grid, out_w, wide, thick, ends[1]):
                vertical.append(strip(ky, kx, (0, out_h), computed, (0, out_h), kept))
            # One side of every patch is left to a vertical strip, so that all strips have one shape.
            columns, kept_columns = (
                ((0, out_w - skipped), (0, out_w - wide)) if kx == 0 else ((skipped, out_w), (wide, out_w))
            )
            for computed, kept in _sides(ky, grid, out_h, wide, thick, ends[0]):
                horizontal.append(strip(ky, kx, computed, columns, kept, kept_columns))
    return vertical, horizontal


def _sides(
    k: int, grid: int, size: int, wide: int, thick: int, end: bool
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(computed, kept) ranges at the sides of patch k that face a cut, or the end of padding."""
    if k > 0:
        yield (0, thick), (0, wide)
    if k < grid - 1 or end:
        yield (size - thick, size), (size - wide, size)
