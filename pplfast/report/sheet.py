"""A contact sheet: some images of each class with their labels and file names, for people who would rather look."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pplfast.arrays import IntArray
from pplfast.data.dataset import Dataset
from pplfast.data.spread import evenly
from pplfast.errors import UserError
from pplfast.files import is_output, write_text
from pplfast.report.document import document
from pplfast.report.images import data_uri, read_photo
from pplfast.report.keys import class_key
from pplfast.report.markup import NOTHING, Markup, element, join

PER_CLASS = 5  # images
UNLABELLED = 20  # images of a data set without labels


@dataclass(frozen=True)
class _Section:
    heading: Markup
    images: int  # in the whole list
    shown: tuple[int, ...]  # indices of the data set


def check_place(path: Path) -> None:
    """UserError where no sheet can be written to `path`: it is a folder or no regular file, or its folder is not
    there."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; name a file in it, as {path / 'sheet.html'}")
    if not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}; make it, or name a file in another one")
    is_output(path)


def write_sheet(dataset: Dataset, path: Path, per_class: int = PER_CLASS) -> Path:
    """Write one self-contained HTML file of up to `per_class` images of each class, and of those without one; returns
    its path. Of images without labels, UNLABELLED of the list.

    They are spread evenly over the list, the same ones each time. An image that cannot be read is shown as a box with
    the reason. UserError where the file cannot be written. Decoding leaves the interpreter lock, so threads help.
    """
    sections = list(_sections(dataset, per_class))
    wanted = sorted({index for section in sections for index in section.shown})  # one may be of several classes
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        pictures = dict(zip(wanted, pool.map(lambda index: _picture(dataset, index), wanted), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    blocks = [_header(dataset, per_class), *(_block(dataset, section, pictures) for section in sections)]
    write_text(path, document(f"Images of {dataset.name}", blocks, "sheet.css"))
    return path


def _sections(dataset: Dataset, per_class: int) -> Iterator[_Section]:
    """Those of classes that have an image, of images without a class, or of all where there are no labels."""
    if dataset.labels is None:
        yield _Section(join(["All images"]), len(dataset), tuple(evenly(len(dataset), UNLABELLED)))
        return
    for column in range(len(dataset.classes)):
        own = np.flatnonzero(dataset.labels[:, column])
        if len(own):
            yield _Section(class_key(dataset, column), len(own), _some(own, per_class))
    without = np.flatnonzero(~dataset.labels.any(axis=1))
    if len(without):
        yield _Section(join(["No class of the list"]), len(without), _some(without, per_class))


def _some(indices: IntArray, count: int) -> tuple[int, ...]:
    return tuple(indices[evenly(len(indices), count)].tolist())


def _picture(dataset: Dataset, index: int) -> Markup:
    path = dataset.images[index]
    try:
        pixels = read_photo(path, dataset.values).pixels
    except UserError as error:
        return element("p", str(error).removeprefix(f"{path}: "), css="broken")
    height, width = pixels.shape[:2]
    name = _name(dataset, index)
    return element("img", src=data_uri(pixels), width=str(width), height=str(height), alt=name, loading="lazy")


def _name(dataset: Dataset, index: int) -> str:
    """Of the file, with the folders that the id has."""
    folder, slash, _ = dataset.ids[index].rpartition("/")
    return f"{folder}{slash}{dataset.images[index].name}"


def _header(dataset: Dataset, per_class: int) -> Markup:
    text, absent = "No image labels.", NOTHING
    if dataset.labels is not None:
        text = f"Up to {per_class} images of each class and of those without one, evenly spread over the list."
        columns = np.flatnonzero(~dataset.labels.any(axis=0)).tolist()
        names = ", ".join(dataset.classes.names[column] for column in columns)
        absent = element("p", f"Classes without an image: {names}.", css="soft") if names else NOTHING
    counted = element("p", element("b", dataset.name), f", {_images(len(dataset))}. {text}", css="soft")
    return element("header", element("h1", "Images and their labels"), counted, absent)


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _block(dataset: Dataset, section: _Section, pictures: dict[int, Markup]) -> Markup:
    part = "" if len(section.shown) == section.images else f"{len(section.shown)} of "
    heading = element("h2", section.heading, " ", element("span", f"{part}{_images(section.images)}", css="note"))
    figures = [element("figure", pictures[index], _caption(dataset, index)) for index in section.shown]
    return element("section", heading, element("div", *figures, css="sheet"))


def _caption(dataset: Dataset, index: int) -> Markup:
    labels = NOTHING
    if dataset.labels is not None:
        own = np.flatnonzero(dataset.labels[index]).tolist()
        labels = element("div", *(class_key(dataset, column) for column in own), css="legend")
    return element("figcaption", labels, element("div", _name(dataset, index)))
