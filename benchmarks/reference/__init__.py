"""Patch learning the way this field's repositories write it: eager PyTorch, NCHW float32, no kernel of our own.

It shares no code with pplfast, only the published parameter names, so that one state dict fits both. The
benchmarks measure against it and the tests check against it. It is meant to be read, and to be correct; it is never
made slower than a careful author of such a repository would write it.
"""

from torch import Tensor

from pplfast.benchmarks.reference.backbone import ReferenceBackbone
from pplfast.benchmarks.reference.classifier import ReferenceClassifier, merge_patches, split_patches
from pplfast.benchmarks.reference.efficientnet import EfficientNetLite0
from pplfast.benchmarks.reference.resnet import ResNet
from pplfast.benchmarks.reference.wideresnet import WideResNet38

__all__ = [
    "EfficientNetLite0",
    "ReferenceClassifier",
    "ResNet",
    "WideResNet38",
    "create_backbone",
    "load_published",
    "merge_patches",
    "split_patches",
]


def create_backbone(name: str, output_stride: int = 16) -> ReferenceBackbone:
    """The backbone of that name with torch's random weights; `output_stride` concerns EfficientNet-Lite0 alone."""
    if name == "efficientnet_lite0":
        return EfficientNetLite0(output_stride)
    if name in ("resnet50", "resnet101"):
        return ResNet((3, 4, 6, 3) if name == "resnet50" else (3, 4, 23, 3))
    if name == "wrn38":
        return WideResNet38()
    raise ValueError(f"no reference backbone named {name!r}")


def load_published(backbone: ReferenceBackbone, state: dict[str, Tensor]) -> None:
    """Load a state dict with the published names; every tensor but BN's step counter must be there, and no other."""
    missing, unexpected = backbone.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith(".num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"missing: {missing}; unexpected: {unexpected}")
