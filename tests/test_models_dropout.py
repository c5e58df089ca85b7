"""Dropout drawn by seed, step and image: the same however the images of a step are shared."""

import shutil

import numpy as np
import pytest
import torch
from models_reference import TINY
from torch import Tensor

from pplfast.models.dropout import _drawing, branches, drawn_by, dropout, kept_channels
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier

CPU = torch.device("cpu")
IMAGES = np.array([5, 3, 900, 0, 7, 2, 1, 8])


def drawn(images, seed: int = 1, step: int = 4, layer: int = 0, patches: int = 1, channels: int = 64) -> Tensor:
    with drawn_by(seed, step, images, CPU):
        return dropout(torch.ones(len(images) * patches, channels), 0.3, layer, True)


@pytest.mark.parametrize("patches", (1, 9))
def test_an_image_loses_the_same_channels_in_whichever_batch_it_is(patches):
    whole = drawn(IMAGES, patches=patches).unflatten(0, (8, patches))
    for parts in ([IMAGES[:4], IMAGES[4:]], [IMAGES[::2], IMAGES[1::2]], [IMAGES[[k]] for k in range(8)]):
        for part in parts:
            places = [IMAGES.tolist().index(image) for image in part]
            assert torch.equal(drawn(part, patches=patches).unflatten(0, (-1, patches)), whole[places])


def test_rows_draw_apart_from_each_other_and_anew_in_each_step_layer_and_branch():
    rows = [*drawn(IMAGES, patches=4), *drawn(IMAGES, layer=1)]
    rows += [*drawn(IMAGES, step=5), *drawn(IMAGES, seed=2)]
    with drawn_by(1, 4, IMAGES, CPU), branches([(1, 32), (2, 32)]):
        parted = dropout(torch.ones(64, 64), 0.3, 0, True)
    rows += [*parted]
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)
    with drawn_by(1, 4, IMAGES[2:4], CPU), branches([(1, 8), (2, 8)]):  # a second branch begins elsewhere in the batch
        alone = dropout(torch.ones(16, 64), 0.3, 0, True)
    assert torch.equal(alone, torch.cat((parted[8:16], parted[40:48])))


@pytest.mark.parametrize("probability", (0.1, 0.5, 0.93))
def test_channels_are_kept_at_the_rate_and_scaled_by_it(probability):
    with drawn_by(0, 0, np.arange(400), CPU):
        y = dropout(torch.ones(400, 500, 1, 2, dtype=torch.float64), probability, 3, True)
    assert torch.equal(y[..., 0], y[..., 1]) and set(y.unique().tolist()) == {0.0, 1 / (1 - probability)}
    kept = (y[:, :, 0, 0] != 0).double()
    deviation = (probability * (1 - probability) / kept.numel()) ** 0.5
    assert abs(kept.mean() - (1 - probability)) < 4 * deviation
    of_rows, of_channels = kept.mean(1).std(), kept.mean(0).std()
    assert of_rows == pytest.approx((probability * (1 - probability) / 500) ** 0.5, rel=0.15)
    assert of_channels == pytest.approx((probability * (1 - probability) / 400) ** 0.5, rel=0.15)


def test_without_images_torch_draws_and_nothing_is_dropped_outside_of_training():
    x = torch.randn(4, 6, 2, 2)
    torch.manual_seed(3)
    expected = torch.nn.functional.dropout2d(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, 0, True), expected)
    with drawn_by(0, 0, np.arange(4), CPU):
        assert dropout(x, 0.5, 0, False) is x and dropout(x, 0.0, 0, True) is x


@pytest.mark.parametrize("mode", ("ppl", "explicit"))
def test_a_network_computes_the_same_of_an_image_on_one_rank_and_on_two(mode, monkeypatch, one_thread):
    """WideResNet-38 drops inside; where its cuts lie behind one another, branches share a batch."""
    make, _ = TINY["wrn38"]
    backbone = make(monkeypatch)
    model = PatchClassifier(backbone, 3, mode, dropout=0.5, branches=2).double().train()
    cuts = [Cut(backbone.position(name) + 1, 2) for name in ("b4", "b6")]
    model.set_cuts(cuts if mode == "explicit" else cuts[:1])
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with drawn_by(1, 2, IMAGES[:4], CPU):
        whole = model(images)
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        torch.randn(5)  # torch's generator stands elsewhere on another rank
        with drawn_by(1, 2, IMAGES[:4][part], CPU):
            halves.append(model(images[part]))
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-9, atol=1e-12)
    with drawn_by(1, 3, IMAGES[:4], CPU):
        assert not torch.allclose(model(images), whole)


def test_what_compilers_are_told_of_it_is_right():
    with drawn_by(1, 4, IMAGES[:2], CPU):
        keys = _drawing.images
    torch.library.opcheck(kept_channels, (keys, (1, 2), (8, 2), 5, 3, 0.5))


@pytest.mark.slow
def test_dropout_is_part_of_the_one_graph_that_is_compiled(monkeypatch, one_thread):
    make, cut = TINY["wrn38"]
    backbone = make(monkeypatch)
    model = PatchClassifier(backbone, 3, "ppl", dropout=0.5).train()
    model.set_cuts([Cut(backbone.position(cut) + 1, 2)])
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    torch._dynamo.config.error_on_recompile, before = True, torch._dynamo.config.error_on_recompile
    try:
        for step in range(3):
            with drawn_by(1, step, IMAGES[:2], CPU):
                torch.testing.assert_close(compiled(images), model(images))
    finally:
        torch._dynamo.config.error_on_recompile = before
        torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*[Dd]istutils")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++) on the CPU")
def test_generated_code_drops_the_same_channels():
    compiled = torch.compile(lambda x: dropout(x, 0.3, 5, True), dynamic=False)
    x = torch.ones(8, 33)
    with drawn_by(1, 4, IMAGES[:4], CPU):
        assert torch.equal(compiled(x), dropout(x, 0.3, 5, True))
    torch.compiler.reset()
