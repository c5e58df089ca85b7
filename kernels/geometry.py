"""Geometry of a K x K patch grid over a feature map.

The map is padded with zeros at the bottom and right so that every patch has the same size, a multiple of the stride
of the layers that follow. The patches' final maps then line up with the unsplit one cell by cell, and cropping the
padding after the merge is exact.

Order on the batch axis: index = (b * K + ky) * K + kx, that is row-major patches within each image.
"""

from dataclasses import dataclass


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def patch_extent(size: int, grid: int, stride: int = 1) -> int:
    """Smallest multiple of `stride` with grid * extent >= size."""
    return ceil_div(ceil_div(size, grid), stride) * stride


def valid_extents(extent: int, grid: int, size: int) -> list[int]:
    """Rows (or columns) of each of the `grid` patches that lie inside `size`; the rest is padding."""
    return [min(max(size - k * extent, 0), extent) for k in range(grid)]


@dataclass(frozen=True)
class PatchGrid:
    """A `grid` x `grid` cut of a `height` x `width` map; `stride` is the product of the strides that follow."""

    height: int
    width: int
    grid: int
    stride: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.grid, self.stride) < 1:
            raise ValueError(f"height, width, grid and stride must be 1 or more: {self}")

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return self.grid * self.grid

    @property
    def patch_height(self) -> int:
        return patch_extent(self.height, self.grid, self.stride)

    @property
    def patch_width(self) -> int:
        return patch_extent(self.width, self.grid, self.stride)

    @property
    def final_patch_height(self) -> int:
        """Rows of a patch after the layers that follow."""
        return self.patch_height // self.stride

    @property
    def final_patch_width(self) -> int:
        return self.patch_width // self.stride

    @property
    def final_height(self) -> int:
        """Rows of the unsplit map after the layers that follow, each of which rounds its size up."""
        return ceil_div(self.height, self.stride)

    @property
    def final_width(self) -> int:
        return ceil_div(self.width, self.stride)

    def cells(self, final_height: int | None = None, final_width: int | None = None) -> list[int]:
        """Cells of each patch (row-major) inside the final unsplit map: the weights of mean(M).

        The size of that map is passed by callers whose layers do not round up; by default it is ceil(size / stride).
        """
        rows = valid_extents(self.final_patch_height, self.grid, final_height or self.final_height)
        columns = valid_extents(self.final_patch_width, self.grid, final_width or self.final_width)
        return [r * c for r in rows for c in columns]
