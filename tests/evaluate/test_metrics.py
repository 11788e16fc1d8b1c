"""Overlap counts, Dice and volumes by hand; absent is NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arena_pipeline.evaluate.metrics import Overlap, largest_component, overlap, volume_error


def test_overlap_of_shifted_cubes() -> None:
    """4 x 4 x 4 cubes shifted by one voxel share 3 x 4 x 4 = 48 of their 64 voxels, in 10^3: Dice 96/128, IoU 48/80."""
    reference, prediction = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    reference[2:6, 2:6, 2:6] = prediction[3:7, 2:6, 2:6] = True
    counts = overlap(reference, prediction)
    assert counts == Overlap(48, 16, 16, 1000 - 80)
    assert (counts.reference_voxels, counts.prediction_voxels, counts.status) == (64, 64, "scored")
    assert (counts.dice, counts.iou, counts.published_dice) == (0.75, 0.6, 96 / 129)
    box = (slice(2, 7), slice(2, 6), slice(2, 6))
    assert overlap(reference[box], prediction[box], outside=1000 - 80) == counts


@pytest.mark.parametrize(
    ("counts", "status", "dice", "published"),
    [
        (Overlap(0, 0, 0, 9), "absent", math.nan, math.nan),
        (Overlap(0, 0, 5, 4), "missed", 0.0, 0.0),
        (Overlap(0, 5, 0, 4), "false_positive", 0.0, 0.0),
        (Overlap(1, 0, 0, 8), "scored", 1.0, 2 / 3),
    ],
)
def test_empty_masks(counts: Overlap, status: str, dice: float, published: float) -> None:
    assert counts.status == status
    assert counts.dice == pytest.approx(dice, nan_ok=True)
    assert counts.published_dice == pytest.approx(published, nan_ok=True)
    assert math.isnan(counts.iou) == (status == "absent")


def test_volume_error_is_signed() -> None:
    assert volume_error(Overlap(60, 30, 40, 0), voxel_volume_ml=0.002) == pytest.approx((-0.02, -10.0))
    assert volume_error(Overlap(0, 0, 40, 0), 0.002) == pytest.approx((-0.08, -100.0))
    assert volume_error(Overlap(0, 30, 0, 0), 0.002) == pytest.approx((0.06, math.nan), nan_ok=True)
    assert volume_error(Overlap(0, 0, 0, 9), 0.002) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_volume_of_balls() -> None:
    """4/3 pi (12^3 - 10^3) mm3 = 3.05 ml, 72.8 % of the smaller ball."""
    x, y, z = np.ogrid[-13:13:0.5, -13:13:0.5, -13:13:1.0]
    squared = x**2 + y**2 + z**2
    counts = overlap(squared <= 100, squared <= 144)
    millilitres, percent = volume_error(counts, 0.5 * 0.5 * 1.0 / 1000)
    assert millilitres == pytest.approx(4 / 3 * math.pi * (12**3 - 10**3) / 1000, rel=0.02)
    assert percent == pytest.approx(72.8, rel=0.02)
    assert counts.dice == pytest.approx(2 * 1000 / (1000 + 1728), rel=0.01)


def test_largest_component_is_26_connected() -> None:
    mask = np.zeros((8, 8, 8), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True  # joined at corners only
    mask[5:7, 5, 5] = True
    largest = largest_component(mask)
    assert largest.dtype == bool
    assert np.argwhere(largest).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert not largest_component(np.zeros((3, 3, 3), bool)).any()


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="not on one grid"):
        overlap(np.ones((2, 2, 2), bool), np.ones((2, 3, 2), bool))
