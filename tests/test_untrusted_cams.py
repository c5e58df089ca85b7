"""CAM files of other people: what is none is refused by name, before it takes memory, and costs no other image."""

import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from labels_small import small_dataset, write_cams

from pplfast.errors import UserError
from pplfast.evaluate import evaluate_cams
from pplfast.labels.camfile import load_cam
from pplfast.labels.label import generate_affinity_labels, generate_labels
from pplfast.recipe import AffinityConfig, LabelConfig

HALF = np.full((2, 8, 10), 0.5, np.float16)
GOOD = {"classes": np.array([1, 3], np.int16), "cam": HALF, "size": np.array([30, 40], np.int32)}


def spoiled(value):
    maps = HALF.copy()
    maps[1, 4, 4] = value
    return {"cam": maps}


NO_CAMS = {
    "one NaN": (spoiled(np.nan), "not between 0 and 1"),
    "all NaN": ({"cam": np.full_like(HALF, np.nan)}, "not between 0 and 1"),
    "infinite": (spoiled(np.inf), "not between 0 and 1"),
    "negative": (spoiled(-0.1), "not between 0 and 1"),
    "above one": (spoiled(1.5), "not between 0 and 1"),
    "whole numbers": ({"cam": np.ones((2, 8, 10), np.int64)}, "not of floating-point numbers"),
    "booleans": ({"cam": np.ones((2, 8, 10), bool)}, "not of floating-point numbers"),
    "complex": ({"cam": HALF.astype(np.complex64)}, "not a readable CAM file"),
    "text": ({"cam": np.full((2, 8, 10), "a")}, "not a readable CAM file"),
    "fields": ({"cam": np.zeros((2, 8, 10), [("a", "f4")])}, "not a readable CAM file"),
    "objects": ({"cam": np.full((2, 8, 10), None)}, "not a readable CAM file"),
    "other map": ({"cam": HALF[:, :4]}, r"maps of shape \(2, 4, 10\)"),
    "one map": ({"cam": HALF[0]}, r"maps of shape \(8, 10\)"),
    "class of a fraction": ({"classes": np.array([1.0, 3.0])}, "classes are float64"),
    "class that is negative": ({"classes": np.array([1, -1])}, "a map of class -1"),
    "class out of range": ({"classes": np.array([1, 254])}, "a map of class 254"),
    "class of 64 bits": ({"classes": np.array([1, 2**63], np.uint64)}, "a map of class 9223372036854775808"),
    "class twice": ({"classes": np.array([3, 3])}, "two maps of one class"),
    "classes in a square": ({"classes": np.array([[1, 3]])}, r"shape \(1, 2\)"),
    "one class alone": ({"classes": np.array(1)}, r"shape \(\)"),
    "a size of a fraction": ({"size": np.array([30.0, 40.0])}, "its size is float64"),
    "three sizes": ({"size": np.array([30, 40, 3])}, r"shape \(3,\)"),
    "no size": ({"size": np.array([0, 0])}, "that of no image"),
    "a size below zero": ({"size": np.array([-30, 40])}, "that of no image"),
    "a size of 64 bits": ({"size": np.array([2**63, 40], np.uint64)}, "that of no image"),
    "a huge size": ({"size": np.array([65535, 65535])}, "that of no image"),
}


@pytest.mark.parametrize("what", NO_CAMS)
def test_arrays_that_are_no_cam_are_named(tmp_path, what):
    change, words = NO_CAMS[what]
    np.savez(tmp_path / "a.npz", **GOOD | change)
    with pytest.raises(UserError, match=rf"a\.npz: .*{words}.*run `pplfast cam` again") as caught:
        load_cam(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_what_other_programs_may_write_is_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **GOOD | {"cam": HALF.astype(">f8"), "note": np.array("text")})
    assert load_cam(tmp_path / "a.npz").full().dtype == np.float32
    np.savez(tmp_path / "a.npz", **GOOD | {"cam": np.asfortranarray(HALF)})
    np.testing.assert_array_equal(load_cam(tmp_path / "a.npz").maps, HALF)
    np.savez(tmp_path / "a.npz", **GOOD | {"cam": HALF[:0], "classes": GOOD["classes"][:0]})
    assert load_cam(tmp_path / "a.npz").full().shape == (0, 30, 40)


def test_the_data_sets_classes_are_the_bound_where_they_are_known(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD)
    assert load_cam(tmp_path / "a.npz", 4).classes.tolist() == [1, 3]
    with pytest.raises(UserError, match=r"a\.npz: holds a map of class 3, and the classes are 0 to 2"):
        load_cam(tmp_path / "a.npz", 3)


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def content(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def members(**change):
    return {f"{name}.npy": content(array) for name, array in (GOOD | change).items()}


def damaged(tmp_path):
    """Files whose sizes lie, or that are no archive of a CAM; none of them is above 300 KB."""
    bomb = np.zeros(200_000_000, np.uint8)
    path = tmp_path / "a.npz"
    yield archive(path, members(cam=bomb))
    yield archive(path, members() | {"classes.npy": bytes(200_000_000)})
    yield archive(path, members() | {"cam.npy": members()["cam.npy"] + bytes(200_000_000)})
    yield archive(path, members() | {"cam.npy": members()["cam.npy"][:-1]})
    yield archive(path, members() | {f"{number}.npy": b"" for number in range(1000)})
    yield archive(path, members(), zipfile.ZIP_LZMA)
    yield archive(path, members(), zipfile.ZIP_BZIP2)
    whole = archive(path, members() | {"cam.npy": members()["cam.npy"] + bytes(200_000_000)}).read_bytes()
    size = struct.pack("<I", len(members()["cam.npy"]) + 200_000_000)
    assert whole.count(size) == 2
    path.write_bytes(whole.replace(size, struct.pack("<I", len(members()["cam.npy"]))))  # says less than it inflates to
    yield path
    plain = archive(path, members(), zipfile.ZIP_STORED).read_bytes()
    yield from _written(path, plain[:-30])
    encrypted = bytearray(plain)
    encrypted[plain.index(b"PK\x01\x02") + 8] |= 1
    encrypted[6] |= 1
    yield from _written(path, bytes(encrypted))
    later = bytearray(plain)
    later[plain.index(b"PK\x01\x02") + 6] = 99
    yield from _written(path, bytes(later))
    yield from _written(path, plain.replace(b"(2, 8, 10)", b"(2, 8, 1\xb2)"))
    yield from _written(path, plain.replace(b"'shape': (2, 8, 10), }", b"'shape': ((((((((((((("))
    yield from _written(path, content(HALF))
    yield from _written(path, b"")


def _written(path, data):
    path.write_bytes(data)
    yield path


@pytest.mark.slow
def test_archives_that_lie_are_refused_before_they_take_memory(tmp_path):
    count = 0
    for path in damaged(tmp_path):
        assert path.stat().st_size < 300_000
        tracemalloc.start()
        with pytest.raises(UserError, match=r"a\.npz: .*; delete it and run `pplfast cam` again"):
            load_cam(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10e6, f"case {count}: {peak / 1e6:.0f} MB"
        count += 1
    assert count == 15


def test_a_folder_or_a_pipe_is_no_cam_file(tmp_path):
    (tmp_path / "a.npz").mkdir()
    os.mkfifo(tmp_path / "b.npz")
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UserError, match=rf"{name}: not a readable CAM file"):
            load_cam(tmp_path / name)


@pytest.fixture
def one_bad(tmp_path):
    """A data set and its CAMs, of which the first has a class that the data set has not."""
    dataset = small_dataset(tmp_path)
    cams = write_cams(tmp_path / "cams", dataset)
    with np.load(cams / f"{dataset.ids[0]}.npz") as file:
        arrays = dict(file)
    np.savez(cams / f"{dataset.ids[0]}.npz", **arrays | {"classes": arrays["classes"] + len(dataset.classes)})
    return dataset, cams, tmp_path


def test_eval_names_the_file_that_ends_it(one_bad):
    dataset, cams, _ = one_bad
    with pytest.raises(UserError, match=rf"{dataset.ids[0]}\.npz: holds a map of class"):
        evaluate_cams(cams, dataset, jobs=1)


def test_labelling_goes_on_without_it(one_bad):
    dataset, cams, folder = one_bad
    outcome = generate_labels(cams, dataset, LabelConfig(value=0.3, crf="none"), folder / "labels")
    affinity = generate_affinity_labels(cams, dataset, AffinityConfig(crf="none"), folder / "affinity")
    for each in (outcome, affinity):
        assert each.written == len(dataset) - 1
        assert [name for name, _ in each.bad] == [dataset.ids[0]] and "holds a map of class" in each.bad[0][1]
