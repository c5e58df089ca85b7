"""A backbone of your own, trained with patch learning and loaded again.

    python examples/custom_backbone.py demo runs/own            # a data set of `pplfast data demo`

The command line and every rank of a launcher find it by its module, which is installed or on PYTHONPATH:

    PYTHONPATH=examples pplfast launch train --data demo --list train --recipe demo --out runs/own \\
        --set model.backbone=custom_backbone:SmallNet --set model.weights=none --set model.frozen_blocks=0 \\
        --set stages.0.position=early --set stages.1.position=middle
"""

import sys

from torch import nn

import pplfast


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """(B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride))"""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(4, outputs), nn.ReLU(inplace=True)
    )


class SmallNet(pplfast.Backbone):
    """Patches are cut behind a block by its name; the strides multiply to the stride of the maps, here 16."""

    def __init__(self) -> None:
        super().__init__()
        self.specs = (
            pplfast.BlockSpec("stem", stride=2, channels=16),
            pplfast.BlockSpec("early", stride=2, channels=32),
            pplfast.BlockSpec("middle", stride=2, channels=64),
            pplfast.BlockSpec("late", stride=2, channels=128),
        )
        inputs = [3, *(spec.channels for spec in self.specs)]
        self.blocks = nn.ModuleList(block(n, s.channels, s.stride) for n, s in zip(inputs, self.specs, strict=False))

    def block_modules(self, index: int) -> list[nn.Module]:
        return [self.blocks[index]]


def main(data: str, out: str, *overrides: str) -> None:
    own = [
        "model.backbone=custom_backbone:SmallNet",
        "model.weights=none",
        "model.frozen_blocks=0",
        "stages.0.position=early",
        "stages.1.position=middle",
    ]
    recipe = pplfast.load_recipe("demo", [*own, *overrides])
    pplfast.train_classifier(recipe, pplfast.open_dataset(pplfast.DataConfig(data, "train")), out)
    print(pplfast.load_classifier(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
