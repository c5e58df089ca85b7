"""The page of a folder's drawings: what each colour stands for, and every image, a link to its drawing."""

import os
from pathlib import Path

from pplfast.data.classes import ClassList
from pplfast.files import StrPath, write_text
from pplfast.jobs.manifest import read_manifest
from pplfast.labels.overlay import SUFFIX, display_palette
from pplfast.report.document import document
from pplfast.report.keys import key
from pplfast.report.links import address, link
from pplfast.report.markup import Markup, element

NAME = "overlays.html"
MOST_PICTURES = 2000  # that the page shows; of the rest there are links
SIDE = "240"  # pixels, of the place that a picture has before it is loaded


def write_page(out: StrPath, classes: ClassList) -> Path:
    """Write `out/overlays.html`, of every image that has a drawing there, in the manifest's order. It refers to the
    drawings and nothing else; the browser loads those that come into view."""
    page = Path(out) / NAME
    drawn = [
        record["id"]
        for record in read_manifest(Path(out)).values()
        if any(entry["file"] == f"{record['id']}{SUFFIX}" for entry in record.get("files", ()))
    ]
    keys = [_key(name, value) for name, value in zip(classes.names, classes.ids, strict=True)]
    counted = f"{len(drawn)} image{'' if len(drawn) == 1 else 's'}; the background is dimmed. Each opens its drawing."
    header = element(
        "header",
        element("h1", "Labels over images"),
        element("p", counted, css="soft"),
        element("p", *keys, css="legend"),
    )
    figures = [_figure(id, page) for id in drawn[:MOST_PICTURES]]
    rest = [element("li", link(id, page.parent / f"{id}{SUFFIX}", page)) for id in drawn[MOST_PICTURES:]]
    blocks = [header, element("div", *figures, css="sheet")]
    if rest:
        blocks += [element("h2", f"The other {len(rest)}"), element("ul", *rest)]
    title = f"Labels in {os.path.basename(os.path.abspath(out))}"
    write_text(page, document(title, blocks, "sheet.css", pictures=True))
    return page


def _key(name: str, value: int) -> Markup:
    colour = ",".join(map(str, display_palette()[value].tolist()))
    return key(name, style=f"background:rgb({colour})")


def _figure(id: str, page: Path) -> Markup:
    drawing = page.parent / f"{id}{SUFFIX}"
    picture = element("img", src=address(drawing, page), alt=id, loading="lazy", width=SIDE, height=SIDE)
    return element("figure", element("a", picture, href=address(drawing, page)), element("figcaption", id))
