"""The dense CRF on the permutohedral lattice: against pydensecrf; the Triton kernels against the plain definition."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from kernel_helpers import needs_interpreter
from PIL import Image

from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.kernels import backend, dense_crf, mean_field
from pplfast.kernels.permutohedral import build_lattice, filter_plain, filter_values, gather, spread
from pplfast.labels.crf import dense_crf as pydensecrf
from pplfast.labels.device_crf import DeviceLabeller, crf_terms, unary
from pplfast.labels.rules import label_scores
from pplfast.recipe import LabelConfig
from pplfast.recipe.crf_presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")
interpreted = pytest.mark.skipif(not backend.INTERPRETED, reason="needs TRITON_INTERPRET=1 (no GPU)")
needs_pydensecrf = pytest.mark.skipif(find_spec("pydensecrf") is None, reason="pydensecrf is not installed")


def smooth(rng, shape, labels, coarse=8):
    """A picture uint8 (H, W, 3), and probabilities (labels, H, W)."""
    size = shape[1] // coarse + 1, shape[0] // coarse + 1
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).resize(shape[::-1], Image.BICUBIC)
    small = torch.from_numpy(rng.random((1, labels, *size[::-1]), np.float32))
    scores = torch.nn.functional.interpolate(small**3, shape, mode="bilinear")[0]
    return np.array(image), (scores / scores.sum(0)).numpy()


def lattice(count=77, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return build_lattice(torch.rand(count, d, generator=generator) * 4)


def test_barycentric_weights_and_segments():
    made = lattice()
    torch.testing.assert_close(made.weights.sum(1), torch.ones(77))
    assert (made.weights > -1e-6).all() and (made.starts[1:] > made.starts[:-1]).all()
    assert made.starts[-1] == 77 * 4 and len(made.neighbours) == 4
    for vertex in (0, 5, len(made.starts) - 2):
        mine = (made.offsets == vertex).nonzero()[:, 0]
        assert sorted(mine.tolist()) == sorted(made.entries[made.starts[vertex] : made.starts[vertex + 1]].tolist())


def test_neighbours_are_mutual():
    neighbours = lattice(200).neighbours.long()
    for axis in range(4):
        for m, n in enumerate(neighbours[axis, :, 0].tolist()):
            assert n == neighbours.shape[1] or neighbours[axis, n, 1] == m


def test_filter_is_close_to_the_gaussian():
    """The lattice is an approximation; on a dense cloud of points its normalised filter is that of exp(-d^2 / 2)."""
    x = torch.stack(torch.meshgrid(torch.arange(30.0), torch.arange(30.0), indexing="ij"), 2).reshape(-1, 2) / 3
    made, values = build_lattice(x), torch.rand(900, 1, generator=torch.Generator().manual_seed(1))
    weights = torch.exp(-(torch.cdist(x, x) ** 2) / 2)
    exact = weights @ values / weights.sum(1, keepdim=True)
    found = filter_plain(made, values) / filter_plain(made, torch.ones(900, 1))
    assert (found - exact).abs().max() < 0.05


def test_fast_filter_equals_the_definition():
    made, values = lattice(), torch.rand(77, 3)
    torch.testing.assert_close(filter_values(made, values), filter_plain(made, values))


@pytest.mark.slow
@interpreted
@needs_interpreter
@pytest.mark.parametrize("labels", [1, 3])
def test_triton_splat_blur_update_equal_plain(labels):
    generator = torch.Generator().manual_seed(2)
    first, second = lattice(45, 2, 3), lattice(45, 5, 4)
    q, energy = (torch.rand(45, labels, generator=generator) for _ in range(2))
    energy[:, -1] = float("inf") if labels > 1 else 0.5
    terms = dense_crf.CrfTerms(3, 3, 80, 13, 10)
    for made in (first, second):
        with backend.force("triton"):
            cells = spread(made, q, made.norm)
        torch.testing.assert_close(cells, spread(made, q, made.norm))
        assert not cells[-1].any() and torch.isfinite(gather(made, cells)).all()
    plain = dense_crf._update(energy, q, first, second, terms)
    with backend.force("triton"):
        torch.testing.assert_close(dense_crf._update(energy, q, first, second, terms), plain)
    assert labels == 1 or not plain[:, -1].any()


@needs_pydensecrf
@pytest.mark.parametrize("name", PRESETS)
def test_marginals_equal_pydensecrf(name):
    rng, preset = np.random.default_rng(5), PRESETS[name]
    for labels, shape in ((2, (45, 61)), (5, (70, 50))):
        image, probabilities = smooth(rng, shape, labels)
        energy = unary(torch.from_numpy(probabilities)[None], torch.tensor([labels]), preset)
        found = mean_field(torch.from_numpy(image)[None], energy, crf_terms(preset))[0].numpy()
        np.testing.assert_allclose(found, pydensecrf(image, probabilities, preset), atol=1e-3)


def test_batch_equals_single_images_and_lattices_are_cached():
    rng = np.random.default_rng(6)
    pairs = [smooth(rng, (30, 41), 3) for _ in range(2)]
    images = torch.from_numpy(np.stack([image for image, _ in pairs]))
    energy = -torch.from_numpy(np.stack([p for _, p in pairs])).clamp(1e-5).log()
    terms = crf_terms(PRESETS["probabilities"])
    together = mean_field(images, energy, terms)
    for i in range(2):
        torch.testing.assert_close(
            together[i : i + 1], mean_field(images[i : i + 1], energy[i : i + 1], terms), atol=1e-5, rtol=1e-5
        )
    key = (2, 30, 41, 3, "cpu")
    assert dense_crf._lattices[key] is dense_crf.gaussian_lattice(*key[:4], torch.device("cpu"))


@needs_pydensecrf
@pytest.mark.parametrize(
    "preset,background,value,unsure",
    [
        ("probabilities", "threshold", 0.3, None),
        ("labels", "alpha", 4.0, None),
        ("deeplab", "threshold", 0.0, (0.1, 0.6)),
    ],
)
def test_labeller_equals_the_workers(preset, background, value, unsure):
    """Images of 1 and 2 classes in one batch; the third map of each is of a class that it does not have."""
    rng = np.random.default_rng(7)
    config = LabelConfig(background, value, preset)
    pixels, maps = zip(*(smooth(rng, (40, 52), 3) for _ in range(2)), strict=True)
    maps = torch.from_numpy(np.stack(maps))
    maps = maps / maps.amax((2, 3), keepdim=True)
    labels = np.array([[1, 0, 0], [1, 1, 0]], np.uint8)
    found = DeviceLabeller(config, unsure, torch.device("cpu"))(pixels, maps, labels)
    for i, count in enumerate((1, 2)):
        expected = label_scores(maps[i, :count].numpy(), pixels[i], config, unsure)
        assert (found[i].labels != expected).mean() < 1e-3 and len(np.unique(expected)) > 1


def test_wrong_shapes_and_too_many_cells():
    with pytest.raises(ValueError, match="do not match the unary"):
        mean_field(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.zeros(1, 2, 4, 5), crf_terms(PRESETS["labels"]))
    with pytest.raises(ValueError, match="more than an int64"):
        build_lattice(torch.tensor([[0.0] * 5, [1e5] * 5]))


@needs_pydensecrf
@pytest.mark.parametrize("name", PRESETS)
def test_real_images_equal_pydensecrf(name, voc_mini):
    """A few of the 60 images that `python -m pplfast.benchmarks.crf` compares."""
    dataset = open_dataset(DataConfig(str(voc_mini), "val", classes="bus,car,cat,person,train"))
    rng, preset, different, total = np.random.default_rng(8), PRESETS[name], 0, 0
    for index in (7, 31):
        with Image.open(dataset.images[index]) as file:
            image = np.array(file.convert("RGB").reduce(2))
        _, probabilities = smooth(rng, image.shape[:2], 3, 32)
        energy = unary(torch.from_numpy(probabilities)[None], torch.tensor([3]), preset)
        found = mean_field(torch.from_numpy(image)[None], energy, crf_terms(preset))[0].argmax(0).numpy()
        different += int((found != pydensecrf(image, probabilities, preset).argmax(0)).sum())
        total += found.size
    assert different / total < 1e-3
