"""Maps in tiles against those of the whole image."""

import models_reference as reference
import pytest
import torch
import torch.nn.functional as F
from patch_backbones import TinyBackbone

from pplfast import cpu
from pplfast.models.registry import create
from pplfast.patch import tiles
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.patch.tiles import tiled_maps

pytestmark = pytest.mark.usefixtures("one_thread")
CUTS = {
    "plain": [[]],
    "ppl": [[], [(1, 2)], [(3, 3)], [(4, 4)]],
    "explicit": [[(1, 2), (3, 2)], [(3, 4), (1, 3)], [(2, 2), (2, 3)]],
}


def build(backbone, variant, cuts, classes=3):
    torch.manual_seed(1)
    model = PatchClassifier(backbone, classes, variant, branches=len(cuts)).eval()
    torch.nn.init.normal_(model.classifier.weight)
    model.set_cuts([Cut(*cut) for cut in cuts])
    return model


@pytest.mark.parametrize("variant, cuts", [(variant, cuts) for variant, all_of in CUTS.items() for cuts in all_of])
@pytest.mark.parametrize("family", ("effnet", "resnet", "preact"))
def test_equal_where_the_overlap_covers_what_a_cell_sees(family, variant, cuts, monkeypatch):
    monkeypatch.setattr(tiles, "SMALLEST", 16)
    torch.manual_seed(0)
    model, seen = build(TinyBackbone(family), variant, cuts).double(), []
    run, most = model.backbone.run, 170 * 170
    classes = torch.tensor([[2, -1, 0]])
    for size in ((301, 203), (160, 384)):
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        whole, some = model.maps(image), model.maps(image, classes)
        with monkeypatch.context() as patched:
            patched.setattr(model.backbone, "run", lambda x, *a: (seen.append(x[:, 0].numel()), run(x, *a))[1])
            tiled = tiled_maps(model, image, None, most)
        assert len(seen) > 3 and max(seen) <= most
        assert tiled.shape == whole.shape and tiled.dtype == torch.float32
        torch.testing.assert_close(tiled, whole.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(tiled_maps(model, image, classes, most), some.float(), rtol=1e-5, atol=1e-6)


def picture(height, width):
    """Structures of several sizes."""
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(1, 3, height // s, width // s, generator=generator) for s in (3, 10, 40, 150))
    image = sum(F.interpolate(x, size=(height, width), mode="bicubic") for x in noise)
    return (image / image.std()).contiguous(memory_format=torch.channels_last)


NETWORKS = (  # name, output stride, variant, cuts, size, side of a tile, whether with the CPU's own implementations
    ("efficientnet_lite0", 16, "plain", [], (1000, 750), 620, False),
    ("efficientnet_lite0", 16, "ppl", [("group3", 2)], (600, 401), 450, True),
    ("efficientnet_lite0", 32, "explicit", [("group2", 3), ("group4", 2)], (600, 401), 450, False),
    ("resnet50", 16, "ppl", [("layer2", 2)], (600, 401), 450, False),
    ("tiny resnet101", 8, "plain", [], (1101, 801), 800, True),
    ("tiny wrn38", None, "ppl", [("b4", 2)], (601, 801), 450, True),
    ("tiny wrn38", None, "plain", [], (601, 801), 450, False),
)


@pytest.mark.slow
@pytest.mark.parametrize("name, stride, variant, places, size, side, installed", NETWORKS)
def test_real_networks_equal_their_maps_of_the_whole_image(
    name, stride, variant, places, size, side, installed, monkeypatch
):
    torch.manual_seed(0)
    if name.startswith("tiny"):
        (reference.tiny_resnet if "resnet" in name else reference.tiny_wideresnet)(monkeypatch)  # fewer channels
        name = name.removeprefix("tiny ")
    backbone, _ = create(name, "auto" if name.startswith("eff") else "none", stride)
    model = build(backbone, variant, [(backbone.position(place), grid) for place, grid in places], 20)
    if installed:
        cpu.install(model, torch.device("cpu"))
    image = picture(*size)
    whole, tiled = model.maps(image), tiled_maps(model, image, None, side**2)
    assert float((tiled - whole).abs().max() / whole.max()) < 1e-4
    assert float((tiled.argmax(1) == whole.argmax(1)).float().mean()) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("installed", (False, True))
def test_bf16_under_autocast(installed):
    backbone, _ = create("efficientnet_lite0", "auto")
    model, image = build(backbone, "ppl", [(backbone.position("group3"), 2)], 20), picture(600, 401)
    exact = model.maps(image)
    if installed:
        cpu.install(model, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        whole, tiled = model.maps(image), tiled_maps(model, image, None, 450**2)
    assert tiled.dtype == torch.float32
    assert float((tiled - exact).abs().mean()) <= 1.2 * float((whole - exact).abs().mean())


def test_what_fits_goes_through_at_once(monkeypatch):
    model, seen = build(TinyBackbone("preact"), "ppl", [(2, 2)]), []
    run, image = model.backbone.run, torch.randn(1, 3, 64, 80)
    whole = model.maps(image)
    monkeypatch.setattr(model.backbone, "run", lambda x, *a: (seen.append(a), run(x, *a))[1])
    torch.testing.assert_close(tiled_maps(model, image, None, 64 * 80), whole)
    assert seen == [(0, 2), (2, 5), (2, 5)]


def test_one_image_and_its_cuts_are_needed():
    model = build(TinyBackbone("resnet"), "explicit", [(1, 2)])
    with pytest.raises(ValueError, match=r"must be \(1, 3, height, width\)"):
        tiled_maps(model, torch.randn(2, 3, 32, 32), None, 1000)
    model.cuts = ()
    with pytest.raises(RuntimeError, match="set_cuts"):
        tiled_maps(model, torch.randn(1, 3, 32, 32), None, 1000)
