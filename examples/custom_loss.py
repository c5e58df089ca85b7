"""A loss and a pooling of your own.

    python examples/custom_loss.py demo runs/focal              # a data set of `pplfast data demo`

In a recipe, for the command line and every rank of a launcher (with PYTHONPATH=examples, or installed):

    loss = "custom_loss:focal"
    [model]
    pooling = "custom_loss:power_mean"
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

import pplfast


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Easy classes count little (arXiv 1708.02002, gamma 2). Float32 (B, C) twice -> the loss of each image, (B,)."""
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return ((1 - torch.exp(-entropy)) ** 2 * entropy).mean(dim=1)


def power_mean(features: Tensor) -> Tensor:
    """Between the mean and the maximum. Float32 (B, C, H, W), here not below 0 -> (B, C)."""
    return features.clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)


def main(data: str, out: str, *overrides: str) -> None:
    # In one's own program a name is enough; whoever loads the network later registers the pooling first.
    pplfast.register_loss("focal", focal)
    pplfast.register_pooling("power_mean", power_mean)
    recipe = pplfast.load_recipe("demo", ["loss=focal", "model.pooling=power_mean", *overrides])
    dataset = pplfast.open_dataset(pplfast.DataConfig(data, "train"))
    result = pplfast.train_classifier(recipe, dataset, out, variant="ppl")
    print(f"{result.folder}: {result.steps} steps, loss {result.loss:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
