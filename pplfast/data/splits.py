"""What people call the parts of a data set."""

import re

_SPLIT = re.compile(
    r"(train|training|trainval|val|valid|validation|dev|eval|test|testing|unlabell?ed)(set)?([\s_-]?\d+)?",
    re.IGNORECASE,
)
_HOLDER = re.compile(r"images?|imgs?|jpe?gs?", re.IGNORECASE)


def is_split(name: str) -> bool:
    """Whether a folder holds a part of a data set by its name: train, val, test, also as train2017."""
    return _SPLIT.fullmatch(name) is not None


def is_holder(name: str) -> bool:
    """Whether a folder holds all images of a data set by its name: images, img, jpg."""
    return _HOLDER.fullmatch(name) is not None


def is_part(name: str) -> bool:
    """Whether a folder is a part of a data set by its name, or holds all its images: it is no class."""
    return is_split(name) or is_holder(name)
