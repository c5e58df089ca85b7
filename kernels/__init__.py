"""Kernels of patch learning: a plain PyTorch definition and a Triton kernel for each; usable on their own.

`scale` and `shift` are float32 (C,) tensors or None (the affine map of a frozen BatchNorm); `act` is "none", "relu"
or "relu6"; sums are in float32. Patches are stacked on the batch axis, row-major within each image.
"""

from .cam_fuse import cam_fuse
from .cam_head import cam_head
from .cells import Cells, place
from .dense_crf import CrfTerms, mean_field
from .depthwise import depthwise
from .geometry import PatchGrid
from .patch_pool import patch_pool
from .patch_split import patch_split, patch_split_act
from .random_walk import random_walk
from .scale_act import add_scale_act, scale_act

__all__ = [
    "Cells",
    "CrfTerms",
    "PatchGrid",
    "add_scale_act",
    "cam_fuse",
    "cam_head",
    "depthwise",
    "mean_field",
    "patch_pool",
    "patch_split",
    "patch_split_act",
    "place",
    "random_walk",
    "scale_act",
]
