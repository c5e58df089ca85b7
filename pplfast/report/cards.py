"""A card: the labels of one image over it, what is known of them, their files, and the same large when it is clicked.

The large view is a popover, which the browser itself opens, closes with Esc and puts the focus back from: no script.
"""

from collections.abc import Sequence
from os.path import isfile
from pathlib import Path

import numpy as np

from pplfast.data.dataset import Dataset
from pplfast.report.final import Final
from pplfast.report.keys import class_key
from pplfast.report.links import link
from pplfast.report.markup import NOTHING, Markup, element, join


def card(
    dataset: Dataset, index: int, final: Final, page: Path, shown: Markup, large: Sequence[tuple[str, Markup]]
) -> Markup:
    """shown: the picture, or in its place why there is none. large: caption and picture; empty where there is none."""
    name, view = dataset.ids[index], f"view-{index}"
    facts = about(dataset, index, final)
    files = file_links(dataset, index, final, page)
    if large:
        shown = element("button", shown, css="open", popovertarget=view, aria_label=f"Enlarge {name}")
    caption = element("figcaption", facts, element("div", element("b", name)), files)
    return join([element("figure", shown, caption), _large(view, name, large, facts, files) if large else NOTHING])


def about(dataset: Dataset, index: int, final: Final) -> Markup:
    """The image labels, and the confidence where there is one."""
    own = [] if dataset.labels is None else np.flatnonzero(dataset.labels[index]).tolist()
    sure = final.confidence.get(dataset.ids[index])
    figure = NOTHING if sure is None else element("span", f"confidence {sure:.2f}", css="sure")
    return element("div", *(class_key(dataset, column) for column in own), figure, css="legend")


def file_links(dataset: Dataset, index: int, final: Final, page: Path) -> Markup:
    """To the files that are there; images in shards have none of their own, and may have names too long for any."""
    image, label = dataset.images[index], final.label(dataset.ids[index])
    files = {"image": image, "label PNG": label}
    links = [link(text, file, page) for text, file in files.items() if isinstance(file, Path) and isfile(file)]
    return element("div", join(links, " · "), css="links") if links else NOTHING


def _large(view: str, name: str, large: Sequence[tuple[str, Markup]], facts: Markup, files: Markup) -> Markup:
    close = element("button", "Close", popovertarget=view, popovertargetaction="hide")
    head = element("header", element("h3", name), close)
    pictures = [element("figure", picture, element("figcaption", caption)) for caption, picture in large]
    return element(
        "div",
        head,
        element("div", *pictures, css="pair"),
        facts,
        files,
        css="view",
        id=view,
        popover="auto",
        role="dialog",
        aria_label=f"{name}, large",
    )
