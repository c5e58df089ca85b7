"""The formats by their names. Each one's module is imported when it is used: they need what not everybody has."""

import importlib
import importlib.util
from typing import TYPE_CHECKING

from pplfast.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pplfast.export.format import Format

EXTRA = "pip install 'pplfast[export]'"

# name of --format -> where its class is.
FORMATS = {
    "grey": "pplfast.export.indexed:Grey",
    "colour": "pplfast.export.indexed:Colour",
    "mmseg": "pplfast.export.mmseg:MMSegmentation",
    "yolo": "pplfast.export.yolo:Yolo",
    "cvat": "pplfast.export.cvat:Cvat",
    "coco": "pplfast.export.coco:CocoRle",
    "coco-polygons": "pplfast.export.coco:CocoPolygons",
    "label-studio": "pplfast.export.label_studio:LabelStudioBrush",
    "label-studio-polygons": "pplfast.export.label_studio:LabelStudioPolygons",
    "hugging-face": "pplfast.export.hugging_face:HuggingFace",
    "fiftyone": "pplfast.export.fiftyone:FiftyOne",
}


def find_format(name: str) -> "type[Format]":
    """The class of a format. UserError for a name that there is not, and without a library that it needs."""
    if name not in FORMATS:
        raise UserError(f"{name}: no format; choose from {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    module, _, attribute = FORMATS[name].partition(":")
    found: type[Format] = getattr(importlib.import_module(module), attribute)
    missing = [needed for needed in found.needs if importlib.util.find_spec(needed) is None]
    if missing:
        raise UserError(f"--format {name}: needs {', '.join(missing)}, which is not installed; {EXTRA}")
    return found
