"""CAM generation: fusion in closed form, flips, normalisation, files, resume, bad images."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labels_small import LABELS, SIZES, small_dataset
from torch import nn

from pplfast.data.inference import InferenceBatch
from pplfast.errors import UserError
from pplfast.labels.cam import generate_cams, own_classes
from pplfast.labels.camfile import load_cam
from pplfast.npy import load_npy_dict
from pplfast.precision import resolve_precision
from pplfast.recipe import CamConfig

CONFIG = CamConfig(scales=(0.5, 1.0), flip=True, batch=2, precision="fp32")


class FakeClassifier(nn.Module):
    """ReLU'd 1x1 classifier over images averaged in 4 x 4 cells: what it shows where can be computed by hand."""

    def __init__(self, classes=3):
        super().__init__()
        self.backbone = SimpleNamespace(mean=(120.0, 110.0, 100.0), std=(60.0, 60.0, 60.0))
        self.classifier = nn.Conv2d(3, classes, 1, bias=False)
        nn.init.normal_(self.classifier.weight, generator=torch.Generator().manual_seed(0))

    def maps(self, images, classes):
        maps = F.relu(self.classifier(F.avg_pool2d(images, 4))).float()
        return maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


def made_up_images(index, scale):
    """A fixed image of data set entry `index`, at one scale."""
    height, width = (round(side * scale) for side in SIZES[index])
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(index))


class FakeLoader:
    """Yields `made_up_images`, images of one shape together, without files; `broken` cannot be decoded."""

    broken = ()

    def __init__(self, dataset, scales, flip, mean, std, batch_size, threads, device, indices, on_bad, fit):
        self.scales, self.flip, self.batch_size, self.indices, self.on_bad = scales, flip, batch_size, indices, on_bad

    def __iter__(self):
        for shape in dict.fromkeys(SIZES[index] for index in self.indices):
            group = [index for index in self.indices if SIZES[index] == shape]
            for index in self.broken:
                if index in group:
                    group.remove(index)
                    self.on_bad(index, "truncated")
            for start in range(0, len(group), self.batch_size):
                indices = group[start : start + self.batch_size]
                images = [torch.cat([made_up_images(index, scale) for index in indices]) for scale in self.scales]
                if self.flip:
                    images = [torch.cat([rows, rows.flip(3)]) for rows in images]
                yield InferenceBatch(indices, *shape, images)


def definition(model, index, height, width, config=CONFIG):
    """The published recipe, one image and one class at a time."""
    result = []
    for c in np.flatnonzero(LABELS[index]):
        total = torch.zeros(height, width)
        for scale in config.scales:
            image = made_up_images(index, scale)
            for flipped in (False, True)[: 1 + config.flip]:
                cells = F.avg_pool2d(image.flip(3) if flipped else image, 4)
                shown = F.relu(torch.einsum("c,bchw->bhw", model.classifier.weight[c, :, 0, 0], cells))
                shown = shown.flip(2) if flipped else shown
                total += F.interpolate(shown[None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        result.append(total / (total.max() + 1e-5))
    return torch.stack(result).detach().numpy()


@pytest.fixture
def small(tmp_path):
    return small_dataset(tmp_path), tmp_path / "cams", FakeClassifier().eval()


@pytest.mark.parametrize("config", [CONFIG, CamConfig(scales=(1.0,), flip=False, batch=1, precision="fp32")])
def test_maps_equal_the_published_recipe(small, config):
    dataset, out, model = small
    outcome = generate_cams(model, dataset, config, out, npy=True, loader=FakeLoader)
    assert (outcome.written, outcome.skipped, outcome.bad) == (5, 0, [])
    for index, name in enumerate(dataset.ids):
        cam, follow_up = load_cam(out / f"{name}.npz"), load_npy_dict(out / f"{name}.npy")
        np.testing.assert_array_equal(cam.classes, np.flatnonzero(LABELS[index]))
        np.testing.assert_array_equal(follow_up["keys"], np.flatnonzero(LABELS[index]))
        height, width = SIZES[index]
        assert cam.size == (height, width)
        expected = definition(model, index, height, width, config)
        np.testing.assert_allclose(follow_up["high_res"], expected, atol=1e-5)
        stored = F.interpolate(torch.from_numpy(expected)[None], (-(-height // 4), -(-width // 4)), mode="bilinear")[0]
        np.testing.assert_allclose(cam.maps.astype(np.float32), stored, atol=6e-4)  # float16 near 1
        assert follow_up["high_res"].max() == pytest.approx(1, abs=1e-3) and follow_up["high_res"].min() >= 0


def test_a_mirrored_image_gives_the_mirrored_map(small):
    dataset, out, model = small
    generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)

    class Mirrored(FakeLoader):
        def __iter__(self):
            for batch in super().__iter__():
                yield InferenceBatch(batch.indices, batch.height, batch.width, [rows.flip(3) for rows in batch.images])

    generate_cams(model, dataset, CONFIG, out / "mirrored", loader=Mirrored)
    for name, _size in zip(dataset.ids, SIZES, strict=True):
        # 4 x 4 cells start from the left, so mirroring is exact where they fill the row; flip sums both ways anyway.
        straight, mirrored = load_cam(out / f"{name}.npz").maps, load_cam(out / "mirrored" / f"{name}.npz").maps
        np.testing.assert_allclose(mirrored[:, :, ::-1].astype(np.float32), straight.astype(np.float32), atol=1e-3)


def test_own_classes_come_first_and_in_order():
    np.testing.assert_array_equal(own_classes(LABELS[[0, 1]]), [[0, 1], [1, 2]])
    np.testing.assert_array_equal(own_classes(LABELS[[3, 4]]), [[2], [1]])


def test_resume_makes_what_is_missing_and_npy_later(small):
    dataset, out, model = small
    generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)
    first = {path: load_cam(path).maps for path in out.glob("*.npz")}
    (out / "im3.npz").unlink()
    outcome = generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)
    assert (outcome.written, outcome.skipped) == (1, 4)
    outcome = generate_cams(model, dataset, CONFIG, out, npy=True, loader=FakeLoader)
    assert (outcome.written, outcome.skipped) == (5, 0) and len(list(out.glob("*.npy"))) == 5
    for path, maps in first.items():
        np.testing.assert_array_equal(load_cam(path).maps, maps)


def test_a_bad_image_is_noted_and_the_rest_goes_on(small, monkeypatch):
    dataset, out, model = small
    monkeypatch.setattr(FakeLoader, "broken", (1,))
    outcome = generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)
    assert outcome.written == 4 and outcome.bad == [("im1", f"{dataset.images[1]}: truncated")]
    assert json.loads((out / "bad.jsonl").read_text()) == {"id": "im1", "error": f"{dataset.images[1]}: truncated"}
    monkeypatch.setattr(FakeLoader, "broken", ())
    outcome = generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)
    assert (outcome.written, outcome.skipped) == (1, 4) and not (out / "bad.jsonl").exists()


def test_maps_that_are_not_finite_are_not_written(small):
    dataset, out, model = small
    with torch.no_grad():
        model.classifier.weight[0] = float("nan")
    outcome = generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)
    assert outcome.written == 3 and [name for name, _ in outcome.bad] == ["im0", "im2"]
    assert "not finite" in outcome.bad[0][1]


def test_another_classifier_or_recipe_is_refused(small):
    dataset, out, model = small
    generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)
    with pytest.raises(UserError, match=r"cams: was filled with scales = \[0.5, 1.0\], not \[1.0\]"):
        generate_cams(model, dataset, CamConfig(scales=(1.0,), precision="fp32"), out, loader=FakeLoader)
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    with pytest.raises(UserError, match="cams: was filled with classifier = "):
        generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)


def test_labels_and_classes_must_fit(small):
    dataset, out, model = small
    with pytest.raises(UserError, match="small/val: 3 classes, but the classifier was trained for 5; give --classes"):
        generate_cams(FakeClassifier(5), dataset, CONFIG, out, loader=FakeLoader)
    dataset.labels[3] = 0
    with pytest.raises(UserError, match=r"small/val: 1 images have no label \(first: im3\); add"):
        generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)
    object.__setattr__(dataset, "labels", None)
    with pytest.raises(UserError, match="small/val: has no image labels.*give --labels"):
        generate_cams(model, dataset, CONFIG, out, loader=FakeLoader)
    assert not out.exists()


def test_precision():
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == "fp32" and resolve_precision("bf16", cpu) == "bf16"
    assert resolve_precision("auto", cpu) in ("fp32", "bf16")


def test_with_the_real_loader(small):
    dataset, out, model = small
    dataset.images[0].write_bytes(dataset.images[0].read_bytes()[:200])
    outcome = generate_cams(model, dataset, CONFIG, out)
    assert outcome.written == 4 and [name for name, _ in outcome.bad] == ["im0"]
    assert "im0.jpg" in outcome.bad[0][1]
    cam = load_cam(out / "im2.npz")
    assert cam.size == SIZES[2] and cam.maps.shape == (3, 8, 11)
    assert (cam.maps.max((1, 2)) > 0.8).all() and cam.maps.max() <= 1
