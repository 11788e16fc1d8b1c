from __future__ import annotations

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from arena_pipeline.io.dicom.contours import fill, trace

SHAPE = (40, 30)


def _inside(contours: list[np.ndarray]) -> np.ndarray:
    centres = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 2)
    return np.logical_xor.reduce([Polygon(contour).contains_points(centres) for contour in contours]).reshape(SHAPE)


def test_filled_as_matplotlib_finds_the_points_inside(rng: np.random.Generator) -> None:
    for _ in range(50):
        # crossing themselves and each other, partly outside; at parts of a voxel that no rounding moves
        contours = [rng.integers(-5 * 128, 45 * 128, (rng.integers(3, 12), 2)) / 128 + 1 / 256 for _ in range(3)]
        assert np.array_equal(fill(contours, SHAPE), _inside(contours))


def test_a_square_in_a_square_is_a_hole_however_it_is_written() -> None:
    outer, inner = np.array([[2.5, 2.5], [12.5, 2.5], [12.5, 12.5], [2.5, 12.5]]), np.array([[5.5, 5.5], [5.5, 8.5], [8.5, 8.5], [8.5, 5.5]])
    expected = np.zeros(SHAPE, bool)
    expected[3:13, 3:13] = True
    expected[6:9, 6:9] = False
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    for contours in ([outer, inner], [outer, inner[::-1]], [keyhole]):
        assert np.array_equal(fill(contours, SHAPE), expected)


@pytest.mark.parametrize("rounding", [0, 5e-4])
def test_outlines_through_the_centres_of_the_outermost_voxels_lose_none(rounding: float, rng: np.random.Generator) -> None:
    outer, hole = np.array([[3, 4], [20, 4], [25, 9], [25, 22], [3, 22]], float), np.array([[9, 9], [15, 9], [15, 15], [9, 15]], float)
    expected = np.zeros(SHAPE, bool)
    expected[3:26, 4:23] = True
    for step in range(5):
        expected[21 + step :, 4 + step] = False
    expected[10:15, 10:15] = False  # the voxels around the hole belong to the mask
    assert np.array_equal(fill([c + rng.uniform(-rounding, rounding, c.shape) for c in (outer, hole)], SHAPE), expected)


def test_traced_and_filled_is_the_mask_again(rng: np.random.Generator) -> None:
    for threshold in (0.3, 0.5, 0.6):
        mask = ndimage.gaussian_filter(rng.uniform(size=SHAPE), 1) > 0.5 if threshold == 0.5 else rng.uniform(size=SHAPE) > threshold
        assert np.array_equal(fill(trace(mask), SHAPE), mask)
    assert trace(np.zeros(SHAPE, bool)) == []
    ring = np.zeros(SHAPE, bool)
    ring[5:20, 5:20] = True
    ring[8:10, 8:10] = ring[14:17, 8:10] = False
    (contour,) = trace(ring)  # one polygon with two keyholes
    assert np.array_equal(_inside([contour]), ring)


def test_a_channel_to_a_hole_over_another_hole_does_not_fill_it(rng: np.random.Generator) -> None:
    mask = np.zeros((60, 20), bool)
    mask[1:59, 1:19] = True
    mask[2:58, 6] = mask[30, 9] = False  # the shortest way to the small hole leads over the slit
    assert np.array_equal(fill(trace(mask), mask.shape), mask)
    for _ in range(200):
        mask = np.pad(rng.uniform(size=(26, 16)) > 0.1, 1, constant_values=True)
        for x, y in rng.integers(2, 16, (5, 2)):
            mask[x : x + 8, y] = False
        assert np.array_equal(fill(trace(mask), mask.shape), mask)
