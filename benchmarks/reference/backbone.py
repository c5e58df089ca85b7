"""What the reference classifier asks of a backbone."""

from collections.abc import Sequence

from torch import Tensor, nn


class ReferenceBackbone(nn.Module):
    """Blocks by name, each with its stride; the last one's features have `channels` channels, activated.

    shift: pixels that the cells show beyond their even share of an image whose sides are multiples of all strides.
    """

    names: Sequence[str]
    strides: list[int]
    channels: int
    shift: float = 0.0

    def frozen_modules(self, count: int) -> list[nn.Module]:
        """The modules of the first `count` blocks."""
        raise NotImplementedError

    def run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Blocks first..last-1 (positions in `names`)."""
        raise NotImplementedError
