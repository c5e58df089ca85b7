"""Regions and their outlines: OpenCV and pycocotools make of an outline the pixels that it is of."""

import numpy as np
import pytest

from pplfast.export.regions import polygons, regions

cv2 = pytest.importorskip("cv2")


def masks(count):
    """Masks of a few pixels, from nearly empty to full: with holes, and holes in a row."""
    numbers = np.random.default_rng(1)
    for _ in range(count):
        yield numbers.random(numbers.integers(1, 14, 2)) < numbers.choice([0.2, 0.5, 0.7, 0.9, 1])


def area(outline):
    """By the even-odd rule, where no part of it is enclosed twice."""
    x, y = outline.T
    return abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def test_regions_of_one_value_touch_at_corners_too():
    labels = np.array(
        [
            [8, 0, 0, 12, 255],
            [0, 8, 8, 12, 255],
            [0, 8, 0, 12, 255],
            [0, 0, 0, 0, 255],
            [8, 8, 0, 12, 0],
        ],
        np.uint8,
    )
    found = {(region.box, region.area) for region in regions(labels, 8)}
    assert found == {((0, 0, 3, 3), 4), ((0, 4, 2, 1), 2)}
    first = next(iter(regions(labels, 12)))
    assert (first.box, first.area, first.mask.dtype) == ((3, 0, 1, 3), 3, np.bool_)
    assert not list(regions(labels, 40))


def test_region_of_any_shape_is_its_mask_in_its_box():
    labels = np.random.default_rng(2).integers(0, 3, (30, 40)).astype(np.uint8)
    back = np.zeros_like(labels)
    for value in (1, 2):
        for region in regions(labels, value):
            x, y, width, height = region.box
            assert region.mask.shape == (height, width) and region.area == region.mask.sum()
            assert region.mask.any(axis=0)[[0, -1]].all() and region.mask.any(axis=1)[[0, -1]].all()
            back[y : y + height, x : x + width][region.mask] = value
    np.testing.assert_array_equal(back, labels)


def test_outline_along_the_sides_of_a_rectangle():
    [outline] = polygons(np.ones((2, 3), np.bool_), corners=True)
    assert sorted(map(tuple, outline.tolist())) == [(0, 0), (0, 2), (3, 0), (3, 2)]


def test_outline_through_the_middles_of_a_rectangle():
    [outline] = polygons(np.ones((2, 3), np.bool_), corners=False)
    assert sorted(map(tuple, outline.tolist())) == [(0, 0), (0, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (5, 1)])
def test_thin_outline_has_three_points_at_least(shape):
    [outline] = polygons(np.ones(shape, np.bool_), corners=False)
    assert len(outline) >= 3 and outline.max() == max(shape) - 1


def test_no_region_no_outline():
    assert polygons(np.zeros((4, 5), np.bool_), corners=True) == []


def test_polygon_of_a_region_is_in_the_coordinates_of_the_image():
    labels = np.zeros((20, 30), np.uint8)
    labels[7:9, 11:15] = 5
    [region] = regions(labels, 5)
    assert region.polygon(corners=True).min(axis=0).tolist() == [11, 7]
    assert region.polygon(corners=True).max(axis=0).tolist() == [15, 9]
    assert region.polygon(corners=False).max(axis=0).tolist() == [14, 8]


def test_opencv_fills_the_outlines_through_middles_to_the_same_pixels():
    for mask in masks(300):
        outlines = polygons(mask, corners=False)
        assert len(outlines) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
        drawn = np.zeros(mask.shape, np.uint8)
        for outline in outlines:
            assert len(outline) >= 3
            cv2.fillPoly(drawn, [outline.astype(np.int32)], 1)
        np.testing.assert_array_equal(drawn.astype(np.bool_), mask)


def test_pycocotools_draws_the_outlines_along_sides_to_the_same_pixels():
    coco = pytest.importorskip("pycocotools.mask")
    for mask in masks(300):
        drawn = np.zeros(mask.shape, np.uint8)
        for outline in polygons(mask, corners=True):
            own = coco.decode(coco.frPyObjects([outline.ravel().tolist()], *mask.shape))[..., 0]
            assert area(outline) == own.sum()  # the holes do not count
            drawn += own
        np.testing.assert_array_equal(drawn, mask)


def test_cut_to_a_hole_stays_within_the_region():
    mask = np.ones((9, 12), np.bool_)
    mask[:4, 3:6] = False  # a bay, which the shortest way from the hole to the corner would cross
    mask[2:7, 8:10] = False
    [outline] = polygons(mask, corners=False)
    for begin, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        steps = int(np.abs(end - begin).max())
        for step in range(steps + 1):
            x, y = (begin + (end - begin) * step / max(steps, 1)).astype(int)
            assert mask[y, x], (x, y)


@pytest.mark.slow
def test_outlines_of_a_large_image_with_many_holes():
    coco = pytest.importorskip("pycocotools.mask")
    mask = cv2.resize(np.random.default_rng(3).random((90, 120)).astype(np.float32), (1200, 900)) < 0.6
    drawn = np.zeros(mask.shape, np.uint8)
    for outline in polygons(mask, corners=True):
        drawn += coco.decode(coco.frPyObjects([outline.ravel().tolist()], *mask.shape))[..., 0]
    np.testing.assert_array_equal(drawn, mask)
