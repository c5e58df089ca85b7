import errno
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pplfast import cli
from pplfast.data import demo_scene
from pplfast.data.check import check_dataset
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.data.demo_objects import KINDS, render_object
from pplfast.data.masks import read_mask
from pplfast.errors import UserError

SMALL = DemoConfig(seed=3, train=10, val=4, size=96)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "set"
    assert make_demo(out, SMALL) is True
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_demo_set_passes_the_check(demo):
    for name, count in (("train", 10), ("val", 4)):
        dataset = open_dataset(DataConfig(str(demo), name))
        assert len(dataset) == count and dataset.classes.names == tuple(kind.name for kind in KINDS)
        report = check_dataset(dataset, threads=1)
        assert report.problems == () and report.masks == count
        assert ((dataset.labels.sum(axis=1) >= 1) & (dataset.labels.sum(axis=1) <= 3)).all()
        for path in dataset.images:
            assert max(Image.open(path).size) == SMALL.size


def test_labels_boxes_and_masks_agree(demo):
    dataset = open_dataset(DataConfig(str(demo), "train"))
    for id, row, mask_path in zip(dataset.ids, dataset.labels, dataset.masks, strict=True):
        mask = read_mask(mask_path)
        assert set(np.unique(mask)) - {0} == {dataset.classes.ids[column] for column in np.flatnonzero(row)}
        for thing in ElementTree.parse(demo / "Annotations" / f"{id}.xml").findall("object"):
            rows, columns = np.nonzero(mask == dataset.classes.ids[dataset.classes.index(thing.findtext("name"))])
            box = [int(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
            assert box == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]


def test_same_seed_same_bytes_other_seed_other_images(demo, tmp_path):
    make_demo(tmp_path / "same", SMALL)
    assert contents(tmp_path / "same") == contents(demo)
    make_demo(tmp_path / "other", DemoConfig(seed=4, train=1, val=1, size=96))
    image = "JPEGImages/train_00000.jpg"
    assert (tmp_path / "other" / image).read_bytes() != (demo / image).read_bytes()
    make_demo(tmp_path / "fewer", DemoConfig(seed=3, train=2, val=1, size=96))
    assert (tmp_path / "fewer" / image).read_bytes() == (demo / image).read_bytes()


def test_again_is_a_no_op_and_other_contents_are_refused(demo, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    assert make_demo(demo, SMALL) is False
    with pytest.raises(UserError, match="holds a demo set made with"):
        make_demo(demo, DemoConfig(seed=4, train=10, val=4, size=96))
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for target in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(UserError, match="new folder"):
            make_demo(target, SMALL)
    assert contents(tmp_path) == {"mine/thesis.txt": b"precious"}


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "set", SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="set: the disk is full"):
        make_demo(tmp_path / "set", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken(tmp_path):
    assert make_demo(tmp_path, DemoConfig(train=1, val=1, size=64)) is True
    assert (tmp_path / "JPEGImages" / "val_00000.jpg").is_file()


def test_command(tmp_path, capsys):
    arguments = ["data", "demo", "--out", str(tmp_path / "set"), "--train", "1", "--val", "1", "--size", "64"]
    assert cli.main(arguments) == 0 and "already there" not in capsys.readouterr().out
    assert cli.main(arguments) == 0 and "already there" in capsys.readouterr().out
    assert cli.main([*arguments, "--seed", "9"]) == 2
    assert "delete it, or give --out" in capsys.readouterr().err
    assert cli.main(["data", "demo", "--out", str(tmp_path / "new"), "--train", "0"]) == 2
    assert "--train 0" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_badge_is_small_and_the_body_is_large():
    for kind in range(len(KINDS)):
        sprite = render_object(kind, 100.0, 0.7, np.random.default_rng(kind))
        assert sprite.alpha.shape == sprite.badge.shape == sprite.colour.shape[:2]
        body, badge = (sprite.alpha >= 0.5).sum(), sprite.badge.sum()
        assert 70**2 / 2 < body < 110**2 and 0.02 < badge / body < 0.2


def test_scenes_vary_and_keep_objects_visible():
    scenes = [demo_scene.render_scene(96, np.random.default_rng((0, i))) for i in range(40)]
    counts = np.bincount([len(scene.objects) for scene in scenes], minlength=4)
    assert counts[0] == 0 and (counts[1:] > 0).all()
    assert {kind for scene in scenes for kind, _ in scene.objects} == set(range(len(KINDS)))
    shares = [(scene.mask > 0).mean() for scene in scenes]
    assert 0.1 < np.mean(shares) < 0.5 and max(shares) < 0.9
