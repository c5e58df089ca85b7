"""The random walk as published code has it: the dense N x N transition matrix, squared t times.

Shares no code with the package that it is compared with. IRN (arXiv 1904.05044), section 4.2: the affinity of two
pixels closer than `radius` is 1 - the largest edge on the line between them; T = column-normalised affinity^beta.
"""

import numpy as np
import numpy.typing as npt
import torch


def line_cells(dy: int, dx: int) -> list[tuple[int, int]]:
    """Cells of the rectangle spanned by (0, 0) and (dy, dx) whose centre is less than 1 away from the line."""
    ys, xs = np.meshgrid(np.arange(min(dy, 0), max(dy, 0) + 1), np.arange(min(dx, 0), max(dx, 0) + 1), indexing="ij")
    distance = np.abs(dy * xs - dx * ys) / np.hypot(dy, dx)
    return [(int(y), int(x)) for y, x, d in zip(ys.ravel(), xs.ravel(), distance.ravel(), strict=True) if d < 1 - 1e-9]


def dense_transition(edge: npt.NDArray[np.float32], beta: float, radius: int) -> torch.Tensor:
    """edge float (h, w) -> T float32 (N, N), columns summing to 1."""
    height, width = edge.shape
    count = height * width
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    affinity = np.zeros((count, count), np.float32)
    np.fill_diagonal(affinity, 1)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if (dy, dx) == (0, 0) or dy * dy + dx * dx >= radius * radius:
                continue
            y, x = rows + dy, columns + dx
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            here = (rows[inside], columns[inside])
            worst = np.zeros(len(here[0]), edge.dtype)
            for cy, cx in line_cells(dy, dx):
                worst = np.maximum(worst, edge[here[0] + cy, here[1] + cx])
            affinity[here[0] * width + here[1], (y * width + x)[inside]] = 1 - worst
    matrix = torch.from_numpy(affinity).pow_(beta)
    return matrix.div_(matrix.sum(0, keepdim=True))


def dense_walk(
    maps: npt.NDArray[np.float32],
    edge: npt.NDArray[np.float32],
    squarings: int,
    beta: float = 10.0,
    radius: int = 5,
    device: str = "cpu",
) -> npt.NDArray[np.float32]:
    """maps float32 (n, h, w), edge (h, w) in [0, 1] -> (n, h, w): (maps * (1 - edge)) T^(2^squarings)."""
    transition = dense_transition(edge, beta, radius).to(device)
    for _ in range(squarings):
        transition = transition @ transition
    start = torch.from_numpy((maps * (1 - edge)).astype(np.float32)).reshape(len(maps), -1)
    return (start.to(device) @ transition).reshape(maps.shape).cpu().numpy()
