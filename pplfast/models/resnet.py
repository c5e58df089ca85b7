"""ResNet-50 and ResNet-101 under torchvision's and timm's parameter names."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.errors import UserError
from pplfast.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Activation, Backbone, BlockSpec
from pplfast.models.layers import Conv, FrozenBatchNorm

LAYERS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}  # units in layer1 .. layer4
STEM_CHANNELS = 64
PLANES = (64, 128, 256, 512)  # inner channels of the units in layer1 .. layer4
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride: the "v1.5" of both libraries), 1x1, each with its BatchNorm; then the shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, dilation: int = 1):
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1 = Conv(inputs, planes, 1)
        self.bn1 = FrozenBatchNorm(planes)
        self.conv2 = Conv(planes, planes, 3, stride, dilation)
        self.bn2 = FrozenBatchNorm(planes)
        self.conv3 = Conv(planes, outputs, 1)
        self.bn3 = FrozenBatchNorm(outputs)
        self.downsample: nn.ModuleList | None = None
        if inputs != outputs or stride != 1:
            self.downsample = nn.ModuleList((Conv(inputs, outputs, 1, stride), FrozenBatchNorm(outputs)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x, self.bn1, "relu"), self.bn2, "relu")
        shortcut = x if self.downsample is None else self.downsample[0](x, self.downsample[1])
        return self.conv3(y, self.bn3, "relu", shortcut)


class ResNet(Backbone):
    """Blocks `stem`, `layer1.0`, ... `layer4.2`, every unit one block; no tail, since each unit ends with its ReLU.

    Output stride 16, the usual one of this field's classifiers, leaves out the stride of layer4 (no dilation); 32 is
    the published network; 8, DeepLab's, leaves out those of layer3 and layer4 and dilates them by 2 and 4.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    frozen_default = 4  # stem and layer1

    def __init__(self, name: str, output_stride: int = 16):
        super().__init__()
        self.name = name
        if output_stride not in (8, 16, 32):
            raise UserError(f"output_stride = {output_stride}: {name} offers 8, 16 and 32")
        self.conv1 = Conv(3, STEM_CHANNELS, 7, 2)
        self.bn1 = FrozenBatchNorm(STEM_CHANNELS)
        specs = [BlockSpec("stem", 4, STEM_CHANNELS)]
        strides = (1, 2, 1 if output_stride == 8 else 2, 2 if output_stride == 32 else 1)
        dilations = (1, 1, 2, 4) if output_stride == 8 else (1, 1, 1, 1)
        inputs = STEM_CHANNELS
        for number, units, planes, layer_stride, dilation in zip(
            range(1, 5), LAYERS[name], PLANES, strides, dilations, strict=True
        ):
            layer = nn.ModuleList()
            for unit in range(units):
                stride = 1 if unit else layer_stride
                layer.append(Bottleneck(inputs, planes, stride, dilation))
                inputs = planes * EXPANSION
                specs.append(BlockSpec(f"layer{number}.{unit}", stride, inputs))
            self.add_module(f"layer{number}", layer)
        self.specs = tuple(specs)
        self._scale_residual_branches()

    def block_modules(self, index: int) -> list[nn.Module]:
        return [self.conv1, self.bn1] if index == 0 else [self.get_submodule(self.specs[index].name)]

    def _block(
        self, index: int, x: Tensor, activated: Tensor | None, following: Activation | None
    ) -> tuple[Tensor, None]:
        if index == 0:
            return F.max_pool2d(self.conv1(x, self.bn1, "relu"), kernel_size=3, stride=2, padding=1), None
        return self.get_submodule(self.specs[index].name)(x), None

    def _residual_ends(self) -> list[Conv]:
        return [cast(Bottleneck, self.get_submodule(spec.name)).conv3 for spec in self.specs[1:]]
