"""Runs from a stranger: nothing of their files becomes markup of the report."""

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import Page, make_data, make_run

from pplfast.data.dataset import open_dataset
from pplfast.errors import UserError
from pplfast.report import write_report
from pplfast.report.markup import NOTHING
from pplfast.report.page import page
from pplfast.report.view import read_run

PAYLOADS = (
    "<script>x()</script>",
    "\"><img src=x onerror='x()'>",
    "' onmouseover='x()' a='",
    "</style></title></pre></svg><x-own>",
    "javascript:x()",
    "<a href=javascript:x()>&lt;script&gt;&#60;script&#62;",
    "--><!--<!x-own>]]><?x-own ?>",
    "\0<x-own\n\t\u202e\u2066\ud800>",
)
FACTS = {"images": 60, "foreground": 78.0, "almost_all": 21, "declared": 80, "empty": 3, "absent": 4.0}
# What the parts on the final labels have besides.
LABEL_KINDS = {
    ("a", "href"), ("b",), ("button", "aria-label", "class", "popovertarget"), ("header",), ("nav", "aria-label"),
    ("button", "popovertarget", "popovertargetaction"), ("div",), ("figure",), ("figcaption",),
    ("div", "aria-label", "class", "id", "popover", "role"), ("img", "alt", "height", "loading", "src", "width"),
}  # fmt: skip
FILES = (
    "summary.json", "run.json", "ppl/train/log.jsonl", "ppl/eval_cam.json", "ppl/eval_label.json",
    "ppl/eval_label_crf.json", "plain/eval_cam.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every part that a report can have."""
    root = tmp_path_factory.mktemp("untrusted")
    config = make_data(root / "data", 3)
    make_run(root / "run", config, open_dataset(config), {"plain": 0.8, "ppl": 0.2})
    summary = json.loads((root / "run" / "summary.json").read_text())
    summary["warnings"] = ["ppl: 21 of 60 are all foreground"]
    summary["ppl"]["without_masks"] = {"labels_walk": FACTS}
    (root / "run" / "summary.json").write_text(json.dumps(summary))
    for variant in ("plain", "ppl"):
        path = root / "run" / variant / "eval_cam.json"
        scores = json.loads(path.read_text())
        path.write_text(json.dumps(scores | {"sweep": scores["sweep"][:3]}))
        log = root / "run" / variant / "train" / "log.jsonl"
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:4]))
    return root / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def kinds(whole: Path) -> set[tuple[str, ...]]:
    """The elements that reports have, with the names of their attributes."""
    return Page(page(read_run(whole), 3, NOTHING)).kinds | {("p", "class")}  # the note of what cannot be read


def load(path: Path) -> Any:
    """A JSON file, or the list of a log's lines."""
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def save(path: Path, value: Any) -> None:
    lines = value if path.suffix == ".jsonl" else [value]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values but objects and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield before
    for key, one in inner or ():
        yield from places(one, (*before, key))


def changed(value: Any, way: tuple[Any, ...], payload: Any, key: bool = False) -> Any:
    """A copy with the payload at one place, or as the key of it."""
    value = copy.deepcopy(value)
    inner = value
    for step in way[:-1]:
        inner = inner[step]
    if key:
        inner[payload] = inner.pop(way[-1])
    else:
        inner[way[-1]] = payload
    return value


def with_payloads(ways: list[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Each place with all payloads in a row, and with one of them alone."""
    for number, way in enumerate(ways):
        yield way, "".join(PAYLOADS)
        yield way, PAYLOADS[number % len(PAYLOADS)]


def check(run: Path, kinds: set[tuple[str, ...]], path: Path, images: int = 0) -> Page | None:
    """The page, which has no element of its own accord; None where the run is refused in one line with the file."""
    try:
        text = page(read_run(run), images, NOTHING)
    except UserError as error:
        complaint = str(error)
    else:
        found = Page(text)
        assert found.kinds <= kinds
        return found
    assert str(path) in complaint and complaint.isprintable()
    return None


@pytest.mark.parametrize("file", FILES)
def test_no_single_value_of_any_file_becomes_markup(run, kinds, file):
    path = run / file
    value = load(path)
    ways = list(places(value))
    pages = []
    for way, payload in with_payloads(ways):
        save(path, changed(value, way, payload))
        pages.append(check(run, kinds, path))
    assert len(pages) > 3 and (file == "run.json" or any(pages))


@pytest.mark.parametrize("file", [name for name in FILES if not name.endswith(".jsonl")])
def test_no_key_of_any_file_becomes_markup(run, kinds, file):
    path = run / file
    value = load(path)
    ways = [way for way in places(value) if isinstance(way[-1], str)]
    for way, payload in with_payloads(ways):
        save(path, changed(value, way, payload, key=True))
        check(run, kinds, path)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_texts_of_all_files_at_once_are_shown_as_text(run, kinds, payload):
    for file in FILES:
        value = load(run / file)
        for way in places(value):
            inner = value
            for step in way[:-1]:
                inner = inner[step]
            if isinstance(inner[way[-1]], str) and way[-1] != "crf" and way[:-1] != ("data", "val"):
                inner[way[-1]] = payload
        save(run / file, value)
    found = check(run, kinds, run, 3)
    assert found is not None and found.counts["svg"] == 2 and found.counts["img"] > 3
    if payload.isprintable():
        assert sum(payload in text for text in found.text) >= 8
    else:
        assert "\\u0000<x-own" in "".join(found.text) and "\\u202e\\u2066\\ud800" in "".join(found.text)


def test_numbers_that_are_texts_end_the_report_or_are_named_in_it(run, kinds):
    for file, way in (
        ("summary.json", ("seed",)),
        ("summary.json", ("data", "train", "images")),
        ("summary.json", ("ppl", "seconds", "train")),
        ("summary.json", ("ppl", "without_masks", "labels_walk", "almost_all")),
    ):
        value = load(run / file)
        save(run / file, changed(value, way, PAYLOADS[0]))
        with pytest.raises(UserError, match=r"summary\.json: .* is '<script>"):
            read_run(run)
        save(run / file, value)
    value = load(run / "ppl/eval_cam.json")
    save(run / "ppl/eval_cam.json", changed(value, ("sweep", 1, "miou"), PAYLOADS[0]))
    found = check(run, kinds, run)
    assert any("eval_cam.json: sweep[1].miou is '<script>" in text for text in found.text)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("<img src=x onerror=x()>", "<img src onerror>"),
        ("\"'><script>x()<", "\"'><script>x()<"),
        ("javascript:x()\n<x-own>", "</style></title><x-own>"),
        ("a\x1b\u202e<x-own>", "\u202e<x-own>"),
    ],
)
def test_ids_and_classes_are_text(tmp_path, kinds, stem, name):
    config = make_data(tmp_path / "data", 2, stem, (name, "dog"))
    make_run(tmp_path / "run", config, open_dataset(config), {"ppl": 0.2})
    found = check(tmp_path / "run", kinds, tmp_path, 2)
    assert found is not None and found.counts["img"] >= 10
    report = write_report(tmp_path / "run", images=0)
    for file in (report, tmp_path / "run" / "report" / "page-001.html"):
        whole = Page(file.read_text(encoding="utf-8"))
        assert whole.kinds <= kinds | LABEL_KINDS and ("button", "aria-label", "class", "popovertarget") in whole.kinds
        assert all(re.fullmatch(r"data:image/jpeg;base64,.*|[A-Za-z0-9._~%/-]+", way) for way in whole.references)
    shown = "".join(found.text)
    assert stem.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e") in shown
    assert f"CAM {name}".replace("\u202e", "\\u202e") in shown
