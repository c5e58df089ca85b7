"""On a CUDA device: the CRF's kernels, the maps of a labelling job, and launches above CUDA's limits of a grid."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_gpu_networks import CLASSES, classifier, exact  # noqa: F401 (a fixture)

from pplfast.kernels import backend, cam_fuse, dense_crf, mean_field
from pplfast.kernels.cam_fuse import cam_fuse_plain
from pplfast.kernels.permutohedral import build_lattice, gather, spread
from pplfast.labels.device_crf import DeviceLabeller, crf_terms
from pplfast.recipe import CamConfig, LabelConfig
from pplfast.recipe.crf_presets import PRESETS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = torch.device("cuda")
PLANES = 65_535  # CUDA's limit of the second and third axis of a launch
BLOCK = 256  # pixels of a program of cam_fuse


def smooth(rng: np.random.Generator, height: int, width: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 (H, W, 3) and scores float32 (labels, H, W), both of slow changes."""
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    scores = torch.from_numpy(rng.random((1, labels, height // 8 + 1, width // 8 + 1), np.float32) ** 3)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image), torch.nn.functional.interpolate(scores, (height, width), mode="bilinear")[0].numpy()


@pytest.mark.parametrize("labels", (1, 2, 5, 21))
def test_crf_kernels_equal_plain(labels):
    generator = torch.Generator().manual_seed(2)
    count = 5000
    lattices = [build_lattice(4 * torch.rand(count, d, generator=generator).to(DEVICE)) for d in (2, 5)]
    q = torch.softmax(torch.randn(count, labels, generator=generator), 1).to(DEVICE)
    energy = torch.rand(count, labels, generator=generator).to(DEVICE)
    energy[::3, -1] = float("inf") if labels > 1 else 0.5
    results = {}
    for choice in ("plain", "triton"):
        with backend.force(choice):
            cells = [spread(lattice, q, lattice.norm) for lattice in lattices]
            updated = dense_crf._update(energy, q, *lattices, dense_crf.CrfTerms(3, 3, 80, 13, 10))
            results[choice] = [*cells, *(gather(*pair) for pair in zip(lattices, cells, strict=True)), updated]
        assert all(not each[-1].any() for each in cells)  # the row of absent neighbours
    torch.testing.assert_close(results["triton"], results["plain"], rtol=1e-4, atol=1e-5)
    assert labels == 1 or not results["triton"][-1][::3, -1].any()


@pytest.mark.parametrize("name", PRESETS)
def test_mean_field_equals_plain(name):
    rng = np.random.default_rng(3)
    pictures, scores = zip(*(smooth(rng, 123, 161, 4) for _ in range(3)), strict=True)
    images, energy = torch.from_numpy(np.stack(pictures)).to(DEVICE), torch.from_numpy(np.stack(scores)).to(DEVICE)
    energy = -energy.clamp(1e-5, 1).log()
    energy[0, 3] = float("inf")
    with backend.force("plain"):
        wanted = mean_field(images, energy, crf_terms(PRESETS[name]))
    found = mean_field(images, energy, crf_terms(PRESETS[name]))
    # A pixel on the border of two lattice cells may fall into the other one: seen once among 79,000 pixels.
    far = (found - wanted).abs() > 1e-3
    assert far.float().mean() < 1e-4 and (found - wanted).abs().max() < 0.05
    assert (found.argmax(1) != wanted.argmax(1)).float().mean() < 1e-3 and not found[0, 3].any()


@pytest.mark.parametrize("preset, background, value, unsure", [
    ("probabilities", "threshold", 0.3, None), ("labels", "alpha", 4.0, None),
    ("deeplab", "threshold", 0.0, (0.1, 0.6))])  # fmt: skip
def test_labeller_equals_pydensecrf(preset, background, value, unsure):
    pytest.importorskip("pydensecrf")
    from pplfast.labels.rules import label_scores

    rng, config = np.random.default_rng(7), LabelConfig(background, value, preset)
    pixels, maps = zip(*(smooth(rng, 120, 152, 3) for _ in range(2)), strict=True)
    maps = torch.from_numpy(np.stack(maps))
    maps = maps / maps.amax((2, 3), keepdim=True)
    labels = np.array([[1, 0, 0], [1, 1, 0]], np.uint8)
    found = DeviceLabeller(config, unsure, DEVICE)(pixels, maps.to(DEVICE), labels)
    for i, count in enumerate((1, 2)):
        wanted = label_scores(maps[i, :count].numpy(), pixels[i], config, unsure)
        assert (found[i].labels != wanted).mean() < 1e-3 and len(np.unique(wanted)) > 1


@pytest.fixture
def maker():
    pytest.importorskip("nvidia.dali")
    from pplfast.labels.cam import MapMaker

    def make(call_pixels: int) -> MapMaker:
        model = classifier("efficientnet_lite0", "ppl").to(DEVICE)
        return MapMaker(model, CamConfig(scales=(0.5, 1.0)), "fp32", call_pixels, 8, 2)

    return make


def decoded(count: int) -> tuple[list[np.ndarray], torch.Tensor]:
    rng = np.random.default_rng(4)
    classes = torch.arange(count * 2).view(count, 2) % CLASSES
    return [smooth(rng, 375, 500, 1)[0] for _ in range(count)], classes


def test_maps_in_groups_equal_those_of_all_rows_at_once(maker):
    pixels, classes = decoded(8)
    wanted, few = maker(2**40)(pixels, classes), maker(3 * 375 * 500)
    assert wanted.is_cuda and wanted.shape == (8, 2, 375, 500) and torch.isfinite(wanted).all()
    torch.testing.assert_close(few(pixels, classes), wanted, rtol=0, atol=1e-3)


def test_maps_with_half_the_pixels_after_running_out_of_memory(maker):
    """250 MiB beside the weights: 16 rows at scale 1 need about 800."""
    pixels, classes = decoded(8)
    wanted, limited = maker(2**40)(pixels, classes).cpu(), maker(2**40)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 250 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        found = limited(pixels, classes).cpu()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert limited.network._group_pixels < 2**40 and not limited.network.tiled_at
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("planes, side", ((1, 4100), (PLANES + 500, 5)))
def test_fused_maps_beyond_the_limits_of_a_grid(planes, side):
    """More blocks of pixels, and more maps, than one axis takes."""
    assert planes > PLANES or side**2 > PLANES * BLOCK
    maps = [torch.rand(2, planes, 7, 5, device=DEVICE), torch.rand(2, planes, 4, 9, device=DEVICE)]
    torch.testing.assert_close(
        cam_fuse(maps, side, side, True), cam_fuse_plain(maps, side, side, True), rtol=1e-4, atol=1e-5
    )
