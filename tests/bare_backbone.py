"""What a backbone is to those that only ask where its cells lie."""

from pplfast.models.backbone import Backbone, BlockSpec


class BareBackbone(Backbone):
    """Blocks of these strides, whose cells share the image evenly, or lie at `shift`."""

    name = "bare"

    def __init__(self, *strides: int, shift: float | None = None, mean=(0.0,) * 3, std=(1.0,) * 3) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.specs = tuple(BlockSpec(f"block{i}", stride, 3, shift) for i, stride in enumerate(strides))
