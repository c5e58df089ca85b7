"""The contact sheet: which images it shows, under which class, with which labels, and nothing of them as markup."""

import base64
import io
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_sets import save_image, spoil_huffman_table
from PIL import Image
from report_runs import Page
from test_report_untrusted import PAYLOADS

from pplfast import cli
from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.report.document import document
from pplfast.report.sheet import check_place, write_sheet

NAMES = ("cat", "dog", "gnu")


def make_set(root: Path, labels: list[str] | None, count: int = 0, names: tuple[str, ...] = NAMES) -> Dataset:
    """An image per entry, which names its classes by their first letters; `count` images without labels for None."""
    paths = [save_image(root / "sub" / f"{i:02}.jpg", seed=i) for i in range(count if labels is None else len(labels))]
    matrix = None if labels is None else np.array([[name[0] in one for name in names] for one in labels], np.uint8)
    classes = ClassList(names, tuple(range(1, len(names) + 1)))
    ids = tuple(f"sub/{path.stem}" for path in paths)
    return Dataset("photos/<list>", ids, tuple(paths), classes, matrix, (None,) * len(paths))


def sheet(dataset: Dataset, root: Path, **options: int) -> str:
    return write_sheet(dataset, root / "sheet.html", **options).read_text(encoding="utf-8")


def sections(text: str) -> dict[str, list[list[str]]]:
    """By their headings, the texts below each picture."""
    found = {}
    for part in text.split("<section>")[1:]:
        heading = " ".join("".join(Page(part.partition("</h2>")[0] + "</h2>").text).split())
        captions = re.findall(r"<figcaption>.*?</figcaption>", part, re.DOTALL)
        found[heading] = [Page(caption).text for caption in captions]
    return found


def test_each_class_shows_its_images_with_all_their_labels(tmp_path):
    text = sheet(make_set(tmp_path, ["c", "cd", "d", "", "dc"]), tmp_path)
    both = {name: ["cat", "dog", f"sub/{name}.jpg"] for name in ("01", "04")}
    assert sections(text) == {
        "cat 3 images": [["cat", "sub/00.jpg"], both["01"], both["04"]],
        "dog 3 images": [both["01"], ["dog", "sub/02.jpg"], both["04"]],
        "No class of the list 1 image": [["sub/03.jpg"]],
    }
    assert "Classes without an image: gnu." in text and "photos/&lt;list&gt;</b>, 5 images" in text


def test_the_sheet_has_the_head_of_every_page_and_one_style_sheet_more(tmp_path):
    text = sheet(make_set(tmp_path, ["c"]), tmp_path)
    plain = document("Images of photos/<list>", [])
    styles = re.findall(r"<style>.*?</style>", text, re.DOTALL)
    assert len(styles) == 2 and "Of the contact sheet" in styles[1]
    assert text.partition("<body>")[0] == plain.partition("<body>")[0].replace(styles[0], "".join(styles))


def test_of_many_images_the_first_the_last_and_those_between_are_shown(tmp_path):
    text = sheet(make_set(tmp_path, ["c"] * 9 + [""] * 3), tmp_path, per_class=3)
    files = {heading: [caption[-1] for caption in captions] for heading, captions in sections(text).items()}
    assert files == {
        "cat 3 of 9 images": ["sub/00.jpg", "sub/04.jpg", "sub/08.jpg"],
        "No class of the list 3 images": ["sub/09.jpg", "sub/10.jpg", "sub/11.jpg"],
    }


def test_twenty_images_of_a_set_without_labels_are_shown(tmp_path):
    text = sheet(make_set(tmp_path, None, 24), tmp_path)
    [(heading, captions)] = sections(text).items()
    assert heading == "All images 20 of 24 images" and len(captions) == 20
    assert captions[0] == ["sub/00.jpg"] and captions[-1] == ["sub/23.jpg"] and "No image labels." in text


def test_the_same_data_give_the_same_bytes(tmp_path):
    dataset = make_set(tmp_path, ["c", "cd", "d", ""] * 5)
    assert sheet(dataset, tmp_path) == sheet(dataset, tmp_path / "again")


def pictures(text: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in Page(text).references]


def brightness(picture: Image.Image) -> int:
    return round(float(np.asarray(picture).mean()))


def test_pictures_are_those_of_the_files(tmp_path):
    dataset = make_set(tmp_path, ["c", "d"])
    for path, grey in zip(dataset.images, (60, 190), strict=True):
        Image.new("RGB", (600, 400), (grey, grey, grey)).save(path)
    shown = pictures(sheet(dataset, tmp_path))
    assert [brightness(picture) for picture in shown] == [60, 190]
    assert {picture.size for picture in shown} == {(288, 192)}


def test_deep_images_are_shown_in_the_range_of_the_data_set(tmp_path):
    dataset = replace(make_set(tmp_path, ["c", "d"]), values=(100.0, 355.0))
    for path, value in zip(dataset.images, (160, 290), strict=True):
        Image.fromarray(np.full((30, 40), value, np.uint16)).save(path, format="PNG")
    assert [brightness(picture) for picture in pictures(sheet(dataset, tmp_path))] == [60, 190]


def test_a_bad_image_is_a_box_with_the_reason(tmp_path):
    dataset = make_set(tmp_path, ["c", "c", "c"])
    dataset.images[0].unlink()
    dataset.images[1].write_bytes(spoil_huffman_table(dataset.images[1].read_bytes()))
    text = sheet(dataset, tmp_path)
    boxes = re.findall(r'<figure><p class="broken">(.*?)</p>', text)
    assert len(boxes) == 2 and boxes[0].startswith("no such file; ") and "restore it" in boxes[1]
    assert str(tmp_path) not in text and text.count("<img ") == 1
    assert [caption[-1] for caption in sections(text)["cat 3 images"]] == ["sub/00.jpg", "sub/01.jpg", "sub/02.jpg"]


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    text = sheet(make_set(tmp_path, ["c", "d", ""]), tmp_path)
    page = Page(text)
    assert page.counts["img"] == 3 and all(uri.startswith("data:image/jpeg;base64,") for uri in page.references)
    assert "default-src &#x27;none&#x27;" in text
    assert "url(" not in text and "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_names_of_classes_and_files_are_text(tmp_path, payload):
    plain = Page(sheet(make_set(tmp_path, ["c", "d", ""]), tmp_path)).kinds
    dataset = make_set(tmp_path, ["c", "d", ""])
    named = Dataset(
        payload, (payload, "b", "c"), (Path(payload.replace("\0", "")), *dataset.images[1:]),
        ClassList((f"c{payload}", "dog", f"g{payload}"), (1, 2, 3)), dataset.labels, dataset.masks,
    )  # fmt: skip
    page = Page(sheet(named, tmp_path))
    assert page.kinds <= plain | {("p", "class")} and page.counts["img"] == 2
    assert "<x-own" not in payload or any("<x-own" in text for text in page.text)


def test_no_sheet_is_begun_where_none_can_be_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "none" / "sheet.html", "there is no folder"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: .*{reason}.*"):
            check_place(path)
    check_place(tmp_path / "sheet.html")
    assert not (tmp_path / "sheet.html").exists()


def check(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["data", "check", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_command_writes_the_sheet_whatever_is_wrong_with_the_images(tmp_path, capsys):
    dataset = make_set(tmp_path / "photos", ["c", "d"])
    dataset.images[1].write_bytes(b"")
    (tmp_path / "labels.csv").write_text("image,labels\nsub/00,cat\nsub/01,dog\n")
    out = tmp_path / "sheet.html"
    code, said, _ = check(
        capsys, "--data", tmp_path / "photos", "--labels", tmp_path / "labels.csv", "--classes", "cat,dog",
        "--sheet", out,
    )  # fmt: skip
    assert code == 2 and said.splitlines()[-2:] == ["1 errors, 0 warnings", str(out)]
    assert list(sections(out.read_text())) == ["cat 1 image", "dog 1 image"]


def test_command_looks_for_the_folder_of_the_sheet_first(tmp_path, capsys):
    save_image(tmp_path / "photos" / "a.jpg")
    sheet_file = tmp_path / "none" / "sheet.html"
    code, said, error = check(capsys, "--data", tmp_path / "photos", "--labels", "none", "--sheet", sheet_file)
    assert code == 2 and said == "" and error.startswith(f"pplfast data check: error: {sheet_file}: there is no folder")
    assert not sheet_file.parent.exists()
