"""A network at several scales within a number of pixels per call: groups of rows, tiles, and running out of memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bare_backbone import BareBackbone
from labels_small import CLASSES
from PIL import Image
from test_labels_cam import CONFIG, OPTIONS, FakeClassifier
from torch import nn

from pplfast.data.dataset import Dataset
from pplfast.jobs.manifest import read_manifest
from pplfast.labels import network as module
from pplfast.labels.cam import MapMaker, generate_cams
from pplfast.labels.camfile import load_cam
from pplfast.labels.network import SMALLEST_TILE, ScaledNetwork, in_tiles, network_choices
from pplfast.models import create
from pplfast.models.boundary import STRIDE, BoundaryNet
from pplfast.models.segmentation import SegmentationNet
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import CamConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


class Strided(nn.Module):
    """Two convolutions of stride 2: a cell sees 7 x 7 pixels."""

    def __init__(self):
        super().__init__()
        self.backbone = BareBackbone(2, 2, shift=0.0, mean=(120.0,) * 3, std=(60.0,) * 3)
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 2, 3, 2, 1)

    def forward(self, images):
        return self.second(self.first(images).relu())


@pytest.fixture
def strided():
    torch.manual_seed(0)
    return Strided().eval()


@pytest.mark.parametrize("height, width", [(301, 457), (513, 257), (256, 700), (1, 900), (255, 258)])
@torch.inference_mode()
def test_tiles_equal_the_whole_where_the_overlap_is_all_that_a_cell_sees(strided, height, width):
    image, seen = torch.randn(1, 3, height, width), []

    def run(part):
        seen.append(part.shape[2:])
        return strided(part)

    found = in_tiles(run, image, SMALLEST_TILE**2, 4, 4)
    torch.testing.assert_close(found, strided(image), rtol=0, atol=1e-5)
    assert len(seen) == -(-height // SMALLEST_TILE) * -(-width // SMALLEST_TILE)
    assert all(max(shape) <= SMALLEST_TILE + 2 * module.OVERLAP for shape in seen)


@pytest.mark.parametrize("pixels", [2**18, 2**20, 3_000_000])
def test_tiles_stay_within_the_pixels_of_a_call(pixels):
    seen = []

    def run(part):
        seen.append(part.shape[2] * part.shape[3])
        return part[:, :, ::32, ::32]

    in_tiles(run, torch.empty(1, 3, 4000, 5003, device="meta"), pixels, 32, 32)
    assert max(seen) <= pixels and len(seen) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name, stride", [("efficientnet_lite0", 16), ("resnet50", 8)])
@torch.inference_mode()
def test_tiles_of_every_network_fit_together(name, stride):
    """Whatever the values: a part of a wrong size cannot be put in its place."""
    with torch.device("meta"):
        segmenter = SegmentationNet(create(name, output_stride=stride)[0], 4, "auto").eval()
        boundaries = BoundaryNet(create(name)[0]).eval()
    image = torch.zeros(1, 3, 261, 150)
    for model, run, step in (
        (segmenter, segmenter, int(segmenter.cells.step)),
        (boundaries, lambda part: boundaries(part)[:, None], STRIDE),
    ):
        for tensor in model.to_empty(device="cpu").state_dict().values():
            tensor.zero_()
        assert in_tiles(run, image, SMALLEST_TILE**2, model.backbone.stride, step).shape == run(image).shape


def limited(most, calls):
    """In place of a network: no more pixels than `most` fit at once."""

    def limit(run):
        def limited_run(images, *more):
            pixels = images.shape[0] * images.shape[2] * images.shape[3]
            if pixels > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            calls.append(len(images))
            return run(images, *more)

        return limited_run

    return limit


def scaled_network(model, run, call_pixels, batch=4, scales=(1.0,)):
    def tiled(row, pixels):
        return in_tiles(run, row, pixels, 4, 4)

    return ScaledNetwork(model, run, tiled, scales, True, "fp32", call_pixels, batch, 1)


def pictures(count, height, width):
    rng = np.random.default_rng(height)
    return [
        np.array(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("height, width", [(64, 80), (300, 260)])
def test_a_group_that_does_not_fit_is_halved_from_then_on(strided, height, width):
    pixels, calls = pictures(4, height, width), []
    ((expected, _),) = scaled_network(strided, strided, 2**24)(pixels)
    network = scaled_network(strided, limited(3 * height * width, calls)(strided), 2**24)
    for _ in range(2):
        ((found, _),) = network(pixels)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert calls == [2] * 8 and network.tiled_at == 0


def test_what_goes_with_a_row_stays_with_it_in_groups(strided):
    def run(images, numbers):
        return strided(images) * 0 + numbers[:, None, None, None]

    network = scaled_network(strided, run, 3 * 64 * 80)
    ((found, _),) = network(pictures(4, 64, 80), torch.arange(4.0))
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3] * 2


def test_an_image_beyond_the_pixels_of_a_call_goes_in_tiles(strided):
    pixels, calls = pictures(1, 520, 610), []
    ((expected, _),) = scaled_network(strided, strided, 2**24)(pixels)
    network = scaled_network(strided, limited(2**18, calls)(strided), SMALLEST_TILE**2)
    ((found, _),) = network(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert network.tiled_at == SMALLEST_TILE**2 and len(calls) == 2 * 9
    list(network(pictures(1, 64, 80)))
    assert network.tiled_at == 0, "of the last call"


def test_the_smallest_tile_must_fit(strided):
    network = scaled_network(strided, limited(1000, [])(strided), 2**24)
    with pytest.raises(torch.OutOfMemoryError):
        list(network(pictures(1, 520, 610)))
    with pytest.raises(RuntimeError, match="another"):
        list(
            scaled_network(strided, lambda images: (_ for _ in ()).throw(RuntimeError("another")), 2**24)(
                pictures(1, 64, 80)
            )
        )


class Limited(FakeClassifier):
    most = 2**40

    def maps(self, images, classes):
        return limited(self.most, [])(super().maps)(images, classes)


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """Images of two sizes, and a large one; its tiles are those of a network without patches."""

    def tiled(model, row, classes, pixels):
        return in_tiles(lambda part: model.maps(part, classes), row, pixels, 4, 4)

    monkeypatch.setattr("pplfast.labels.cam.tiled_maps", tiled)
    sizes, paths = ((60, 80), (60, 80), (530, 610), (50, 50)), []
    for index, (height, width) in enumerate(sizes):
        paths.append(tmp_path / f"im{index}.jpg")
        Image.fromarray(pictures(index + 1, height, width)[index]).save(paths[-1])
    labels = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]], np.uint8)
    return Dataset("mixed", tuple(path.stem for path in paths), tuple(paths), CLASSES, labels, (None,) * 4)


def test_the_record_says_which_image_was_cut_for_lack_of_memory(mixed, tmp_path):
    model = Limited().eval()
    generate_cams(model, mixed, CONFIG, tmp_path / "whole", options=OPTIONS)
    model.most = 260_000
    assert generate_cams(model, mixed, CONFIG, tmp_path / "cut", options=OPTIONS).written == 4
    assert all("tiled" not in record for record in read_manifest(tmp_path / "whole").values())
    assert {name for name, record in read_manifest(tmp_path / "cut").items() if record.get("tiled")} == {"im2"}
    for name in mixed.ids:
        one, other = (load_cam(tmp_path / folder / f"{name}.npz").maps for folder in ("whole", "cut"))
        np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), rtol=0, atol=1e-3)


def test_an_image_without_classes_is_not_said_to_be_cut(mixed, tmp_path):
    mixed.labels[3] = 0
    model = Limited().eval()
    model.most = 260_000
    generate_cams(model, mixed, CONFIG, tmp_path / "cut", options=OPTIONS)
    assert "tiled" not in read_manifest(tmp_path / "cut")["im3"]


def test_an_image_for_which_no_tile_fits_is_bad_alone_and_tried_again(mixed, tmp_path):
    model = Limited().eval()
    model.most = 70_000
    outcome = generate_cams(model, mixed, CONFIG, tmp_path / "out", options=OPTIONS)
    assert outcome.written == 3 and [name for name, _ in outcome.bad] == ["im2"]
    assert "does not fit into the memory of the device" in outcome.bad[0][1]
    model.most = 2**40
    assert generate_cams(model, mixed, CONFIG, tmp_path / "out", options=OPTIONS).written == 1


def test_what_a_call_may_have_follows_what_the_network_takes():
    convolution = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    convolution.backbone = SimpleNamespace(mean=(0.0,) * 3, std=(1.0,) * 3)
    per_pixel = 1.5 * 8 * 4
    for budget in (2**20, 2**26, 2**30):
        choices = network_choices(convolution, convolution, "auto", CPU, budget)
        pixels = choices["call_pixels"].value
        assert pixels == SMALLEST_TILE**2 or budget / 2.2 < pixels * per_pixel <= 1.1 * budget
        assert choices["precision"].value in ("fp32", "bf16")
    possible = choices["call_pixels"].possible
    assert possible(2**20) and not any(map(possible, (0, -1, 2**15, 2**50, "a", None, True, 1e6)))
    assert "precision" not in network_choices(convolution, convolution, "fp32", CPU, 2**26)


def test_maps_of_a_real_network_depend_on_the_batch_by_no_more_than_rounding():
    """Not to the last bit: what multiplies matrices is chosen by how many rows they have."""
    torch.manual_seed(0)
    model = PatchClassifier(create("efficientnet_lite0")[0], 3, "ppl").eval()
    nn.init.normal_(model.classifier.weight, std=0.1)
    model.set_cuts((Cut(8, 2),))
    pixels, classes = pictures(3, 60, 80), torch.tensor([[0, 1], [1, 2], [2, 0]])
    maker = MapMaker(model, CamConfig((0.5, 1.0), True, 3, "fp32"), "fp32", 2**22, 3, 1)
    together = maker(pixels, classes).clone()
    for row in range(3):
        alone = maker(pixels[row : row + 1], classes[row : row + 1])[0]
        torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-4)
