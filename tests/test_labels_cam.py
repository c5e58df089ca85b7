"""CAM generation: fusion in closed form, flips, normalisation, files, resume, bad images."""

import errno
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bare_backbone import BareBackbone
from labels_small import LABELS, SIZES, small_dataset
from PIL import Image
from torch import nn

from pplfast.data.handover import Handover, HostCopy
from pplfast.data.pipelines import Resizer
from pplfast.errors import UserError
from pplfast.jobs import JobOptions
from pplfast.jobs.manifest import read_manifest
from pplfast.labels.cam import CamOfRow, FinishCam, MapMaker, generate_cams, own_classes
from pplfast.labels.camfile import load_cam
from pplfast.npy import load_npy_dict
from pplfast.precision import resolve_precision
from pplfast.recipe import CamConfig

CONFIG = CamConfig(scales=(0.5, 1.0), flip=True, batch=2, precision="fp32")
OPTIONS = JobOptions(jobs=1, threads=1)
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 60.0, 60.0)

pytestmark = pytest.mark.usefixtures("one_thread")


class FakeClassifier(nn.Module):
    """ReLU'd 1x1 classifier over images averaged in 4 x 4 cells: what it shows where can be computed by hand."""

    def __init__(self, classes=3):
        super().__init__()
        self.backbone = BareBackbone(4, mean=MEAN, std=STD)
        self.classifier = nn.Conv2d(3, classes, 1, bias=False)
        nn.init.normal_(self.classifier.weight, generator=torch.Generator().manual_seed(0))

    def maps(self, images, classes):
        maps = F.relu(self.classifier(F.avg_pool2d(images, 4, ceil_mode=True))).float()
        return maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


def decoded(path):
    return np.array(Image.open(path))


def scaled(pixels, scale):
    """Normalised, float32 (1, 3, h, w)."""
    return Resizer(MEAN, STD, 1, 1, Handover(torch.device("cpu")))([pixels], scale).clone()


def at_pixels(cells, scaled, size):
    """Cells of 4 x 4 pixels of an image of the `scaled` size -> the values at the pixels of the unscaled one."""
    for axis in (0, 1):
        pixels = (np.arange(size[axis]) + 0.5) * scaled[axis] / size[axis] - 0.5
        centres = 4 * np.arange(cells.shape[axis]) + 1.5
        cells = np.apply_along_axis(partial(np.interp, pixels, centres), axis, cells)
    return cells.astype(np.float32)


def definition(model, pixels, labels, config=CONFIG):
    """The published recipe, one image and one class at a time."""
    height, width = pixels.shape[:2]
    result = []
    for c in np.flatnonzero(labels):
        total = torch.zeros(height, width)
        for scale in config.scales:
            image = scaled(pixels, scale)
            for flipped in (False, True)[: 1 + config.flip]:
                cells = F.avg_pool2d(image.flip(3) if flipped else image, 4, ceil_mode=True)
                shown = F.relu(torch.einsum("c,bchw->bhw", model.classifier.weight[c, :, 0, 0], cells))
                full = torch.from_numpy(at_pixels(shown[0].detach().numpy(), image.shape[2:], (height, width)))
                total += full.flip(1) if flipped else full
        result.append(total / (total.max() + 1e-5))
    return torch.stack(result).detach().numpy()


@pytest.fixture
def small(tmp_path):
    return small_dataset(tmp_path), tmp_path / "cams", FakeClassifier().eval()


@pytest.mark.parametrize("config", [CONFIG, CamConfig(scales=(1.0,), flip=False, batch=1, precision="fp32")])
def test_maps_equal_the_published_recipe(small, config):
    dataset, out, model = small
    outcome = generate_cams(model, dataset, config, out, True, OPTIONS)
    assert (outcome.written, outcome.skipped, outcome.bad) == (5, 0, [])
    for index, name in enumerate(dataset.ids):
        cam, follow_up = load_cam(out / f"{name}.npz"), load_npy_dict(out / f"{name}.npy")
        np.testing.assert_array_equal(cam.classes, np.flatnonzero(LABELS[index]))
        np.testing.assert_array_equal(follow_up["keys"], np.flatnonzero(LABELS[index]))
        height, width = SIZES[index]
        assert cam.size == (height, width)
        expected = definition(model, decoded(dataset.images[index]), LABELS[index], config)
        np.testing.assert_allclose(follow_up["high_res"], expected, atol=1e-4)
        stored = F.interpolate(torch.from_numpy(expected)[None], (-(-height // 4), -(-width // 4)), mode="bilinear")[0]
        np.testing.assert_allclose(cam.maps.astype(np.float32), stored, atol=6e-4)  # float16 near 1
        assert follow_up["high_res"].max() == pytest.approx(1, abs=1e-3) and follow_up["high_res"].min() >= 0


def test_a_mirrored_image_gives_the_mirrored_map(small):
    dataset, _, model = small
    maker, classes = MapMaker(model, CONFIG, "fp32", 2**20, 1, 1), torch.tensor([[0, 2]])
    for path in dataset.images[::2]:
        pixels = decoded(path)
        straight, mirrored = (maker([each], classes).clone() for each in (pixels, pixels[:, ::-1].copy()))
        torch.testing.assert_close(mirrored.flip(3), straight, rtol=0, atol=1e-4)


def test_own_classes_come_first_and_in_order():
    np.testing.assert_array_equal(own_classes(LABELS[[0, 1]]), [[0, 1], [1, 2]])
    np.testing.assert_array_equal(own_classes(LABELS[[3, 4]]), [[2], [1]])


@pytest.mark.parametrize("size", [(1, 1), (64, 1), (1, 64), (90, 7)])
def test_an_image_that_is_trained_on_gets_its_maps_however_thin_it_is(small, size):
    dataset, out, model = small
    Image.new("RGB", size, (90, 120, 40)).save(dataset.images[1])
    assert generate_cams(model, dataset, CONFIG, out, options=OPTIONS).bad == []
    assert load_cam(out / f"{dataset.ids[1]}.npz").size == size[::-1]


def test_images_without_a_class_get_files_without_maps(small):
    """In a batch with an image that has some, and in one of their own."""
    dataset, out, model = small
    dataset.labels[[0, 2, 3]] = 0
    assert generate_cams(model, dataset, CONFIG, out, True, OPTIONS).written == 5
    for index, name in enumerate(dataset.ids):
        cam, full = load_cam(out / f"{name}.npz"), load_npy_dict(out / f"{name}.npy")["high_res"]
        assert len(cam.classes) == dataset.labels[index].sum() and cam.size == SIZES[index]
        assert full.shape == (len(cam.classes), *SIZES[index])
        if len(cam.classes):
            expected = definition(model, decoded(dataset.images[index]), dataset.labels[index])
            np.testing.assert_allclose(full, expected, atol=1e-4)


def test_files_do_not_depend_on_the_batch(small):
    dataset, out, model = small
    for batch in (1, 4):
        generate_cams(model, dataset, CamConfig((0.5, 1.0), True, batch, "fp32"), out / str(batch), True, OPTIONS)
    for name in dataset.ids:
        for suffix in (".npz", ".npy"):
            alone, together = ((out / batch / f"{name}{suffix}").read_bytes() for batch in "14")
            assert alone == together, name


def test_resume_makes_what_is_missing_and_npy_later(small):
    dataset, out, model = small
    generate_cams(model, dataset, CONFIG, out, options=OPTIONS)
    first = {path: load_cam(path).maps for path in out.glob("*.npz")}
    (out / "im3.npz").unlink()
    outcome = generate_cams(model, dataset, CONFIG, out, options=OPTIONS)
    assert (outcome.written, outcome.skipped) == (1, 4)
    outcome = generate_cams(model, dataset, CONFIG, out, True, OPTIONS)
    assert (outcome.written, outcome.skipped) == (5, 0) and len(list(out.glob("*.npy"))) == 5
    for path, maps in first.items():
        np.testing.assert_array_equal(load_cam(path).maps, maps)


def test_a_bad_image_is_noted_and_the_rest_goes_on(small):
    dataset, out, model = small
    whole = dataset.images[1].read_bytes()
    dataset.images[1].write_bytes(whole[:-200])
    outcome = generate_cams(model, dataset, CONFIG, out, options=OPTIONS)
    assert outcome.written == 4 and [name for name, _ in outcome.bad] == ["im1"] and outcome.exit_code == 3
    note = read_manifest(out)["im1"]
    assert note["kind"] == "truncated" and note["reason"] == outcome.bad[0][1]
    assert note["reason"].startswith(f"{dataset.images[1]}: ")
    dataset.images[1].write_bytes(whole)
    outcome = generate_cams(model, dataset, CONFIG, out, options=OPTIONS)
    assert (outcome.written, outcome.skipped, outcome.bad) == (1, 4, [])


def test_changed_image_labels_make_those_images_again(small):
    dataset, out, model = small
    generate_cams(model, dataset, CONFIG, out, options=OPTIONS)
    dataset.labels[3] = [1, 0, 1]
    assert generate_cams(model, dataset, CONFIG, out, options=OPTIONS).written == 1
    np.testing.assert_array_equal(load_cam(out / "im3.npz").classes, [0, 2])


def test_maps_that_are_not_finite_are_not_written(small):
    dataset, out, model = small
    with torch.no_grad():
        model.classifier.weight[0] = float("nan")
    outcome = generate_cams(model, dataset, CONFIG, out, options=OPTIONS)
    assert outcome.written == 3 and [name for name, _ in outcome.bad] == ["im0", "im2"]
    assert "not finite" in outcome.bad[0][1] and not (out / "im0.npz").exists()


def test_maps_of_classes_that_an_image_has_not_are_not_looked_at():
    maps = torch.full((2, 2, 3, 4), 0.5)
    maps[0, 1] = float("inf")
    maps[1, 0, 0, 0] = float("nan")
    rows = [CamOfRow(row, np.arange(row + 1), (9, 13), HostCopy(maps), tiled=7 * row) for row in (0, 1)]
    finished = FinishCam()(rows[0])
    assert list(finished.files) == [".npz"] and finished.facts == {}
    with pytest.raises(UserError, match="not finite"):
        FinishCam()(rows[1])


def test_a_full_disk_is_an_error_with_the_files_name(small, monkeypatch):
    dataset, out, model = small

    def torn(path, data):
        path.open("wb").write(data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", torn)
    with pytest.raises(UserError, match=r"im\d\.npz: the disk is full"):
        generate_cams(model, dataset, CONFIG, out, options=OPTIONS)
    monkeypatch.undo()
    assert not [path for path in out.rglob("*") if path.suffix == ".npz" or path.name.startswith(".im")]
    assert generate_cams(model, dataset, CONFIG, out, options=OPTIONS).written == 5


def test_another_classifier_recipe_or_class_list_is_refused(small):
    dataset, out, model = small
    generate_cams(model, dataset, CONFIG, out, options=OPTIONS)
    with pytest.raises(UserError, match=r"cams: was filled with scales = \[0.5, 1.0\], not \[1.0\]"):
        generate_cams(model, dataset, CamConfig(scales=(1.0,), precision="fp32"), out, options=OPTIONS)
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    with pytest.raises(UserError, match="cams: was filled with classifier = "):
        generate_cams(model, dataset, CONFIG, out, options=OPTIONS)


def test_labels_and_classes_must_fit(small):
    dataset, out, model = small
    with pytest.raises(UserError, match="small/val: 3 classes, but the classifier was trained for 5; give --classes"):
        generate_cams(FakeClassifier(5), dataset, CONFIG, out)
    object.__setattr__(dataset, "labels", None)
    with pytest.raises(UserError, match="small/val: has no image labels; name their file with --labels"):
        generate_cams(model, dataset, CONFIG, out)
    assert not out.exists()


def test_precision():
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == "fp32" and resolve_precision("bf16", cpu) == "bf16"
    assert resolve_precision("auto", cpu) in ("fp32", "bf16")
