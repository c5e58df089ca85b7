"""The gallery: some images with the CAMs and labels of every variant side by side."""

from collections.abc import Sequence
from pathlib import Path

from pplfast.arrays import UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.labels.camfile import Cam, load_cam
from pplfast.labels.camfolder import check_classes
from pplfast.labels.overlay import labels_over
from pplfast.report.charts import swatch
from pplfast.report.images import (
    Photo,
    data_uri,
    heat_over,
    label_map,
    read_photo,
)
from pplfast.report.keys import class_keys, key
from pplfast.report.markup import NOTHING, Markup, element, join
from pplfast.report.view import RunView, VariantView
from pplfast.steps import LABELS


def choose(dataset: Dataset, count: int) -> list[int]:
    """Evenly spread over the list, so that nobody has picked them by their result."""
    count = min(count, len(dataset))
    return [(2 * i + 1) * len(dataset) // (2 * count) for i in range(count)]


def gallery(view: RunView, count: int) -> Markup:
    """One block per image; an image that cannot be read is named instead of shown."""
    if view.dataset is None:
        return _note(f"No pictures: {view.dataset_error}")
    blocks = [_legend(view.dataset)]
    for index in choose(view.dataset, count):
        try:
            blocks.append(_block(view.dataset, index, view.variants))
        except (OSError, UserError) as error:
            blocks.append(_note(f"{view.dataset.ids[index]}: {error}"))
    return join(blocks, "\n")


def _note(text: str) -> Markup:
    return element("p", text, css="note")


def _legend(dataset: Dataset) -> Markup:
    entries = [*class_keys(dataset), key("CAM, 0 to 1", css="heat")]
    if any(dataset.masks):
        entries.append(key("not scored", css="ignore"))
    return element("p", *entries, css="legend")


def _block(dataset: Dataset, index: int, variants: Sequence[VariantView]) -> Markup:
    name, photo = dataset.ids[index], read_photo(dataset.images[index], dataset.values)
    figures = [_figure(photo.pixels, "image")]
    mask = dataset.masks[index]
    if mask is not None:
        figures.append(_figure(labels_over(photo.pixels, label_map(mask, photo)), "truth"))
    columns = [_column(name, figures)]
    for variant in variants:
        columns.append(_column(variant.title, _outputs(variant, dataset, name, photo), variant.key))
    return element("article", *columns, css="example single" if len(variants) == 1 else "example")


def _outputs(variant: VariantView, dataset: Dataset, name: str, photo: Photo) -> list[Markup]:
    """Figures of what one variant made of one image; a file that cannot be read is named in its place."""
    figures = []
    try:
        check_classes(variant.folder / "cams", dataset.classes)
        cam = _own_cam(variant.folder / "cams" / f"{name}.npz", dataset, photo)
        figures += [
            _figure(heat_over(photo.pixels, values), f"CAM {dataset.classes.names[column]}")
            for column, values in zip(cam.classes, cam.maps, strict=True)
        ]
    except (OSError, UserError) as error:
        figures.append(_note(str(error)))
    for source, caption in LABELS.items():
        path = variant.folder / source / f"{name}.png"
        if source in variant.seconds and path.exists():  # an earlier run with other settings may have left more
            try:
                figures.append(_figure(labels_over(photo.pixels, label_map(path, photo)), caption))
            except UserError as error:
                figures.append(_note(str(error)))
    return figures


def _own_cam(path: Path, dataset: Dataset, photo: Photo) -> Cam:
    """The CAM file of this image and these classes. UserError for one of others."""
    cam = load_cam(path, len(dataset.classes))
    if cam.size != (photo.height, photo.width):
        raise UserError(
            f"{path}: belongs to an image of {cam.size[1]} x {cam.size[0]}, not of {photo.width} x {photo.height}; "
            "delete it and run `pplfast cam` again"
        )
    return cam


def _column(title: str, figures: Sequence[Markup], variant: str = "") -> Markup:
    return element("section", element("h3", swatch(variant) if variant else NOTHING, title), *figures)


def _figure(pixels: UInt8Array, caption: str) -> Markup:
    height, width = pixels.shape[:2]
    picture = element("img", src=data_uri(pixels), width=str(width), height=str(height), alt=caption, loading="lazy")
    return element("figure", picture, element("figcaption", caption))
