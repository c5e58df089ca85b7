"""Pages of all images of a run with their final labels, in a folder beside the report, the least sure first."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pplfast.data.dataset import Dataset
from pplfast.errors import UserError, explain_os_error
from pplfast.files import check_inside, remove_file, write_text
from pplfast.jobs.progress import ProgressBar
from pplfast.pool import map_unordered
from pplfast.report.cards import about, card, file_links
from pplfast.report.document import document
from pplfast.report.final import Final
from pplfast.report.keys import class_keys
from pplfast.report.links import link
from pplfast.report.markup import NOTHING, Markup, element, join
from pplfast.report.pictures import Drawn, Wanted, draw_chunk

PER_PAGE = 100  # images
MOST_PICTURES = 2000  # images that are drawn; of the rest of a list there are links
LINES_PER_PAGE = 1000  # images of a page without pictures
CHUNK = 64  # images of a task; so many are drawn faster than a process starts
PICTURES = "pictures"
_OWN_PAGE = re.compile(r"page-\d{3,}\.html")
_OWN_PICTURE = re.compile(r"\d{6,}-(labels|photo)\.jpg")


Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Pages:
    """The files, in order, and the images that are on them."""

    files: list[Path]
    images: int


def write_pages(dataset: Dataset, final: Final, folder: Path, report: Path, jobs: int) -> Pages:
    """Write `folder`/page-001.html and so on, with their pictures; those of an earlier report are replaced.

    report: the file that links to them. jobs: processes that draw. UserError where something cannot be written, or a
    link leads the folder elsewhere.
    """
    pictures = folder / PICTURES
    order = final.order(dataset)
    shown, rest = order[:MOST_PICTURES], order[MOST_PICTURES:]
    if not all(isinstance(image, Path) for image in dataset.images[:1]):
        rest = []  # in shards there is nothing to link to
    parts = [*_cut(shown, PER_PAGE), *_cut(rest, LINES_PER_PAGE)]
    files = [folder / f"page-{number:03d}.html" for number in range(1, len(parts) + 1)]
    drawn = _draw(dataset, final, pictures, shown, jobs)
    for number, (file, part) in enumerate(zip(files, parts, strict=True)):
        content = (
            _grid(dataset, final, file, [drawn[index] for index in part])
            if part[0] in drawn
            else _list(dataset, final, file, part)
        )
        title = f"Labels of {dataset.name}, page {number + 1} of {len(files)}"
        ways = _ways(files, number, report)
        head = element("header", element("h1", title), _explained(dataset, final, len(shown) + len(rest)))
        sections = [head, ways, content, ways]
        write_text(file, document(title, sections, "labels.css", pictures=True))
    _remove(folder, _OWN_PAGE, {file.name for file in files})
    used = {picture.name for index in drawn for picture in _picture_files(pictures, index)}
    _remove(pictures, _OWN_PICTURE, used)
    return Pages(files, len(shown) + len(rest))


def check_place(folder: Path) -> None:
    """UserError where no pages can be written to `folder`: it is a file, or a link that leads elsewhere."""
    check_inside(folder.parent, [folder / "page", folder / PICTURES / "picture"])
    for path in (folder, folder / PICTURES):
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path}: is a file, where the report's pages are to be; move it")


def _cut(things: Sequence[Thing], length: int) -> list[Sequence[Thing]]:
    return [things[start : start + length] for start in range(0, len(things), length)]


def _picture_files(folder: Path, index: int) -> tuple[Path, Path]:
    """Of the photograph and of the labels."""
    return folder / f"{index:06d}-photo.jpg", folder / f"{index:06d}-labels.jpg"


def _draw(dataset: Dataset, final: Final, folder: Path, shown: Sequence[int], jobs: int) -> dict[int, Drawn]:
    """In the order of the list, in which images of one shard are read together."""
    wanted = [
        Wanted(index, dataset.images[index], final.label(dataset.ids[index]), *_picture_files(folder, index))
        for index in sorted(shown)
    ]
    drawn: dict[int, Drawn] = {}
    with ProgressBar("drawing the labels", len(wanted)) as progress:
        for chunk, results in map_unordered(partial(draw_chunk, values=dataset.values), _cut(wanted, CHUNK), jobs):
            drawn |= {result.index: result for result in results}
            progress.advance(len(chunk))
    return drawn


def _explained(dataset: Dataset, final: Final, listed: int) -> Markup:
    text = f"{final.text.capitalize()}, {final.variant.title.lower()}; {listed} of {len(dataset)} images, "
    text += (
        "the least sure first. Confidence is an estimate, from 0 to 1, of how right an image's label is."
        if final.confidence
        else "in the order of the list."
    )
    problem = element("p", f"Not shown: {final.problem}", css="note") if final.problem else NOTHING
    return join([element("p", text, css="soft"), problem, element("p", *class_keys(dataset), css="legend")])


def _ways(files: Sequence[Path], number: int, report: Path) -> Markup:
    here = files[number]
    ways = [link("Report", report, here)]
    if number > 0:
        ways += [link("First", files[0], here), link("Previous", files[number - 1], here)]
    ways.append(element("span", f"page {number + 1} of {len(files)}"))
    if number + 1 < len(files):
        ways += [link("Next", files[number + 1], here), link("Last", files[-1], here)]
    return element("nav", *ways, aria_label="Pages")


def _grid(dataset: Dataset, final: Final, page: Path, part: Sequence[Drawn]) -> Markup:
    return element("div", *_cards(dataset, final, page, part), css="labels")


def _cards(dataset: Dataset, final: Final, page: Path, part: Sequence[Drawn]) -> Iterator[Markup]:
    for drawn in part:
        if drawn.error:
            yield card(dataset, drawn.index, final, page, element("p", drawn.error, css="broken"), ())
            continue
        name = dataset.ids[drawn.index]
        photo, labels = (
            element(
                "img",
                src=f"{PICTURES}/{file.name}",
                width=str(drawn.width),
                height=str(drawn.height),
                alt=f"{what} {name}",
                loading="lazy",
            )
            for file, what in zip(_picture_files(page.parent, drawn.index), ("image", "labels of"), strict=True)
        )
        yield card(dataset, drawn.index, final, page, labels, ((final.text, labels), ("image", photo)))


def _list(dataset: Dataset, final: Final, page: Path, part: Sequence[int]) -> Markup:
    lines = [
        element(
            "li",
            element("b", dataset.ids[index]),
            about(dataset, index, final),
            file_links(dataset, index, final, page),
        )
        for index in part
    ]
    note = element("p", f"Without pictures: those are of the first {MOST_PICTURES} images.", css="note")
    return join([note, element("ul", *lines, css="files")])


def _remove(folder: Path, own: re.Pattern[str], keep: set[str]) -> None:
    """Files of an earlier report. What else lies there is somebody's."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain_os_error(error, folder, reading=True) from None
    for name in names:
        if own.fullmatch(name) and name not in keep:
            remove_file(folder / name)
