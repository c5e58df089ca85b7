"""Grey, colour, MMSegmentation, YOLO and CVAT: each read back by the tool it is for, where that is installed."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from export_sets import CAT, DOG, make_labelled, make_run
from PIL import Image

import pplfast
from pplfast.benchmarks import export_check
from pplfast.benchmarks.export_readers import READERS
from pplfast.data.classes import parse_classes
from pplfast.errors import UserError
from pplfast.export.formats import find_format

LIBRARIES = {
    "grey": "cv2",
    "colour": "cv2",
    "mmseg": "mmengine",
    "yolo": "ultralytics",
    "cvat": "datumaro",
}
NO_UNSURE = ("yolo", "cvat")


@pytest.fixture
def made(tmp_path):
    return make_labelled(tmp_path)


def exported(made, tmp_path, format, **options):
    return pplfast.export_labels(made.labels, format, tmp_path / "out", made.dataset, jobs=1, **options)


@pytest.mark.slow
@pytest.mark.parametrize("format", LIBRARIES)
def test_the_tool_reads_the_same_label_maps(made, tmp_path, format, monkeypatch):
    """Pixel for pixel; also the outlines of YOLO, as it paints their edges."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    pytest.importorskip("cv2")
    pytest.importorskip(LIBRARIES[format])
    done = exported(made, tmp_path, format)
    found = dict(READERS[format](done.out))
    assert set(found) == set(made.maps)
    for image_id, values in made.maps.items():
        expected = np.where(values == 255, 0, values) if format in NO_UNSURE else values
        assert np.array_equal(found[image_id], expected), image_id
    assert ("unsure pixels (255): they are background there" in done.summary()) == (format in NO_UNSURE)


def test_a_palette_png_read_in_grey_is_not_its_values_and_a_grey_one_is(made, tmp_path):
    cv2 = pytest.importorskip("cv2")
    done = exported(made, tmp_path, "grey")
    label = cv2.imread(str(made.labels / "a.png"), cv2.IMREAD_GRAYSCALE)
    assert not np.array_equal(label, made.maps["a"])
    assert np.array_equal(cv2.imread(str(done.out / "a.png"), cv2.IMREAD_GRAYSCALE), made.maps["a"])


def test_colours_are_vocs(made, tmp_path):
    done = exported(made, tmp_path, "colour")
    image = Image.open(done.out / "a.png")
    assert image.mode == "RGB"
    # Of VOC's development kit: cat (64, 0, 0), dog (64, 0, 128), void (224, 224, 192).
    expected = {0: (0, 0, 0), CAT: (64, 0, 0), DOG: (64, 0, 128), 255: (224, 224, 192)}
    pixels = np.asarray(image)
    for value, colour in expected.items():
        assert (pixels[made.maps["a"] == value] == colour).all()
    rows = list(csv.reader((done.out / "colours.csv").open()))
    assert rows[0] == ["name", "value", "r", "g", "b"] and rows[2] == ["dog", "12", "64", "0", "128"]
    assert {row[0] for row in rows[1:]} == {"background", "dog", "cat", "ignore"}


# ---- MMSegmentation


def test_mmseg_has_consecutive_values_and_images_beside_them(made, tmp_path):
    done = exported(made, tmp_path, "mmseg")
    for image_id, values in made.maps.items():
        image = Image.open(done.out / "ann_dir" / f"{image_id}.png")
        expected = np.select([values == DOG, values == CAT, values == 255], [1, 2, 255], 0)
        assert image.mode == "L" and np.array_equal(np.asarray(image), expected)
    for file in made.root.rglob("*.*"):
        copy = done.out / "img_dir" / file.relative_to(made.root)
        if file.is_file():
            assert copy.read_bytes() == file.read_bytes() and not copy.is_symlink()


def test_mmseg_config_is_python_with_a_data_set_for_each_suffix(made, tmp_path):
    done = exported(made, tmp_path, "mmseg")
    config: dict = {}
    exec((done.out / "dataset_config.py").read_text(), config)  # written a moment ago
    parts = config["dataset"]["datasets"]
    assert config["dataset"]["type"] == "ConcatDataset"
    assert [part["img_suffix"] for part in parts] == [".JPG", ".jpg", ".png", ".tif"]
    assert config["metainfo"]["classes"] == ("background", "dog", "cat")
    assert config["metainfo"]["palette"] == [[0, 0, 0], [64, 0, 128], [64, 0, 0]]
    assert all(part["reduce_zero_label"] is False and part["ignore_index"] == 255 for part in parts)
    one = pplfast.export_labels(made.labels, "mmseg", tmp_path / "one", made.dataset.subset([0]), jobs=1)
    exec((one.out / "dataset_config.py").read_text(), config)
    assert config["dataset"]["type"] == "mmseg.BaseSegDataset" and config["dataset"]["img_suffix"] == ".jpg"


@pytest.mark.slow
@pytest.mark.parametrize("images", (range(1), range(4)), ids=("one suffix", "several"))
def test_mmengine_builds_the_data_sets_of_the_config(made, tmp_path, monkeypatch, images):
    """With a BaseSegDataset of our own, since MMSegmentation cannot be installed beside this PyTorch."""
    registry = pytest.importorskip("mmengine.registry")
    engine = pytest.importorskip("mmengine.dataset")
    from mmengine import Config

    class BaseSegDataset(engine.BaseDataset):
        def __init__(self, img_suffix, seg_map_suffix, reduce_zero_label, ignore_index, **given):
            self.suffix = img_suffix
            super().__init__(**given)

        def load_data_list(self):
            folder = Path(self.data_prefix["img_path"])
            return [{"image": str(path.relative_to(folder))} for path in folder.rglob(f"*{self.suffix}")]

    monkeypatch.setattr(registry.DATASETS, "_children", {})
    mmseg = registry.Registry("dataset", parent=registry.DATASETS, scope="mmseg", locations=[])
    mmseg.register_module(module=BaseSegDataset)
    done = pplfast.export_labels(made.labels, "mmseg", tmp_path / "out", made.dataset.subset(list(images)), jobs=1)
    built = mmseg.build(Config.fromfile(str(done.out / "dataset_config.py")).dataset)  # as the summary says
    expected = {"a.jpg"} if len(images) == 1 else {"a.jpg", "b.png", "deep/er/c.JPG", "images/d.v2.tif"}
    assert {built[index]["image"] for index in range(len(built))} == expected
    assert built.metainfo["classes"] == ("background", "dog", "cat")


def test_linked_images_are_links_to_the_data_set(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = pplfast.open_dataset(pplfast.DataConfig("photos", labels="none", classes="dog=12,cat=8"))
    done = pplfast.export_labels("labels", "mmseg", "out", dataset, link=True, jobs=1)
    link = done.out / "img_dir" / "deep" / "er" / "c.JPG"
    assert link.is_symlink() and link.resolve() == (made.root / "deep/er/c.JPG").resolve()
    assert link.read_bytes() == (made.root / "deep/er/c.JPG").read_bytes()


# ---- YOLO


def test_yolo_lines_painted_by_opencv_are_the_labels(made, tmp_path):
    cv2 = pytest.importorskip("cv2")
    done = exported(made, tmp_path, "yolo")
    regions = 0
    for image_id, values in made.maps.items():
        folder, _, name = image_id.rpartition("images/")
        text = (
            done.out / f"images/{folder}labels/{name}.txt" if "images/" in image_id else done.out / f"labels/{name}.txt"
        )
        painted = np.zeros(values.shape, np.uint8)
        for line in text.read_text().splitlines():
            number, *points = line.split()
            sized = np.array(points, np.float32).reshape(-1, 2) * values.shape[::-1]
            assert len(points) >= 6 and (sized >= 0).all() and (sized <= values.shape[::-1]).all()
            mask = np.zeros(values.shape, np.uint8)
            cv2.fillPoly(mask, [sized.astype(np.int32)], 1)
            assert cv2.connectedComponents(mask, connectivity=8)[0] == 2
            painted[mask == 1] = (DOG, CAT)[int(number)]
            regions += 1
        assert np.array_equal(painted, np.where(values == 255, 0, values))
    assert regions == done.regions > 20 and f", {regions} regions for" in done.summary()
    assert (done.out / "labels/deep/er/c.txt").read_text() == ""  # an image of the background alone
    data = (done.out / "data.yaml").read_text().splitlines()
    assert data == ["train: images", "val: images", "names:", "  0: dog", "  1: cat"]


def test_yolo_names_images_as_ultralytics_takes_them(made, tmp_path):
    pytest.importorskip("cv2")
    (made.root / "a.jpg").rename(made.root / "a.jfif")
    Image.open(made.root / "b.png").save(made.root / "b.ppm")
    (made.root / "b.png").unlink()
    done = exported(made, tmp_path, "yolo")
    assert (done.out / "images" / "a.jpg").read_bytes() == (made.root / "a.jfif").read_bytes()
    assert list(done.bad) == ["b"] and done.bad["b"].endswith("Ultralytics reads no .ppm; save it as PNG")


# ---- CVAT


def cvat(made, tmp_path, **options):
    pytest.importorskip("cv2")
    done = exported(made, tmp_path, "cvat", **options)
    with zipfile.ZipFile(done.out / "cvat.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    return done, tmp_path / "unpacked"


def test_cvat_archive_is_as_its_documentation_says(made, tmp_path):
    done, unpacked = cvat(made, tmp_path)
    assert (unpacked / "ImageSets/Segmentation/default.txt").read_text().splitlines() == list(made.maps)
    lines = (unpacked / "labelmap.txt").read_text().splitlines()
    assert lines[1:] == ["background:0,0,0::", "dog:64,0,128::", "cat:64,0,0::"]
    assert parse_classes(unpacked / "labelmap.txt").names == ("dog", "cat")  # what pplfast makes of it
    for image_id, values in made.maps.items():
        classes, objects = (
            np.asarray(Image.open(unpacked / kind / f"{image_id}.png"))
            for kind in ("SegmentationClass", "SegmentationObject")
        )
        assert (classes[values == CAT] == (64, 0, 0)).all() and (classes[values == 255] == 0).all()
        assert ((objects != 0).any(axis=2) == np.isin(values, (CAT, DOG))).all()
    raw = json.loads((done.out / "labels.json").read_text())
    assert raw[0] == {"name": "dog", "color": "#400080", "attributes": []} and len(raw) == 2


def test_each_region_is_an_object_of_its_own_up_to_255(made, tmp_path):
    _, unpacked = cvat(made, tmp_path)
    objects = np.asarray(Image.open(unpacked / "SegmentationObject" / "a.png"))
    codes = (objects.astype(np.int64) * (1, 256, 65536)).sum(axis=2)
    values = made.maps["a"]
    assert codes[10, 5] != codes[30, 25] and codes[10, 5] != codes[0, 0]  # dogs apart
    assert len(np.unique(codes[range(5, 30), range(55, 80)])) == 1  # pixels that touch at a corner
    assert len(np.unique(codes)) == 8 and values[0, 0] == DOG


def test_more_regions_than_colours_are_one_object_for_each_class(made, tmp_path):
    values = np.zeros((70, 90), np.uint8)
    values[::2, ::2] = CAT
    values[::2, ::6] = DOG
    Image.fromarray(values).save(made.labels / "a.png")
    done, unpacked = cvat(made, tmp_path)
    objects = np.asarray(Image.open(unpacked / "SegmentationObject" / "a.png"))
    assert len(np.unique(objects.reshape(-1, 3), axis=0)) == 3 and not done.bad
    assert done.regions == 2 + 7 + 7  # of this image, and of the two others that have any


def test_cvat_cannot_have_a_colon_in_a_name(made, tmp_path):
    pytest.importorskip("cv2")
    dataset = pplfast.open_dataset(pplfast.DataConfig(str(made.root), labels="none", classes="dog: big=12,cat=8"))
    with pytest.raises(UserError, match=r"class 'dog: big': CVAT's labelmap\.txt has no room for ':'"):
        pplfast.export_labels(made.labels, "cvat", tmp_path / "out", dataset, jobs=1)
    assert not (tmp_path / "out").exists()


# ---- the check that anyone can run


def test_the_check_prints_a_row_for_each_format_and_fails_where_pixels_differ(tmp_path, capsys, monkeypatch):
    pytest.importorskip("cv2")
    make_run(tmp_path, ("labels",))
    words = [str(tmp_path / "run"), "--formats", "grey", "--jobs", "1"]
    assert export_check.main(words) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    # Regions above 400 pixels: the ring, the cat in it, and the block with a hole, each of three images.
    assert row[:5] == ["grey", "4", "0", "1.0000", "9"]

    def other(out):
        for image_id, labels in READERS["grey"](out):
            yield image_id, np.where(labels == CAT, DOG, labels).astype(np.uint8)

    monkeypatch.setitem(export_check.READERS, "colour", other)
    words[2] = "colour"
    monkeypatch.setattr(find_format("colour"), "convert", find_format("grey").convert)
    assert export_check.main(words) == 1
    row = capsys.readouterr().out.splitlines()[1].split()
    assert int(row[2]) > 1000 and float(row[3]) < 0.99

    def none(out):
        raise ModuleNotFoundError("No module named 'x'")

    monkeypatch.setitem(export_check.READERS, "colour", none)
    assert export_check.main(words) == 0
    assert "colour                not checked: No module named 'x'" in capsys.readouterr().out

    monkeypatch.setattr(find_format("colour"), "needs", ("no_such_library",))
    assert export_check.main(words) == 0
    assert "not checked: --format colour: needs no_such_library" in capsys.readouterr().out
    assert export_check.main([str(tmp_path / "nowhere")]) == 2
    assert "export_check: error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export_check.main([str(tmp_path / "run"), "--formats", "gray"])
    assert "--formats gray: no format" in capsys.readouterr().err
