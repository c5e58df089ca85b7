"""The gallery: some images with the CAMs and labels of every variant side by side."""

import html
from collections.abc import Sequence
from pathlib import Path

from pplfast.arrays import UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.labels.camfile import load_cam
from pplfast.report.images import data_uri, display_palette, heat_over, label_map, labels_over, thumbnail
from pplfast.report.view import LABELS, RunView, VariantView


def choose(dataset: Dataset, count: int) -> list[int]:
    """Evenly spread over the list, so that nobody has picked them by their result."""
    count = min(count, len(dataset))
    return [(2 * i + 1) * len(dataset) // (2 * count) for i in range(count)]


def gallery(view: RunView, count: int) -> str:
    """One block per image; an image that cannot be read is named instead of shown."""
    if view.dataset is None:
        return f'<p class="note">No pictures: {html.escape(view.dataset_error)}</p>'
    blocks = [_legend(view.dataset)]
    for index in choose(view.dataset, count):
        try:
            blocks.append(_block(view.dataset, index, view.variants))
        except (OSError, UserError) as error:
            blocks.append(f'<p class="note">{html.escape(view.dataset.ids[index])}: {html.escape(str(error))}</p>')
    return "\n".join(blocks)


def _legend(dataset: Dataset) -> str:
    palette = display_palette()
    entries = "".join(
        f'<span class="key"><i style="background:rgb({",".join(map(str, palette[value]))})"></i>'
        f"{html.escape(name)}</span>"
        for name, value in zip(dataset.classes.names, dataset.classes.ids, strict=True)
    )
    ignored = '<span class="key"><i class="ignore"></i>not scored</span>' if any(dataset.masks) else ""
    return f'<p class="legend">{entries}<span class="key"><i class="heat"></i>CAM, 0 to 1</span>{ignored}</p>'


def _block(dataset: Dataset, index: int, variants: Sequence[VariantView]) -> str:
    name, photo = dataset.ids[index], thumbnail(dataset.images[index])
    height, width = photo.shape[:2]
    figures = [_figure(photo, "image")]
    mask = dataset.masks[index]
    if mask is not None:
        figures.append(_figure(labels_over(photo, label_map(mask, height, width)), "truth"))
    columns = [_column(name, figures)]
    for variant in variants:
        columns.append(_column(variant.title, _outputs(variant.folder, dataset, name, photo), variant.key))
    single = " single" if len(variants) == 1 else ""
    return f'<article class="example{single}">{"".join(columns)}</article>'


def _outputs(folder: Path, dataset: Dataset, name: str, photo: UInt8Array) -> list[str]:
    """Figures of what one variant made of one image."""
    height, width = photo.shape[:2]
    cam = load_cam(folder / "cams" / f"{name}.npz")
    figures = [
        _figure(heat_over(photo, values), f"CAM {dataset.classes.names[column]}")
        for column, values in zip(cam.classes, cam.maps, strict=True)
    ]
    for source, caption in LABELS.items():
        path = folder / source / f"{name}.png"
        if path.is_file():
            figures.append(_figure(labels_over(photo, label_map(path, height, width)), caption))
    return figures


def _column(title: str, figures: Sequence[str], variant: str = "") -> str:
    swatch = f'<span class="swatch b-{variant}"></span>' if variant else ""
    return f"<section><h3>{swatch}{html.escape(title)}</h3>{''.join(figures)}</section>"


def _figure(pixels: UInt8Array, caption: str) -> str:
    height, width = pixels.shape[:2]
    return (
        f'<figure><img src="{data_uri(pixels)}" width="{width}" height="{height}" alt="{html.escape(caption)}" '
        f'loading="lazy"><figcaption>{html.escape(caption)}</figcaption></figure>'
    )
