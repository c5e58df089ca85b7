"""The reference is a second, independent witness: it must compute what pplfast computes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pplfast.benchmarks import models
from pplfast.benchmarks.harness import difference
from pplfast.benchmarks.reference import create_backbone, merge_patches, split_patches
from pplfast.benchmarks.reference.cam import image_cam, load_scales
from pplfast.benchmarks.reference.data import TrainImages, train_loader
from pplfast.kernels import cam_fuse

CASES = [
    models.Case("efficientnet_lite0", 3, (("group3", 2),)),
    models.Case("efficientnet_lite0", 3, ()),
    models.Case("efficientnet_lite0", 3, (("group2", 3), ("group5", 2)), explicit=True),
    models.Case("resnet50", 3, (("layer2", 2),)),
    models.Case("wrn38", 2, (("b4", 2),)),
]


def _name(case: models.Case) -> str:
    return f"{case.backbone}-{case.variant}"


pytestmark = pytest.mark.usefixtures("one_thread")


def _pair(case: models.Case, dtype: torch.dtype):
    ours = models.make_pplfast(case).to(dtype)
    theirs = models.make_reference(case, ours).to(dtype)
    for model in (ours, theirs):
        models.no_dropout(model)
    return ours, theirs


def _loss(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    labels = torch.eye(model.classifier.weight.shape[0], dtype=images.dtype)[: len(images)]
    return F.multilabel_soft_margin_loss(model(images), labels)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[:-1], ids=_name)
def test_same_loss_and_gradients_in_float64(case: models.Case):
    ours, theirs = _pair(case, torch.float64)
    images = torch.randn(2, 3, 35, 50, dtype=torch.float64)
    losses = []
    for model in (ours, theirs):
        loss = _loss(model, images)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert math.isfinite(losses[0])
    reference = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            assert difference(parameter.grad, reference[name].grad) < 1e-8, name
            compared += 1
    assert compared > 20


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=_name)
def test_same_loss_and_maps_in_float32(case: models.Case):
    ours, theirs = _pair(case, torch.float32)
    images = torch.randn(1, 3, 61, 45)
    with torch.no_grad():
        assert _loss(ours, images).item() == pytest.approx(_loss(theirs, images).item(), rel=1e-5)
        ours.eval()
        assert difference(ours.maps(images), theirs.maps(images)) < 1e-4


def test_split_and_merge_invert_each_other_and_pad():
    x = torch.arange(2 * 3 * 7 * 10, dtype=torch.float32).reshape(2, 3, 7, 10)
    patches = split_patches(x, 3, 2)
    assert patches.shape == (18, 3, 4, 4)
    assert torch.equal(merge_patches(patches, 3, 7, 10), x)
    assert torch.equal(patches[0], x[0, :, :4, :4]) and torch.equal(patches[1], x[1, :, :4, :4])


def test_parameter_counts():
    with torch.device("meta"):
        wide, resnet = create_backbone("wrn38"), create_backbone("resnet50")
    convolutions = sum(p.numel() for name, p in wide.named_parameters() if "conv" in name)
    assert round(convolutions / 1e6, 1) == 105.0
    assert sum(p.numel() for p in resnet.parameters()) == 25_557_032 - 2048 * 1000 - 1000  # torchvision's, without fc


def test_cam_of_one_image_equals_the_fused_one(tmp_path):
    case = models.Case("efficientnet_lite0", 4, (("group4", 2),))
    ours, theirs = _pair(case, torch.float32)
    ours.eval(), theirs.eval()
    path = tmp_path / "x.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (57, 80, 3), dtype=np.uint8)).save(path)
    pairs = load_scales(str(path), (1.0, 1.5), ours.backbone.mean, ours.backbone.std)
    assert [tuple(pair.shape) for pair in pairs] == [(2, 3, 57, 80), (2, 3, 86, 120)]
    assert torch.equal(pairs[0][1], pairs[0][0].flip(2))
    theirs_cam = image_cam(theirs, pairs, 57, 80, [1, 3])
    maps = [ours.maps(pair)[:, [1, 3]] for pair in pairs]
    found = cam_fuse(maps, 57, 80, True, sizes=[(57, 80), (86, 120)], cells=ours.backbone.cells())
    assert difference(found[0], theirs_cam) < 1e-4
    assert theirs_cam.amax() == pytest.approx(1, abs=1e-3)


def test_train_images_pad_after_normalisation(tmp_path):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (40, 20), (200, 200, 200)).save(path)
    labels = np.array([[1, 0], [0, 1]], np.uint8)
    dataset = TrainImages([str(path)] * 2, labels, 64, (32, 48), (100, 100, 100), (50, 50, 50))
    image, label = dataset[0]
    assert image.shape == (3, 64, 64) and label.tolist() == [1, 0]
    inside = image != 0
    assert inside.any() and not inside.all()
    assert torch.allclose(image[inside], torch.tensor(2.0), atol=0.1)
    batch, _ = next(iter(train_loader(dataset, 2, workers=0)))
    assert batch.shape == (2, 3, 64, 64)
