"""Damaged runs: the report ends with one line that names the file, or shows the rest and names it in its place."""

import io
import json
import math
import os
import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_runs import Page, make_data, make_run

from pplfast.checked import read_table
from pplfast.data.dataset import open_dataset
from pplfast.errors import UserError
from pplfast.report import losses, write_report
from pplfast.report.gallery import choose
from pplfast.report.images import label_map, read_photo
from pplfast.report.losses import read_losses
from pplfast.report.markup import NOTHING
from pplfast.report.page import page
from pplfast.report.view import read_run

ENDS = ("run/summary.json", "run/run.json")
NAMED = (
    "run/ppl/train/log.jsonl", "run/ppl/eval_cam.json", "run/ppl/eval_label_crf.json", "run/ppl/cams/im&age_0.npz",
    "run/ppl/labels_crf/im&age_0.png", "data/masks/im&age_0.png", "data/im&age_0.jpg",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged")
    config = make_data(root / "data", 3)
    make_run(root / "run", config, open_dataset(config), {"ppl": 0.2})
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A data set and a run of it that a test may damage."""
    shutil.copytree(whole, tmp_path / "copy")
    run = tmp_path / "copy" / "run" / "run.json"
    run.write_text(run.read_text().replace(str(whole), str(tmp_path / "copy")))
    return tmp_path / "copy"


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _huge(path: Path) -> None:
    """1 GiB of zeros that take no room on the disk."""
    os.truncate(path, 2**30)


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


DAMAGES = {
    "missing": Path.unlink,
    "empty": _bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "not text": _bytes(b"\xff\xfe\0{\n" * 5),
    "a list": _bytes(b"[1, 2]\n"),
    "a number": _bytes(b"1e999\n"),
    "deep": _bytes(b"[" * 100_000 + b"\n"),
    "deep object": _bytes(b'{"a":' * 200 + b"1" + b"}" * 200 + b"\n"),
    "digits": _bytes(b'{"seed": ' + b"9" * 5000 + b"}\n"),
    "folder": _folder,
    "pipe": _pipe,
    "loop": _loop,
    "huge": _huge,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_summary_or_run_file_ends_the_report_and_is_named(root, damage):
    for name in ENDS:
        path = root / name
        content = path.read_bytes()
        DAMAGES[damage](path)
        with pytest.raises(UserError) as caught:
            write_report(root / "run")
        text = str(caught.value)
        assert path.name in text and "pplfast run" in text and text.isprintable()
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_other_damaged_file_is_named_in_its_place(root, damage):
    for name in NAMED:
        if damage == "missing" and name.endswith(".png"):
            continue  # there are images without a mask, and steps that a run does not have
        path = root / name
        content = path.read_bytes()
        DAMAGES[damage](path)
        found = Page(write_report(root / "run").read_text())
        shown = [text for text in found.text if str(path) in text]
        cut = name.endswith(".jsonl") and damage in ("empty", "truncated")  # as a killed process leaves it
        no_mask = "masks" in name and damage in ("folder", "pipe", "loop")  # no file: an image without a mask
        whole = name.endswith(".png") and damage in ("loop", "huge")  # no such label; zeros behind a whole picture
        assert shown or cut or no_mask or whole, name
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize("value", ["60", None, True, -1, 1.5e300, math.nan, math.inf, 10**4000, [1], {"a": 1}])
def test_a_number_of_the_summary_is_checked_where_it_is_read(root, value):
    path = root / "run" / "summary.json"
    text = path.read_text()
    for way in (
        ("data", "val", "images"),
        ("ppl", "seconds", "train"),
        ("ppl", "label_miou"),
        ("data", "val", "scored"),
    ):
        summary: Any = json.loads(text)
        inner = summary
        for step in way[:-1]:
            inner = inner[step]
        inner[way[-1]] = value
        path.write_text(json.dumps(summary))
        if value is None and way[-1] in ("label_miou", "scored"):
            read_run(root / "run")  # nothing is scored
            continue
        with pytest.raises(UserError, match=rf"summary\.json: {'.'.join(way)} is .*must be a .*number.*pplfast run"):
            read_run(root / "run")


def test_missing_keys_are_named(root):
    path = root / "run" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in summary.items() if key not in ("plain", "ppl")}))
    with pytest.raises(UserError, match="ppl is missing"):
        read_run(root / "run")
    del summary["data"]["train"]["list"]
    path.write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"data\.train\.list is missing"):
        read_run(root / "run")


@pytest.mark.parametrize("root_name", ["/" + "a" * 300, "a\0b", "\ud800", "/nowhere\n/\x1b"])
def test_a_data_set_that_is_no_path_is_no_traceback(root, root_name):
    path = root / "run" / "run.json"
    run = json.loads(path.read_text())
    run["data"]["val"]["root"] = root_name
    path.write_text(json.dumps(run))
    try:
        found = Page(write_report(root / "run").read_text())
    except UserError as error:
        text = str(error)
        assert "run.json: data.val.root is" in text and text.isprintable()
    else:
        assert any("No pictures: /" in text for text in found.text)


def test_scores_of_other_classes_are_named(root):
    path = root / "run" / "ppl" / "eval_label_crf.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps(scores | {"classes": scores["classes"][:1]}))
    found = Page(write_report(root / "run").read_text())
    assert any(f"{path}: scores other classes than " in text for text in found.text)


def test_maps_and_labels_of_another_image_are_named(root):
    cams = root / "run" / "ppl" / "cams"
    shutil.copy(root / "run/ppl/labels/im&age_0.png", root / "other.png")
    Image.new("L", (9, 9)).save(root / "run/ppl/labels/im&age_0.png")
    for name, classes in (("im&age_0", [7]), ("im&age_1", [-1]), ("im&age_2", [0, 0])):
        with np.load(cams / f"{name}.npz") as archive:
            maps = np.repeat(archive["cam"][:1], len(classes), 0)
            np.savez(cams / f"{name}.npz", classes=np.array(classes, np.int16), cam=maps, size=archive["size"])
    shown = "".join(Page(write_report(root / "run").read_text()).text)
    for wrong in ("a map of class 7", "a map of class -1", "two maps of one class"):
        assert f"holds {wrong}" in shown
    assert "9 x 9, while its image is 81 x 60" in shown


def test_a_large_picture_is_refused_before_it_is_decoded(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG", progressive=True)
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    data = bytearray(buffer.getvalue().replace(b"\xff\xd8", b"\xff\xd8" + 2 * comment, 1))  # bytes for so many pixels
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", 8000, 8000)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UserError, match="progressive"):
        read_photo(tmp_path / "a.jpg", None)
    data[at + 5 : at + 9] = struct.pack(">HH", 9500, 9500)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UserError, match="9500 x 9500 is too large"):
        read_photo(tmp_path / "a.jpg", None)
    Image.new("RGB", (64, 64)).save(tmp_path / "b.jpg")
    Image.new("L", (9000, 9000)).save(tmp_path / "b.png", compress_level=1)
    with pytest.raises(UserError, match="9000 x 9000, while its image is 64 x 64"):
        label_map(tmp_path / "b.png", read_photo(tmp_path / "b.jpg", None))


def test_large_files_take_little_memory(tmp_path, monkeypatch):
    (tmp_path / "a.json").touch()
    os.truncate(tmp_path / "a.json", 2**30)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="larger than the 33554432 bytes"):
            read_table(tmp_path / "a.json", "restore it")
        found = read_losses(tmp_path / "a.json")
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()
    assert found.note.endswith("only its first 64 MiB are shown")
    monkeypatch.setattr(losses, "MAX_LOG", 2000)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1}\n' * 1000)
    assert 80 < len(read_losses(tmp_path / "log.jsonl").steps) < 91


def test_a_log_keeps_its_good_lines_and_counts_the_others(tmp_path):
    good = ['{"step": 1, "loss": 0.5}', '{"step": 2, "loss": null}', '{"step": 3, "loss": 0.25}']
    bad = ["{}", "[]", '{"step": "1", "loss": 1}', '{"step": 1, "loss": NaN}', "\x00", '{"loss": 1}', '{"it']
    (tmp_path / "log.jsonl").write_text("\n".join([*good[:2], *bad, good[2], '{"step": 4, "lo']))
    found = read_losses(tmp_path / "log.jsonl")
    assert list(found.steps) == [1, 2, 3] and found.values[2] == 0.25 and math.isnan(found.values[1])
    assert found.note.endswith(f"log.jsonl: {len(bad)} lines of it cannot be read")


TRIALS = 120
VALUES = (None, True, -1, 0, 1e300, math.nan, 10**400, "", "x" * 300, "\0", [], {}, [[]], {"a": None}, [1, "2"])


def _damaged_json(value: Any, chance: random.Random) -> Any:
    """One value anywhere in it is another, or is gone."""
    inner = value
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = chance.choice(keys)
        if not isinstance(inner[key], dict | list) or not inner[key] or chance.random() < 0.1:
            break
        inner = inner[key]
    if chance.random() < 0.2:
        del inner[key]
    else:
        inner[key] = chance.choice(VALUES)
    return value


def _damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 20))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)


@pytest.mark.slow
def test_random_damage_is_never_a_traceback(root):
    chance = random.Random(0)
    index = choose(open_dataset(make_data(root / "data", 3)), 1)[0]
    names = [name.replace("age_0", f"age_{index}") for name in (*ENDS, *NAMED) if not name.endswith(".npz")]
    ended = 0
    for _ in range(TRIALS):
        path = root / chance.choice(names)
        content = path.read_bytes()
        if path.suffix == ".json" and chance.random() < 0.7:
            path.write_text(json.dumps(_damaged_json(json.loads(content), chance)))
        else:
            path.write_bytes(_damaged_bytes(content, chance))
        complaint = ""
        try:
            Page(page(read_run(root / "run"), 1, NOTHING))
        except UserError as error:
            ended, complaint = ended + 1, str(error)
        assert not complaint or (path.name in complaint and complaint.isprintable())
        path.write_bytes(content)
    assert TRIALS / 10 < ended < TRIALS / 2
