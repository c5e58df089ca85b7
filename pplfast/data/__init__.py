"""Data sets: which images, where they are, what is in them; their check and the demo set."""

from pplfast.data.check import CheckReport, check_dataset
from pplfast.data.classes import BACKGROUND, IGNORE, VOC, ClassList, parse_classes
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.data.images import BadImage, ImageInfo, inspect_image
from pplfast.data.masks import read_mask, voc_palette, write_mask
from pplfast.data.problems import Problem

__all__ = [
    "BACKGROUND", "IGNORE", "VOC", "BadImage", "CheckReport", "ClassList", "DataConfig", "Dataset", "DemoConfig",
    "ImageInfo", "Problem", "check_dataset", "inspect_image", "make_demo", "open_dataset", "parse_classes",
    "read_mask", "voc_palette", "write_mask",
]  # fmt: skip
