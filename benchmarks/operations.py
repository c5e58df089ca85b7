"""The operations that patch learning adds: as eager code writes them, and as pplfast's kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast import kernels
from pplfast.benchmarks import kernel_cost as model
from pplfast.benchmarks.reference import merge_patches, split_patches

EPS = 1e-5  # BatchNorm's
EDGE = 1e-3  # around an activation's kink
BANDWIDTH = 0.85  # goal: share of the bandwidth measured in the same run
SCALES = (0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Operation:
    """The same operation twice. The reference stacks patches patch by patch, pplfast image by image: nothing has to be
    moved for either, so each gets its own order, and only the comparison rearranges."""

    name: str
    eager: Callable[..., tuple[Tensor, ...]]
    fast: Callable[..., tuple[Tensor, ...]]
    eager_inputs: list[Tensor]
    inputs: list[Tensor]  # of `fast`
    cost: model.Cost  # what any implementation has to move and compute
    goal: float | None = None  # times as fast as eager, on a GPU
    goal_share: float | None = None  # of what the measured ceilings allow, on a GPU
    backward: bool = False  # measure forward and backward
    arrange: Callable[[Tensor], Tensor] = lambda y: y  # eager's outputs into the order of pplfast's
    arrange_gradient: Callable[[Tensor], Tensor] = lambda y: y  # and eager's gradients of its inputs


@dataclass(frozen=True)
class Sizes:
    """Feature maps: where patches are cut, and after the last block."""

    name: str
    batch: int
    grid: int
    cut: tuple[int, int, int, int]  # channels, height, width, stride of what follows
    final: tuple[int, int, int]  # channels, height, width of the global map
    classes: int
    act: str
    image: tuple[int, int]


@dataclass(frozen=True)
class _Norm:
    """A frozen BatchNorm with activation: as eager modules do it, and as scale and shift for the kernels."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    act: str

    @classmethod
    def random(cls, channels: int, act: str, device: str) -> "_Norm":
        weight, bias, mean = torch.randn(3, channels, device=device).unbind()
        return cls(weight, bias, mean, torch.rand(channels, device=device) + 0.5, act)

    def __call__(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.mean, self.var, self.weight, self.bias, eps=EPS)
        return F.relu(y, inplace=True) if self.act == "relu" else F.relu6(y, inplace=True)

    def off_the_kinks(self, x: Tensor) -> Tensor:
        """x without values at the activation's kinks. There the slope is 0 or 1 by how the affine map was rounded, and
        two right gradients differ by all of one cell's."""
        scale, shift, act = self.tail
        z = x.float() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        near = z.abs() < EDGE
        if act == "relu6":
            near |= (z - 6).abs() < EDGE
        moved = x + (4 * EDGE / scale).view(1, -1, 1, 1).to(x.dtype)
        return torch.where(near, moved, x).contiguous(memory_format=torch.channels_last)

    @property
    def tail(self) -> tuple[Tensor, Tensor, str]:
        scale = self.weight * (self.var + EPS).rsqrt()
        return scale, self.bias - self.mean * scale, self.act


def _random(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)


def _by_image(patches: Tensor, grid: int) -> Tensor:
    """From the reference's order on the batch axis to pplfast's."""
    cells: Tensor = patches.unflatten(0, (grid * grid, -1))
    return cells.transpose(0, 1).flatten(0, 1)


def _by_patch(patches: Tensor, grid: int) -> Tensor:
    """From pplfast's order on the batch axis to the reference's."""
    patches = patches.unflatten(0, (-1, grid * grid)).transpose(0, 1).flatten(0, 1)
    return patches.contiguous(memory_format=torch.channels_last)


def pointwise(size: Sizes, dtype: torch.dtype, device: str) -> list[Operation]:
    """Between two convolutions: bias and activation; the residual sum and the next pre-activation of it."""
    channels, height, width, _ = size.cut
    x, residual = (_random(size.batch, channels, height, width, dtype=dtype, device=device) for _ in range(2))
    norm = _Norm.random(channels, size.act, device)
    scale, shift, act = norm.tail
    shape = (x.numel(), dtype.itemsize)

    def eager_bias(x: Tensor) -> tuple[Tensor]:
        y = x + shift.to(x.dtype).view(1, -1, 1, 1)
        return (F.relu(y, inplace=True) if act == "relu" else F.relu6(y, inplace=True),)

    def fast_bias(x: Tensor) -> tuple[Tensor]:
        return (kernels.scale_act(x, None, shift, act),)

    def eager_sum(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        z = x + residual
        return z, norm(z)

    def fast_sum(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.add_scale_act(x, residual, scale, shift, act)

    def both(
        name: str,
        eager: Callable[..., tuple[Tensor, ...]],
        fast: Callable[..., tuple[Tensor, ...]],
        inputs: list[Tensor],
        **kept: bool,
    ) -> list[Operation]:
        forward, backward = (model.scale_act(*shape, **kept, backward=way) for way in (False, True))
        return [
            Operation(name, eager, fast, inputs, inputs, forward, goal_share=BANDWIDTH),
            Operation(f"{name} forward+backward", eager, fast, inputs, inputs, forward + backward, backward=True),
        ]

    return [
        *both("scale_act bias", eager_bias, fast_bias, [x]),
        *both("add_scale_act", eager_sum, fast_sum, [x, residual], residual=True, keep_sum=True),
    ]


def splits(size: Sizes, dtype: torch.dtype, device: str) -> list[Operation]:
    """P alone, and fused with the pre-activation of the block behind it."""
    channels, height, width, stride = size.cut
    x = _random(size.batch, channels, height, width, dtype=dtype, device=device)
    norm = _Norm.random(channels, size.act, device)
    tail = norm.tail
    cut = kernels.PatchGrid(height, width, size.grid, stride)
    shape = (size.batch, channels, cut, dtype.itemsize)

    def eager(x: Tensor) -> tuple[Tensor]:
        return (split_patches(x, size.grid, stride),)

    def eager_act(x: Tensor) -> tuple[Tensor, Tensor]:
        patches = split_patches(x, size.grid, stride)
        return patches, norm(patches)

    def fast(x: Tensor) -> tuple[Tensor]:
        return (kernels.patch_split(x, size.grid, stride),)

    def fast_act(x: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.patch_split_act(x, size.grid, stride, *tail)

    arrange = partial(_by_image, grid=size.grid)
    return [
        Operation(
            "patch_split", eager, fast, [x], [x], model.patch_split(*shape), goal_share=BANDWIDTH, arrange=arrange
        ),
        Operation(
            "patch_split_act",
            eager_act,
            fast_act,
            [x],
            [x],
            model.patch_split_act(*shape),
            goal_share=BANDWIDTH,
            arrange=arrange,
        ),
        Operation(
            "patch_split_act forward+backward",
            eager_act,
            fast_act,
            [x],
            [x],
            model.patch_split_act(*shape) + model.patch_split_act(*shape, backward=True),
            backward=True,
            arrange=arrange,
        ),
    ]


def _final(size: Sizes, dtype: torch.dtype, device: str) -> Tensor:
    """The last block's output for the patches, in pplfast's order."""
    channels, height, width = size.final
    cut = kernels.PatchGrid(height, width, size.grid)
    return _random(size.batch * cut.patches, channels, cut.patch_height, cut.patch_width, dtype=dtype, device=device)


def pools(size: Sizes, dtype: torch.dtype, device: str) -> list[Operation]:
    """The tail of the patched branch: BN, activation, pooling. Eager code merges the map and pools that."""
    channels, height, width = size.final
    norm = _Norm.random(channels, size.act, device)
    patches = norm.off_the_kinks(_final(size, dtype, device))
    tail = norm.tail
    shape = (size.batch, channels, kernels.PatchGrid(height, width, size.grid), dtype.itemsize)

    def eager(x: Tensor) -> tuple[Tensor]:
        merged = merge_patches(norm(x), size.grid, height, width)
        return (F.adaptive_avg_pool2d(merged, 1).flatten(1),)

    def fast(x: Tensor) -> tuple[Tensor]:
        return (kernels.patch_pool(x, size.grid, height, width, *tail)[1],)

    both = [_by_patch(patches, size.grid)], [patches]
    return [
        Operation("patch_pool", eager, fast, *both, model.patch_pool(*shape), goal=5.0, goal_share=BANDWIDTH),
        Operation(
            "patch_pool forward+backward",
            eager,
            fast,
            *both,
            model.patch_pool(*shape) + model.patch_pool(*shape, backward=True),
            goal=5.0,
            backward=True,
            arrange_gradient=partial(_by_image, grid=size.grid),
        ),
    ]


def heads(size: Sizes, dtype: torch.dtype, device: str) -> list[Operation]:
    """Classifier maps of [merged ; global]. Eager: tail on both, merge, concatenate, 1x1 convolution, ReLU."""
    channels, height, width = size.final
    patches = _final(size, dtype, device)
    whole = _random(size.batch, channels, height, width, dtype=dtype, device=device)
    norm = _Norm.random(channels, size.act, device)
    tail = norm.tail
    weight = torch.randn(size.classes, 2 * channels, device=device) * channels**-0.5
    weight_4d = weight.to(dtype)[:, :, None, None]

    def eager(x: Tensor, y: Tensor) -> tuple[Tensor]:
        features = torch.cat([merge_patches(norm(x), size.grid, height, width), norm(y)], dim=1)
        return (F.relu(F.conv2d(features, weight_4d.to(x.dtype))).float(),)

    def fast(x: Tensor, y: Tensor) -> tuple[Tensor]:
        return (kernels.cam_head([(x, size.grid)], y, weight, height, width, *tail),)

    cost = model.cam_head(size.batch, channels, height, width, 1, size.classes, dtype.itemsize)
    return [Operation("cam_head", eager, fast, [_by_patch(patches, size.grid), whole], [patches, whole], cost, 4.0)]


def fuses(size: Sizes, dtype: torch.dtype, device: str) -> list[Operation]:
    """Maps of 4 scales and flips to the image's size. The maps are float32 whatever the network computes in."""
    height, width = size.image
    classes, stride = 3, 8  # classes of one image; the maps' stride
    shapes = [(2 * size.batch, classes, round(height * s / stride), round(width * s / stride)) for s in SCALES]
    maps = [torch.rand(shape, device=device) for shape in shapes]

    def eager(*maps: Tensor) -> tuple[Tensor]:
        total = maps[0].new_zeros(())
        for scale_maps in maps:
            plain, mirrored = torch.chunk(scale_maps, 2)
            both = plain + mirrored.flip(3)
            total = total + F.interpolate(both, (height, width), mode="bilinear", align_corners=False)
        return (total / (F.adaptive_max_pool2d(total, 1) + 1e-5),)

    def fast(*maps: Tensor) -> tuple[Tensor]:
        return (kernels.cam_fuse(list(maps), height, width, True),)

    cost = model.cam_fuse(size.batch, classes, height, width, [shape[2:] for shape in shapes], flip=True)
    return [Operation("cam_fuse", eager, fast, maps, maps, cost)]


def depthwises(size: Sizes, dtype: torch.dtype, device: str) -> list[Operation]:
    """EfficientNet-Lite0's widest 5x5 layer with BatchNorm folded, without a gradient. On a CPU it is PyTorch's own."""
    if device == "cpu":
        return []
    channels, side = 240, 48
    x = _random(size.batch, channels, side, side, dtype=dtype, device=device)
    weight, shift = _random(channels, 1, 5, 5, dtype=dtype, device=device), torch.randn(channels, device=device)
    shift_4d = shift.to(dtype).view(1, -1, 1, 1)

    def eager(x: Tensor) -> tuple[Tensor]:
        return (F.relu6(F.conv2d(x, weight.to(x.dtype), None, 1, 2, 1, channels) + shift_4d.to(x.dtype)),)

    def fast(x: Tensor) -> tuple[Tensor]:
        return (kernels.depthwise(x, weight, 1, (2, 2, 2, 2), shift, "relu6"),)

    numbers = x.numel()
    cost = model.Cost(numbers * dtype.itemsize, numbers * dtype.itemsize, 2 * 25 * numbers)
    return [Operation("depthwise 5x5", eager, fast, [x], [x], cost)]


OPERATIONS = (pointwise, depthwises, splits, pools, heads, fuses)
