"""The report's first part: the final labels of some images, and the way to those of all."""

from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.data.spread import evenly
from pplfast.errors import UserError
from pplfast.report.cards import card
from pplfast.report.final import Final
from pplfast.report.images import data_uri
from pplfast.report.keys import class_keys
from pplfast.report.links import link
from pplfast.report.markup import NOTHING, Markup, element, join
from pplfast.report.pages import Pages
from pplfast.report.pictures import read_pair

SHOWN = 12  # images: three rows of a wide page
SIDE = 432  # pixels of the long side: of a card, on a dense screen


def product(dataset: Dataset, final: Final, report: Path, pages: Pages) -> Markup:
    """SHOWN images, evenly spread over the list, so that nobody has picked them by their result. report: the file that
    this becomes part of."""
    chosen = evenly(len(dataset), SHOWN)
    cards = [_card(dataset, index, final, report) for index in chosen]
    where = f"{final.folder.parent.name}/{final.source}"
    text = element(
        "p",
        f"{final.text.capitalize()}, in ",
        element("b", where),
        f": {len(chosen)} of {len(dataset)} images, evenly spread over the list. A picture opens enlarged. ",
        _to_pages(dataset, final, report, pages),
        css="soft",
    )
    problem = element("p", f"Confidence not shown: {final.problem}", css="note") if final.problem else NOTHING
    keys = element("p", *class_keys(dataset), css="legend")
    return join([element("h2", "Final labels"), text, problem, keys, element("div", *cards, css="labels")], "\n")


def _to_pages(dataset: Dataset, final: Final, report: Path, pages: Pages) -> Markup:
    what = f"All {pages.images} images" if pages.images == len(dataset) else f"{pages.images} images"
    order = ", the least sure first" if final.confidence else ""
    first = pages.files[0]
    return join([link(f"{what}{order}", first, report), f" ({first.parent.name}/, beside this file)."])


def _card(dataset: Dataset, index: int, final: Final, report: Path) -> Markup:
    name = dataset.ids[index]
    try:
        pair = read_pair(dataset.images[index], final.label(name), dataset.values)
    except (OSError, UserError) as error:
        return card(dataset, index, final, report, element("p", str(error), css="broken"), ())
    small = Image.fromarray(pair.labels)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    shown = _picture(np.asarray(small), f"labels of {name}")
    large = ((final.text, _picture(pair.labels, f"labels of {name}")), ("image", _picture(pair.photo, f"image {name}")))
    return card(dataset, index, final, report, shown, large)


def _picture(pixels: UInt8Array, alt: str) -> Markup:
    height, width = pixels.shape[:2]
    return element("img", src=data_uri(pixels), width=str(width), height=str(height), alt=alt, loading="lazy")
