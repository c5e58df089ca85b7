"""What each kernel has to move and compute at least: the floor that a measurement is compared with.

Bytes count every input once and every output once, as if the caches held nothing before and everything within one
kernel; FLOPs count a multiply-add as two. Pure functions of shapes.
"""

from dataclasses import dataclass

from pplfast.kernels.geometry import PatchGrid


@dataclass(frozen=True)
class Cost:
    read: int  # bytes
    written: int  # bytes
    flops: int = 0

    @property
    def bytes(self) -> int:
        return self.read + self.written

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.read + other.read, self.written + other.written, self.flops + other.flops)

    def seconds(self, bandwidth: float, rate: float) -> float:
        """Lower bound of the time on a device with `bandwidth` bytes/s and `rate` FLOP/s."""
        return max(self.bytes / bandwidth, self.flops / rate)


@dataclass(frozen=True)
class Device:
    """Published ceilings, for predictions without the device; benchmarks measure their own."""

    name: str
    bandwidth: float  # bytes/s
    matrix_rate: float  # dense bf16 FLOP/s on tensor cores


H100 = Device("H100 SXM", 3.35e12, 989e12)  # NVIDIA H100 data sheet


def _sizes(batch: int, channels: int, cut: PatchGrid, element: int) -> tuple[int, int]:
    """Bytes of the map and of its patches, padding included."""
    cells = batch * channels * element
    return cells * cut.height * cut.width, cells * cut.patches * cut.patch_height * cut.patch_width


def scale_act(
    numbers: int, element: int, residual: bool = False, keep_sum: bool = False, backward: bool = False
) -> Cost:
    """Of a map of `numbers`. The backward reads the result and its gradient, and the sum's where that is kept."""
    whole = numbers * element
    if backward:
        return Cost((3 if keep_sum else 2) * whole, whole, 3 * numbers)
    return Cost((2 if residual else 1) * whole, (2 if keep_sum else 1) * whole, 4 * numbers)


def patch_split(batch: int, channels: int, cut: PatchGrid, element: int, backward: bool = False) -> Cost:
    """`element`: bytes of one number. The backward reads the gradients of the cells inside and writes the map's."""
    whole, patches = _sizes(batch, channels, cut, element)
    return Cost(whole, whole) if backward else Cost(whole, patches)


def patch_split_act(batch: int, channels: int, cut: PatchGrid, element: int, backward: bool = False) -> Cost:
    whole, patches = _sizes(batch, channels, cut, element)
    flops = 3 * (whole if backward else patches) // element  # multiply, add, compare
    return Cost(3 * whole, whole, flops) if backward else Cost(whole, 2 * patches, flops)


def patch_pool(batch: int, channels: int, cut: PatchGrid, element: int, backward: bool = False) -> Cost:
    """Mean pooling of final patches, `cut` being the grid over the final map (stride 1 if nothing is padded)."""
    whole, patches = _sizes(batch, channels, cut, element)
    results = 4 * batch * channels * (cut.patches + 1)
    flops = 4 * whole // element  # multiply, add, compare, accumulate
    return Cost(whole + results, patches, flops) if backward else Cost(whole, results, flops)


def cam_head(batch: int, channels: int, height: int, width: int, branches: int, classes: int, element: int) -> Cost:
    """`branches` patch layouts and the global map; `classes` maps of each image."""
    cells = batch * height * width
    sources, weight = (branches + 1) * channels, (branches + 1) * channels * classes
    return Cost(cells * sources * element + 4 * weight, 4 * cells * classes, cells * sources * (2 * classes + 3))


def cam_fuse(
    batch: int, classes: int, height: int, width: int, scales: list[tuple[int, int]], flip: bool, normalise: bool = True
) -> Cost:
    """`scales`: (h, w) of the maps of each scale. The normalisation reads and writes the result once more."""
    views = 2 if flip else 1
    maps = 4 * batch * views * classes * sum(h * w for h, w in scales)
    pixels = batch * classes * height * width
    flops = pixels * len(scales) * (8 * views + 4)  # weights and taps of each bilinear sample
    once_more = 4 * pixels if normalise else 0
    return Cost(maps + once_more, 4 * pixels + once_more, flops)


def random_walk(batch: int, maps: int, height: int, width: int, applications: int, pairs: int = 34) -> Cost:
    """`applications` of the operator, fewer than the walk's steps (len(power_weights(steps)) - 1); `pairs` of
    neighbours: 34 at radius 5. Each application reads the weights once, three maps and writes two."""
    pixels = batch * height * width
    flops = pixels * (4 * maps * pairs + 2 * pairs + 5 * maps)
    step = Cost(4 * pixels * (pairs + 3 * maps), 8 * pixels * maps, flops)
    weights = Cost(4 * pixels, 4 * pixels * pairs)
    return Cost(
        weights.read + applications * step.read,
        weights.written + applications * step.written,
        applications * step.flops,
    )
