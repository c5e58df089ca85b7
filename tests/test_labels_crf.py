"""Background scores, the dense CRF against pydensecrf itself, and the worker pool."""

import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pydensecrf.densecrf as densecrf
import pytest
from pydensecrf.utils import unary_from_labels

from pplfast.errors import UserError
from pplfast.labels.background import add_background, to_probabilities
from pplfast.labels.crf import dense_crf, dense_crf_each
from pplfast.pool import map_unordered
from pplfast.recipe.crf_presets import PRESETS, check_background, check_crf

RNG = np.random.default_rng(3)
IMAGE = RNG.integers(0, 256, (23, 31, 3), dtype=np.uint8)
RAW = RNG.random((3, 23, 31)).astype(np.float32)
PROBABILITIES = RAW / RAW.sum(0)


def test_threshold_background_ties_go_to_it():
    maps = np.array([[[0.2, 0.3, 0.4]]], np.float32)
    scores = add_background(maps, "threshold", 0.3)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores.argmax(0), [[0, 0, 1]])
    np.testing.assert_allclose(to_probabilities(scores, "threshold").sum(0), 1, rtol=1e-6)
    np.testing.assert_allclose(to_probabilities(scores, "threshold")[1], [[0.4, 0.5, 0.4 / 0.7]], rtol=1e-6)


def test_alpha_background_is_the_published_power():
    maps = np.array([[[0.5, 1.0]], [[0.25, 0.0]]], np.float32)
    scores = add_background(maps, "alpha", 4)
    np.testing.assert_allclose(scores[0], [[0.0625, 0.0]])
    np.testing.assert_array_equal(to_probabilities(scores, "alpha"), scores)
    no_class = add_background(np.zeros((0, 2, 2), np.float32), "alpha", 4)
    np.testing.assert_array_equal(no_class, np.ones((1, 2, 2)))


@pytest.mark.parametrize(
    "kind,value", [("threshold", 0.0), ("threshold", 1.0), ("alpha", 0.0), ("beta", 1.0), ("threshold", float("nan"))]
)
def test_background_values_out_of_range(kind, value):
    with pytest.raises(UserError, match=f"background .*{kind}"):
        check_background(kind, value)


def direct(unary, sxy_g, compat_g, sxy_b, srgb, compat_b, iterations=10):
    """pydensecrf called as the published code calls it."""
    model = densecrf.DenseCRF2D(31, 23, len(unary))
    model.setUnaryEnergy(np.ascontiguousarray(unary))
    model.addPairwiseGaussian(sxy=sxy_g, compat=compat_g)
    model.addPairwiseBilateral(sxy=sxy_b, srgb=srgb, rgbim=IMAGE.copy(), compat=compat_b)
    return np.array(model.inference(iterations)).reshape(len(unary), 23, 31)


def test_presets_equal_the_published_calls_bitwise():
    unary = -np.log(np.clip(PROBABILITIES, 1e-5, 1)).reshape(3, -1)
    np.testing.assert_array_equal(dense_crf(IMAGE, PROBABILITIES, "probabilities"), direct(unary, 3, 3, 80, 13, 10))
    np.testing.assert_array_equal(dense_crf(IMAGE, PROBABILITIES, "deeplab"), direct(unary, 1, 3, 67, 3, 4))
    unary = unary_from_labels(PROBABILITIES.argmax(0), 3, gt_prob=0.7, zero_unsure=False)
    np.testing.assert_array_equal(dense_crf(IMAGE, PROBABILITIES, "labels"), direct(unary, 3, 3, 50, 5, 10))


def test_absent_classes_do_not_matter():
    with_absent = np.zeros((6, 23, 31), np.float32)
    with_absent[[0, 2, 5]] = PROBABILITIES
    marginals = dense_crf(IMAGE, with_absent, "probabilities")
    np.testing.assert_allclose(marginals[[0, 2, 5]], dense_crf(IMAGE, PROBABILITIES, "probabilities"), atol=1e-3)
    assert marginals[[1, 3, 4]].max() < 1e-3


def test_normalising_threshold_scores_changes_nothing_but_clipping():
    scores = add_background(RAW[1:], "threshold", 0.3)
    np.testing.assert_allclose(
        dense_crf(IMAGE, scores, "probabilities"),
        dense_crf(IMAGE, to_probabilities(scores, "threshold"), "probabilities"),
        atol=1e-4,
    )


def test_single_channel_and_wrong_input():
    np.testing.assert_array_equal(dense_crf(IMAGE, PROBABILITIES[:1], "labels"), np.ones((1, 23, 31)))
    with pytest.raises(ValueError, match="does not match"):
        dense_crf(IMAGE[:5], PROBABILITIES, "labels")
    with pytest.raises(UserError, match="CRF preset 'densecrf': must be one of probabilities, labels, deeplab, none"):
        check_crf("densecrf")
    assert all(preset.iterations == 10 for preset in PRESETS.values())


@pytest.mark.slow
def test_pool_equals_sequential_and_raises_what_the_work_raises():
    tasks = list(range(11))
    work = partial(pow, 3)
    assert dict(map_unordered(work, tasks, 2)) == dict(map_unordered(work, tasks, 1)) == {n: 3**n for n in tasks}
    with pytest.raises(ZeroDivisionError):
        list(map_unordered(partial(pow, 0), [1, 2, -1], 2))
    with pytest.raises(UserError, match="jobs 0: must be 1 or more"):
        list(map_unordered(work, tasks, 0))


@pytest.mark.slow
def test_a_dying_worker_is_an_error_for_the_user():
    with pytest.raises(UserError, match="a worker process died"):
        list(map_unordered(os._exit, [3, 3], 2))


@pytest.mark.slow
def test_a_signal_does_not_reach_a_worker_that_is_being_started():
    """Ctrl-C goes to the whole process group; a worker's mask is that of the thread that started it."""
    ask = partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    before = ask(())
    for _, held in map_unordered(ask, [(), ()], 2):
        assert {signal.SIGINT, signal.SIGTERM} <= held
    assert ask(()) == before


@pytest.mark.slow
def test_workers_start_without_torch():
    code = "import sys, pplfast.labels.rules, pplfast.jobs.workers, pplfast.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_several_probabilities_on_one_image_are_those_of_each_alone():
    others = [PROBABILITIES, PROBABILITIES[::-1].copy(), np.roll(PROBABILITIES, 5, axis=2)]
    for preset in ("probabilities", "labels"):
        for found, probabilities in zip(dense_crf_each(IMAGE, others, preset), others, strict=True):
            np.testing.assert_array_equal(found, dense_crf(IMAGE, probabilities, preset))
