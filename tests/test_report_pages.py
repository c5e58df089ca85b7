"""The final labels in the report, and the pages of all images: their order, their links, their pictures."""

import dataclasses
import io
import json
import os
import re
import shutil
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from report_runs import Page, make_data, make_run

from pplfast.data.dataset import Dataset, open_dataset
from pplfast.data.stored import Stored
from pplfast.errors import UserError
from pplfast.report import check_report, pages, write_report
from pplfast.report.final import final_labels
from pplfast.report.links import address
from pplfast.report.view import read_run

COUNT = 7


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    root = tmp_path_factory.mktemp("pages")
    config = make_data(root / "data", COUNT, "a b#1%2F?&é")
    make_run(root / "run", config, open_dataset(config), {"ppl": 0.2})
    return root / "run", open_dataset(config)


@pytest.fixture
def run(whole: tuple[Path, Dataset], tmp_path: Path) -> Path:
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def dataset(whole: tuple[Path, Dataset]) -> Dataset:
    return whole[1]


def names_of(page: Path) -> list[str]:
    """Ids of the images on a page, in order: of its cards or of its lines."""
    return [unescape(name) for name in re.findall("<(?:figcaption>.*?<div|li)><b>(.*?)</b>", page.read_text())]


def links_of(page: Path, text: str) -> list[Path]:
    """The files that a browser opens, of the links with this text."""
    found = re.findall(f'<a href="([^"]*)">{text}</a>', page.read_text())
    return [Path(os.path.normpath(page.parent / unquote(way))) for way in found]


def write_confidence(run: Path, ids: list[str]) -> None:
    lines = [f'"{name}",{number / 10:.1f},cat,3' for number, name in enumerate(ids)]
    (run / "ppl/labels_crf/confidence.csv").write_text("\n".join(["image,confidence,class,pixels", *lines]) + "\n")


def test_every_image_is_on_one_page_in_the_order_of_the_list(run, dataset, monkeypatch):
    monkeypatch.setattr(pages, "PER_PAGE", 3)
    report = write_report(run, images=1)
    files = sorted((run / "report").glob("*.html"))
    assert [file.name for file in files] == ["page-001.html", "page-002.html", "page-003.html"]
    assert [names_of(file) for file in files] == [list(dataset.ids[:3]), list(dataset.ids[3:6]), list(dataset.ids[6:])]
    assert f"All {COUNT} images</a> (report/, beside this file)" in report.read_text()
    assert set(links_of(report, f"All {COUNT} images")) == {files[0]}
    assert links_of(files[0], "Next") == [files[1]] * 2 and links_of(files[0], "Previous") == []
    assert links_of(files[1], "Previous") == [files[0]] * 2 and links_of(files[1], "Last") == [files[2]] * 2
    assert links_of(files[2], "Report") == [report] * 2 and links_of(files[2], "Next") == []


def test_links_lead_to_the_image_and_to_its_label(run, dataset):
    report = write_report(run, images=1)
    page = run / "report/page-001.html"
    for file in (report, page):
        images, labels = links_of(file, "image"), links_of(file, "label PNG")
        assert images[::2] == images[1::2] == list(dataset.images)  # below the picture and in its large view
        assert labels[::2] == [run / f"ppl/labels_crf/{name}.png" for name in dataset.ids]
        assert all(path.is_file() for path in (*images, *labels))


def test_the_least_sure_come_first_with_their_confidence(run, dataset):
    ids = [dataset.ids[place] for place in (5, 2, 6, 0)]
    write_confidence(run, ids)
    report = write_report(run, images=1)
    page = run / "report/page-001.html"
    assert names_of(page) == [*ids, *(dataset.ids[place] for place in (1, 3, 4))]
    shown = re.findall(r'<figure>.*?<span class="sure">([^<]*)</span>', page.read_text())
    assert shown[:1] == ["confidence 0.00"] and "confidence 0.30" in page.read_text()
    assert "the least sure first" in report.read_text() and report.read_text().count("confidence 0.10") == 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no column &#x27;confidence&#x27;"),
        (b"confidence,image\n0.1,a\n", "no column"),
        (b"image,confidence\na,nan\n", "line 2: confidence is &#x27;nan&#x27;"),
        (b"image,class,confidence\na,cat,0.5\nb,cat,1.01\n", "line 3: confidence is &#x27;1.01&#x27;"),
        (b"image,confidence\na\n", "line 2: confidence is &#x27;&#x27;"),
        (b'image,confidence\n"a"b,0.1\n', "is no CSV"),
        (b"image,confidence\na,<script>\n", "&lt;script&gt;"),
        (b"image,confidence\n" + b"a" * 200_000 + b",0.1\n", "is no CSV"),
    ],
)
def test_a_damaged_table_of_confidence_is_named_and_the_rest_is_shown(run, dataset, content, complaint):
    (run / "ppl/labels_crf/confidence.csv").write_bytes(content)
    report = write_report(run, images=0)
    for file in (report, run / "report/page-001.html"):
        assert complaint in file.read_text() and "confidence.csv" in file.read_text()
        Page(file.read_text())
    assert names_of(run / "report/page-001.html") == list(dataset.ids)


def test_pictures_show_the_label_in_colour_over_the_grey_image(run, dataset):
    write_report(run, images=1)
    for index, name in enumerate(dataset.ids):
        drawn = np.asarray(Image.open(run / f"report/pictures/{index:06d}-labels.jpg"), int)
        label = np.asarray(Image.open(run / f"ppl/labels_crf/{name}.png"))
        assert drawn.shape[:2] == label.shape  # small enough to be shown as it is
        coloured, objects = np.ptp(drawn, axis=2) > 40, label > 0
        inner = objects & ~_near_border(label)  # borders are white
        assert inner.any() and coloured[inner].mean() > 0.95
        assert coloured[~objects & ~_near_border(label)].mean() < 0.02
        photo = np.asarray(Image.open(run / f"report/pictures/{index:06d}-photo.jpg"), int)
        assert np.abs(photo - np.asarray(Image.open(dataset.images[index]), int)).mean() < 8


def _near_border(label: np.ndarray) -> np.ndarray:
    """Within 4 pixels of another label: a JPEG has colour for every second pixel, in blocks."""
    padded = np.pad(label, 4, mode="edge")
    shifts = [(y, x) for y in range(9) for x in range(9)]
    moved = [padded[y : y + label.shape[0], x : x + label.shape[1]] for y, x in shifts]
    return (np.stack(moved) != label).any(0)


def test_each_picture_has_one_large_view_that_it_opens(run):
    report = write_report(run, images=1)
    for file in (report, run / "report/page-001.html"):
        text = file.read_text()
        views = re.findall(r'<div class="view" id="([^"]*)" popover="auto" role="dialog"', text)
        opened = re.findall(r'<button class="open" popovertarget="([^"]*)" aria-label="Enlarge ', text)
        closed = re.findall(r'<button popovertarget="([^"]*)" popovertargetaction="hide">Close<', text)
        assert len(set(views)) == COUNT and views == opened == closed
        assert not re.search(r"<script|https?:|url\(|<link| on[a-z]+=", text)
        assert text.count("<img") == len(re.findall(r'<img [^>]* alt="[^"]+"', text))
    assert "img-src data:;" in report.read_text()
    assert "img-src &#x27;self&#x27; file:;" in (run / "report/page-001.html").read_text()


def test_pages_of_an_earlier_report_are_replaced_and_other_files_stay(run, monkeypatch):
    monkeypatch.setattr(pages, "PER_PAGE", 2)
    write_report(run, images=1)
    folder = run / "report"
    assert len(list(folder.glob("page-*.html"))) == 4 and len(list(folder.glob("pictures/*.jpg"))) == 2 * COUNT
    (folder / "notes.txt").write_text("mine")
    (folder / "pictures/mine.jpg").write_text("mine")
    monkeypatch.setattr(pages, "PER_PAGE", 100)
    monkeypatch.setattr(pages, "MOST_PICTURES", 2)
    write_report(run, images=1)
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    drawn = [f"pictures/00000{index}-{what}.jpg" for index in (0, 1) for what in ("labels", "photo")]
    assert left == ["notes.txt", "page-001.html", "page-002.html", *drawn, "pictures/mine.jpg"]


def test_beyond_the_most_that_is_drawn_there_are_links(run, dataset, monkeypatch):
    monkeypatch.setattr(pages, "MOST_PICTURES", 2)
    monkeypatch.setattr(pages, "LINES_PER_PAGE", 4)
    write_confidence(run, list(reversed(dataset.ids)))
    write_report(run, images=1)
    first, *rest = sorted((run / "report").glob("*.html"))
    assert names_of(first) == list(dataset.ids[:-3:-1])
    assert [names_of(file) for file in rest] == [list(dataset.ids[4:0:-1]), list(dataset.ids[:1])]
    assert links_of(rest[1], "image") == [dataset.images[0]] and "<img" not in rest[1].read_text()
    assert "confidence 0.60" in rest[1].read_text()


@dataclass(frozen=True, slots=True)
class Part(Stored):
    """An image that is no file of its own."""

    content: bytes

    @property
    def state(self) -> list[int]:
        return [0, 0]

    def read(self) -> bytes:
        return self.content


def test_images_in_shards_have_pictures_and_no_links_to_them(run, dataset, monkeypatch):
    parts = tuple(Part("shard.tar", 0, path.name, path.read_bytes()) for path in dataset.images)
    sharded = dataclasses.replace(dataset, images=parts)
    final = final_labels(read_run(run))
    monkeypatch.setattr(pages, "MOST_PICTURES", 5)
    written = pages.write_pages(sharded, final, run / "report", run / "report.html", 1)
    assert written.images == 5 and [file.name for file in written.files] == ["page-001.html"]
    assert links_of(written.files[0], "image") == [] and len(links_of(written.files[0], "label PNG")) == 10
    assert len(list((run / "report/pictures").glob("*-labels.jpg"))) == 5


def test_a_key_that_is_too_long_for_a_file_has_no_label(run, dataset):
    name = "k" * 300
    sharded = dataclasses.replace(dataset, ids=(name, *dataset.ids[1:]))
    written = pages.write_pages(sharded, final_labels(read_run(run)), run / "report", run / "report.html", 1)
    assert names_of(written.files[0])[0] == name and len(links_of(written.files[0], "label PNG")) == 2 * (COUNT - 1)


@pytest.mark.parametrize(
    ("made", "final"),
    [
        (("labels",), "labels"),
        (("labels", "labels_crf"), "labels_crf"),
        (("labels", "labels_crf", "labels_walk"), "labels_walk"),
        (("labels", "labels_crf", "labels_walk", "predictions", "labels_network"), "labels_network"),
        (("labels", "labels_crf", "predictions"), "labels_crf"),  # those are of the list that is tested on
    ],
)
def test_final_are_the_last_labels_that_the_run_made_of_its_list(run, made, final):
    summary = json.loads((run / "summary.json").read_text())
    summary["ppl"]["seconds"] = dict.fromkeys(made, 1.0)
    (run / "summary.json").write_text(json.dumps(summary))
    assert final_labels(read_run(run)).source == final
    text = write_report(run, images=0).read_text()
    assert text.index("<h2>Final labels") < text.index("<h2>Results") and f"<b>ppl/{final}</b>" in text


def test_an_image_without_its_label_is_named_on_its_card(run, dataset):
    path = run / f"ppl/labels_crf/{dataset.ids[3]}.png"
    path.unlink()
    report = write_report(run, images=1)
    for file in (report, run / "report/page-001.html"):
        broken = re.findall('<p class="broken">([^<]*)</p>', file.read_text())
        assert [unescape(text) for text in broken] == [f"{path}: no such file"]
        assert len(links_of(file, "label PNG")) == 2 * (COUNT - 1) and dataset.images[3] in links_of(file, "image")


def test_a_report_elsewhere_has_its_own_pages(run, tmp_path, dataset):
    report = write_report(run, tmp_path / "other" / "all.html", images=1)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["all-pages", "all.html"]
    assert links_of(report, "image")[0] == dataset.images[0] and not (run / "report").exists()


def test_what_is_in_the_way_is_named_and_stays(run, tmp_path):
    (run / "report").write_text("mine")
    with pytest.raises(UserError, match=r"run/report: is a file, where the report's pages are to be"):
        check_report(run)
    (run / "report").unlink()
    (tmp_path / "elsewhere").mkdir()
    (run / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a symbolic link leads out of"):
        write_report(run)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["javascript:x()", 'a" onclick="x()', "a\n<b>", "ü\u202e", "x:y"])
def test_no_name_of_a_file_becomes_an_address_elsewhere(tmp_path, name):
    way = address(tmp_path / "data" / name, tmp_path / "run" / "report.html")
    assert re.fullmatch(r"\.\./data/[A-Za-z0-9_.~%/-]+", way)
    assert os.path.normpath(tmp_path / "run" / unquote(way)) == os.path.normpath(tmp_path / "data" / name)


@pytest.mark.slow
def test_processes_draw_the_same_pictures(run, monkeypatch):
    write_report(run, images=0, jobs=1)
    alone = {path.name: path.read_bytes() for path in (run / "report/pictures").iterdir()}
    monkeypatch.setattr(pages, "CHUNK", 2)
    shutil.rmtree(run / "report")
    write_report(run, images=0, jobs=2)
    assert {path.name: path.read_bytes() for path in (run / "report/pictures").iterdir()} == alone
    with Image.open(io.BytesIO(alone["000000-photo.jpg"])) as image:
        assert image.size == (81, 60)
