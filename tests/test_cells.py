"""Where cells lie: a spot of an image appears at its place in a map, at every size, mirrored too."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from pplfast.kernels import Cells, backend, cam_fuse, place
from pplfast.kernels.cells import along
from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.models.layers import Conv, FrozenBatchNorm
from pplfast.models.segmentation import SegmentationNet
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier

pytestmark = pytest.mark.usefixtures("one_thread")

EFFICIENT = (("efficientnet_lite0", 16), ("efficientnet_lite0", 32), ("efficientnet_lite2", 32))
NETWORKS = (
    *EFFICIENT,
    ("resnet50", 8),
    ("resnet50", 16),
    ("resnet50", 32),
)
WIDE = pytest.param("wrn38", 8, marks=pytest.mark.slow)
EXACT = 0.01  # of a cell


def seeing_points(backbone):
    """Every convolution gives the mean over the channels of what lies at the place of its cell, between two pixels of
    its window where it has a stride, as trained ones do: a cell is then one point of the image, times a constant (each
    shortcut doubles it, which must stay below the 6 of a ReLU6)."""
    for module in backbone.modules():
        if isinstance(module, Conv):
            point_to(module, 0.5 if module.stride[0] > 1 else 0.0)  # TensorFlow's windows lie half a cell behind
        elif isinstance(module, FrozenBatchNorm):
            module.running_var.fill_(1 - module.eps)
    moved = backbone.specs[6]
    if moved.shift is not None:
        point_to(backbone.block_modules(6)[0]._depthwise_conv, moved.stride - 1 - moved.shift)
    return backbone.eval()


def point_to(convolution, before):
    """The point so far before the centre of the window, in cells of the input, between -1 and 1."""
    nn.init.zeros_(convolution.weight)
    middle, sign, far = convolution.kernel_size[0] // 2, 1 if before > 0 else -1, abs(before)
    for y, x in itertools.product((0, 1), repeat=2):
        share = (far if y else 1 - far) * (far if x else 1 - far)
        if share:
            convolution.weight.data[:, :, middle - sign * y, middle - sign * x] = share / convolution.weight.shape[1]


def spot(height, width, y, x, sigma):
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    profile = torch.exp(-((rows - y) ** 2)[:, None] / (2 * sigma**2) - (columns - x) ** 2 / (2 * sigma**2))
    return 1e-6 * profile.expand(1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def centre(values):
    """Of a map (h, w): row and column, weighted by its values."""
    rows, columns = (torch.arange(float(side)) for side in values.shape)
    return (values.sum(1) @ rows / values.sum()).item(), (values.sum(0) @ columns / values.sum()).item()


@pytest.mark.parametrize("more", [(0, 0), (1, 0), (5, 17), (31, 30)])
@pytest.mark.parametrize("name, stride", EFFICIENT)
@torch.inference_mode()
def test_a_spot_appears_at_its_place(name, stride, more):
    backbone = seeing_points(create(name, "none", stride)[0])
    model = PatchClassifier(backbone, 1, "plain").eval()
    nn.init.constant_(model.classifier.weight, 1 / backbone.channels)
    height, width = 9 * stride + more[0], 10 * stride + more[1]
    y, x = 4.4 * stride, 5.3 * stride
    image = spot(height, width, y, x, stride)
    for flip in (False, True):
        pair = torch.cat((image, image.flip(3))) if flip else image
        full = cam_fuse([model.maps(pair)], height, width, flip, False, [(height, width)], backbone.cells())
        assert centre(full[0, 0]) == pytest.approx((y, x), abs=EXACT * stride)
        small = cam_fuse([model.maps(pair)], height // 2, width // 2, flip, False, [(height, width)], backbone.cells())
        scales = [(side // 2) / side for side in (height, width)]
        wanted = [(at + 0.5) * scale - 0.5 for at, scale in zip((y, x), scales, strict=True)]
        assert centre(small[0, 0]) == pytest.approx(wanted, abs=EXACT * stride)


@pytest.mark.parametrize("more", [(0, 0), (3, 21)])
@pytest.mark.parametrize("name, stride", EFFICIENT)
@torch.inference_mode()
def test_boundaries_and_segments_are_where_their_features_are(name, stride, more):
    height, width, y, x = 320 + more[0], 352 + more[1], 141.3, 166.8
    image = spot(height, width, y, x, 32)
    boundaries = BoundaryNet(seeing_points(create(name, "none", stride)[0])).eval()
    for head in boundaries.heads:
        nn.init.constant_(head[0].weight, 1 / head[0].in_channels)
        head[1] = nn.Identity()
    nn.init.ones_(boundaries.edge.weight), nn.init.zeros_(boundaries.edge.bias)
    edges = boundaries(image)[0]
    axes = [Cells.over(side, count) for side, count in zip((height, width), edges.shape, strict=True)]
    found = [cells.first + at * cells.step for cells, at in zip(axes, centre(edges), strict=True)]
    assert found == pytest.approx((y, x), abs=EXACT * stride)

    network = SegmentationNet(seeing_points(create(name, "none", stride)[0]), 2).eval()
    for module in network.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            middle = module.kernel_size[0] // 2
            module.weight.data[:, :, middle, middle] = 1 / module.in_channels
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if network.low is not None:
        network.head.norm = nn.Identity()
        nn.init.zeros_(network.head.gate.weight), nn.init.zeros_(network.head.detail.weight)
    logits = place(network(image), network.cells, (Cells(0, 1),) * 2, (height, width))
    assert centre(logits[0, 0]) == pytest.approx((y, x), abs=EXACT * stride)


@pytest.mark.parametrize("size", [(75, 107)])
@pytest.mark.parametrize("name, stride", (*NETWORKS, WIDE))
@torch.inference_mode()
def test_one_patch_is_the_whole_at_sizes_that_are_no_multiple(name, stride, size):
    torch.manual_seed(0)
    backbone = create(name, "none", stride)[0].eval()
    model = PatchClassifier(backbone, 2, "ppl").eval()
    images = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    for position in range(1, len(backbone.specs), max(1, len(backbone.specs) // 6)):
        model.set_cuts([Cut(position, 1)])
        features = model.features(images)
        (patched, _), whole = features.patched[0], features.global_map
        assert whole.shape[2:] == tuple(math.ceil(side / stride) for side in size)
        torch.testing.assert_close(patched, whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, stride",
    [
        ("efficientnet_lite0", 32),
        ("efficientnet_lite0", 16),
        ("efficientnet_lite1", 16),
        ("efficientnet_lite2", 32),
        ("efficientnet_lite2", 16),
    ],
)
@torch.inference_mode()
def test_a_mirror_image_shows_that_cells_lie_where_they_are_placed(name, stride, voc_mini):
    """Of the published weights: what the map of an image shows and that of its mirror image lie at one place, but for a
    tenth of a cell, and further apart where cells are placed half a stride to either side."""
    backbone = create(name, "auto", stride)[0].eval()
    found = dict.fromkeys((-1.0, -0.5, 0.0, 0.5, 1.0), 0.0)
    for path in sorted((voc_mini / "JPEGImages").glob("*.jpg"))[::6]:
        photo = Image.open(path)
        width, height = (side // stride * stride for side in photo.size)
        pixels = (np.asarray(photo.resize((width, height)), np.float32) - backbone.mean) / backbone.std
        x = torch.from_numpy(np.asarray(pixels, np.float32)).permute(2, 0, 1)[None]
        straight, mirrored = (backbone.tail(backbone.run(each, 0, len(backbone.specs))) for each in (x, x.flip(3)))
        for more in found:
            cells = Cells(backbone.cells().first + more * stride / 2, stride)
            columns = Cells(stride, stride / 4)  # away from the borders
            target, size = (Cells(0, stride), columns), (height // stride, width // stride * 4 - 8)
            back = Cells(width - 1 - columns.first, -columns.step)  # the same places of the mirror image
            found[more] += similarity(
                place(straight, cells, target, size), place(mirrored, cells, (target[0], back), size)
            )
    assert max(found, key=found.get) == 0.0, found


def similarity(a, b):
    a, b = (each - each.mean((2, 3), keepdim=True) for each in (a, b))
    return ((a * b).sum() / (a.norm() * b.norm())).item()


@pytest.mark.parametrize("shape, size", [((2, 3, 5, 7), (11, 20)), ((1, 1, 1, 4), (3, 4)), ((2, 4, 9, 6), (3, 3))])
def test_cells_that_share_the_image_evenly_are_interpolated_as_usual(shape, size):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        plain = F.interpolate(x, size, mode="bilinear", align_corners=False)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        rows, columns = (Cells.over(count, side) for count, side in zip(shape[2:], size, strict=True))
        found = place(given, Cells(0, 1), (rows, columns), size)
        torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last) or shape[1] == 1
    assert torch.autograd.gradcheck(lambda y: place(y, Cells(0, 1), (rows, columns), size), x)


@pytest.mark.parametrize("size, step", [(500, 0.5), (1500, 0.25), (7, 40.0), (300, -0.6)])
def test_places_are_those_of_numpy(size, step):
    """Several blocks of them, too, in either order, and beyond the outermost cells."""
    cells, first = Cells(31.0, 32.0), -0.25 if step > 0 else 190.0
    values = torch.rand(6, dtype=torch.float64)
    found = along(values[None], -1, Cells(first, step).seen_from(cells), size)
    expected = np.interp(first + step * np.arange(size), 31 + 32 * np.arange(6), values.numpy())
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)
    assert torch.equal(along(values[:, None], -2, Cells(first, step).seen_from(cells), size), found.mT)


@pytest.mark.parametrize("name", ["plain", "triton"])
def test_both_backends_place_several_scales(name):
    generator = torch.Generator().manual_seed(3)
    sizes, cells = [(37, 50), (74, 99)], Cells(15.0, 16.0)
    maps = [torch.rand(2, 3, math.ceil(h / 16), math.ceil(w / 16), generator=generator) for h, w in sizes]
    with backend.force(name):
        found = cam_fuse(maps, 37, 50, True, True, sizes, cells)
    total = np.zeros((3, 37, 50))
    for each, scaled in zip(maps, sizes, strict=True):
        full = each.double().numpy()
        for axis, (pixels, side) in enumerate(zip(scaled, (37, 50), strict=True), 2):
            at = (np.arange(side) + 0.5) * pixels / side - 0.5
            centres = 15 + 16 * np.arange(full.shape[axis])
            full = np.apply_along_axis(lambda row, at=at, centres=centres: np.interp(at, centres, row), axis, full)
        total += full[0] + full[1, :, :, ::-1]
    expected = total / (total.max((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-4)
