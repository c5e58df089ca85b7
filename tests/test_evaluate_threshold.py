"""The threshold without masks: the minimum of its criterion by brute force, over images, and by the command."""

import numpy as np
import pytest
from labels_small import small_dataset, write_cams

from pplfast.errors import UserError
from pplfast.evaluate import choose_threshold
from pplfast.evaluate.threshold import minimum_cross_entropy
from pplfast.labels.camfile import Cam, load_cam, save_cam
from pplfast.recipe.crf_presets import check_background


def brute_force(values):
    """The split of least cross-entropy between the values and the means of its two parts, over all splits."""
    ordered = np.sort(values.ravel()).astype(np.float64)
    costs = [
        -sum(part.sum() * np.log(part.mean()) for part in (ordered[:at], ordered[at:])) for at in range(1, len(ordered))
    ]
    at = int(np.argmin(costs)) + 1
    return float(ordered[at - 1]), float(ordered[at])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_where_the_cross_entropy_is_least(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.beta(2, 12, 900), rng.beta(8, 3, 300)])
    low, high = brute_force(values)
    assert low - 0.01 <= minimum_cross_entropy(values) <= high + 0.01


def test_values_without_two_parts():
    assert minimum_cross_entropy(np.full(9, 0.4, np.float16)) == pytest.approx(0.4, abs=1e-3)
    assert minimum_cross_entropy(np.array([0.0, 0.0, 0.0, 1.0])) == 0.0  # all above nothing


def test_the_data_set_s_is_the_mean_over_its_images(tmp_path):
    dataset = small_dataset(tmp_path)
    cams = write_cams(tmp_path / "cams", dataset)
    own = []
    for name in dataset.ids:
        cam = load_cam(cams / f"{name}.npz")
        if len(cam.maps):
            own.append(minimum_cross_entropy(cam.maps.astype(np.float64).max(0)))
    chosen = choose_threshold(cams, dataset, jobs=1)
    assert chosen.threshold == pytest.approx(np.mean(own), abs=0.006) and chosen.images == len(own)


def test_without_any_map_there_is_none(tmp_path):
    dataset = small_dataset(tmp_path)
    height, width = load_cam(write_cams(tmp_path / "cams", dataset) / "im0.npz").size
    save_cam(tmp_path / "cams" / "im0.npz", Cam(np.zeros(0, int), np.zeros((0, 10, 14)), (height, width)))
    with pytest.raises(UserError, match="no image has a map to find a threshold on; give it with --value"):
        choose_threshold(tmp_path / "cams", dataset.subset([0]), jobs=1)


@pytest.mark.parametrize("value, expected", ((0.0, 0.01), (1.0, 0.99)))
def test_it_is_one_that_labels_can_be_made_with(tmp_path, value, expected):
    dataset = small_dataset(tmp_path)
    cam = load_cam(write_cams(tmp_path / "cams", dataset) / "im0.npz")
    save_cam(tmp_path / "cams" / "im0.npz", Cam(cam.classes, np.full_like(cam.maps, value), cam.size))
    chosen = choose_threshold(tmp_path / "cams", dataset.subset([0]), jobs=1)
    assert chosen.threshold == expected
    check_background("threshold", chosen.threshold)
