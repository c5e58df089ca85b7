"""Computed, never measured: what a recipe costs on one and eight H100s, step by step, from the operations it needs.

`python -m pplfast.benchmarks.cost voc12-ppl-wrn38 --images 10582 --scored 1464 --test 1449`

Operations are those of the convolutions, counted block by block on the meta device. Time is operations over the GPU's
data-sheet rate times the share of it that pplfast sets itself as its goal in training. Loading, the gradients'
all-reduce (0.4 GB a step for WideResNet-38, 2 ms over NVLink) and DeepSpeed's own time are left out. The CRF runs on
CPU cores: its time is the measured one of one core for an image of 500 x 375 with 2 to 5 labels.
"""

import argparse
import math
import sys
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from pplfast.benchmarks.kernel_cost import H100
from pplfast.benchmarks.kernel_cost import random_walk as walk_cost
from pplfast.benchmarks.reference import create_backbone
from pplfast.data.sampling import steps_per_epoch
from pplfast.errors import UserError
from pplfast.kernels.random_walk import power_weights
from pplfast.models.registry import create
from pplfast.models.segmentation import SegmentationNet
from pplfast.recipe import Length, OptimConfig, Recipe, load_recipe

IMAGE = (375, 500)  # pixels of a VOC image
COUNTED = 448  # pixels of the square image that operations are counted on; they grow with the area
CRF_SECONDS = 0.4  # one core, 10 iterations
MAPS = 2  # classes of an image in the walk
SHARE = 0.45  # of the data sheet's bf16 rate: what a plan should count on


@dataclass(frozen=True)
class Step:
    name: str
    flops: float = 0.0  # of the whole list
    core_seconds: float = 0.0  # of the CRF

    @property
    def minutes(self) -> float:
        """On one GPU."""
        return self.flops / (H100.matrix_rate * SHARE) / 60


def recipe_cost(recipe: Recipe, variant: str, images: int, scored: int, test: int) -> list[Step]:
    """images: trained on; scored: CAMs and labels of another list, 0 where it is the same; test: of the network."""
    blocks = block_flops(recipe.model.backbone, recipe.model.output_stride)
    positions = [_position(blocks, stage.position) if stage.position else len(blocks) for stage in recipe.stages]
    labelled = images + scored if _refines(recipe) else scored or images
    area = sum(scale**2 for scale in recipe.cam.scales) * (2 if recipe.cam.flip else 1) * _area(IMAGE)
    last = {"plain": [], "ppl": positions[-1:], "explicit": positions}[variant]
    steps = [
        Step("classifier", _classifier_training(recipe, variant, blocks, positions, images) * images),
        Step("CAMs", _forward(blocks, last) * area * labelled),
    ]
    crf = 0 if recipe.label.crf == "none" else scored or images
    steps.append(Step("labels through the CRF", core_seconds=crf * CRF_SECONDS))
    affinity = recipe.affinity
    if affinity.trained:
        steps.append(Step("confident labels", core_seconds=2 * CRF_SECONDS * images if affinity.crf != "none" else 0))
        crop = _area((affinity.augment.crop,) * 2)
        epochs = _epochs(affinity, affinity.optim, images)
        steps.append(Step("boundary network", sum(blocks.values()) * crop * epochs * images))
        height, width = (math.ceil(side / 4) for side in IMAGE)
        walk = walk_cost(1, MAPS, height, width, len(power_weights(affinity.walk.steps)) - 1).flops
        steps.append(Step("random walk", (2 * sum(blocks.values()) * _area(IMAGE) + walk) * labelled))
    if recipe.segmentation.trained:
        steps += _segmentation(recipe, images, test, scored or images)
    return steps


def block_flops(backbone: str, output_stride: int = 16) -> dict[str, float]:
    """Operations of each block's forward pass, per pixel of the image.

    Output stride 8 of a ResNet: the blocks of layer3 and layer4 on four times the cells of output stride 16.
    """
    with torch.device("meta"):
        network = create_backbone(backbone, 32 if output_stride == 32 else 16)
        x = torch.empty(1, 3, COUNTED, COUNTED)
        found = {}
        for index, name in enumerate(network.names):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                x = network.run(x, index, index + 1)
            wider = output_stride == 8 and name.startswith(("layer3", "layer4"))
            found[name] = counter.get_total_flops() * (4 if wider else 1) / COUNTED**2
    return found


def _segmentation(recipe: Recipe, images: int, test: int, labelled: int) -> list[Step]:
    config = recipe.segmentation
    blocks = block_flops(config.model.backbone, config.model.output_stride)
    with torch.device("meta"):
        network = SegmentationNet(
            create(config.model.backbone, output_stride=config.model.output_stride)[0], 21, config.head
        )
    stride = math.prod(spec.stride for spec in network.backbone.specs)
    head = sum(2 * module.weight.numel() for module in network.head.modules() if isinstance(module, torch.nn.Conv2d))
    frozen = network.backbone.frozen_default if config.model.frozen_blocks < 0 else config.model.frozen_blocks
    head_per_pixel = head / stride**2
    training = _trained(blocks, [], frozen) + 3 * head_per_pixel
    crop = _area((config.augment.crop,) * 2)
    views = sum(scale**2 for scale in config.scales) * (2 if config.flip else 1) * _area(IMAGE)
    image = (_forward(blocks, []) + head_per_pixel) * views
    crf = 0 if config.crf == "none" else CRF_SECONDS
    return [
        Step("segmentation network", training * crop * _epochs(config, config.optim, images) * images),
        Step("segmentation test", image * test, crf * test),
        Step("labels by the network", image * labelled, crf * labelled),
    ]


def _classifier_training(
    recipe: Recipe, variant: str, blocks: dict[str, float], positions: list[int], images: int
) -> float:
    """Operations for one image over all epochs."""
    with torch.device("meta"):
        default = create(recipe.model.backbone)[0].frozen_default
    frozen = default if recipe.model.frozen_blocks < 0 else recipe.model.frozen_blocks
    crop = _area((recipe.augment.crop,) * 2)
    epochs = [_epochs(stage, recipe.optim, images) for stage in recipe.stages]
    if variant != "ppl":
        cuts = [] if variant == "plain" else positions
        return _trained(blocks, cuts, frozen) * crop * sum(epochs)
    return sum(_trained(blocks, [cut], frozen) * crop * count for cut, count in zip(positions, epochs, strict=True))


def _epochs(length: Length, optim: OptimConfig, images: int) -> float:
    """Passes over the images."""
    return length.steps / steps_per_epoch(images, optim.batch) if length.steps else length.epochs


def _forward(blocks: dict[str, float], cuts: list[int]) -> float:
    """Each branch runs the blocks behind its cut once more, on patches that cover the same area."""
    return sum(flops * (1 + sum(index >= cut for cut in cuts)) for index, flops in enumerate(blocks.values()))


def _trained(blocks: dict[str, float], cuts: list[int], frozen: int) -> float:
    """Forward and, for blocks that are trained, both gradients."""
    return sum(
        flops * (1 + sum(index >= cut for cut in cuts)) * (3 if index >= frozen else 1)
        for index, flops in enumerate(blocks.values())
    )


def _position(blocks: dict[str, float], name: str) -> int:
    """Blocks before the cut."""
    return 1 + max(index for index, block in enumerate(blocks) if block == name or block.startswith(f"{name}."))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _refines(recipe: Recipe) -> bool:
    return recipe.affinity.trained or recipe.segmentation.trained


def table(steps: list[Step]) -> str:
    lines = [f"{'step':<24} {'PFLOP':>9} {'1 GPU':>11} {'8 GPUs':>11} {'CRF core-hours':>15}"]
    total = Step("all", sum(step.flops for step in steps), sum(step.core_seconds for step in steps))
    for step in (*steps, total):
        gpu = f"{step.minutes:>7.2g} min {step.minutes / 8:>7.2g} min" if step.flops else f"{'':>23}"
        core = f"{step.core_seconds / 3600:>15.1f}" if step.core_seconds else ""
        lines.append(f"{step.name:<24} {step.flops / 1e15:>9.3g} {gpu} {core}".rstrip())
    lines.append(
        f"computed, not measured: {H100.name} at {SHARE:.0%} of {H100.matrix_rate / 1e12:g} TFLOP/s "
        f"(bf16), perfect scaling; CRF {CRF_SECONDS} s an image and core"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pplfast.benchmarks.cost", description=__doc__.split("\n")[0])
    parser.add_argument("recipe", help="a preset by name, or a TOML file")
    parser.add_argument("--variant", default="ppl", choices=("plain", "ppl", "explicit"))
    parser.add_argument("--images", type=int, required=True, help="of the list that is trained on")
    parser.add_argument("--scored", type=int, default=0, help="of the list that is scored, where it is another one")
    parser.add_argument("--test", type=int, default=0, help="of the list that the segmentation network is tested on")
    args = parser.parse_args(arguments)
    try:
        print(table(recipe_cost(load_recipe(args.recipe), args.variant, args.images, args.scored, args.test)))
    except UserError as error:
        print(f"cost: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
