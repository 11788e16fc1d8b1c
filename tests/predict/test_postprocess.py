"""The largest component, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from arena_pipeline.predict.postprocess import keep_largest_component_, postprocess_segmentation_


def segmentation() -> np.ndarray:
    """Label 1: a cube of 27 and, apart from it, 2 voxels. Label 2: two single voxels. Label 3: two voxels that share a corner only."""
    array = np.zeros((12, 12, 12), dtype=np.uint8)
    array[1:4, 1:4, 1:4] = 1
    array[8, 8, 8:10] = 1
    array[0, 11, 0] = array[11, 0, 11] = 2
    array[6, 6, 6] = array[7, 7, 7] = 3
    return array


def test_only_the_largest_stays() -> None:
    before, after = segmentation(), segmentation()
    assert keep_largest_component_(after, 1) == (27, 2, 2)
    assert (after == 1).sum() == 27
    np.testing.assert_array_equal(after[before > 1], before[before > 1])


def test_voxels_that_share_a_corner_are_one_component() -> None:
    after = segmentation()
    assert keep_largest_component_(after, 3) == (2, 0, 0)
    np.testing.assert_array_equal(after, segmentation())


@pytest.mark.parametrize("order", ["C", "F"])
def test_of_equal_ones_the_first_stays_in_any_memory_order(order: str) -> None:
    after = np.array(segmentation(), order=order)  # type: ignore[call-overload]
    assert keep_largest_component_(after, 2) == (1, 1, 1)
    assert after[0, 11, 0] == 2 and after[11, 0, 11] == 0


def test_the_plans_rule_and_what_it_reports() -> None:
    array = segmentation()
    labels = {"background": 0, "a": 1, "b": 2, "c": 3, "absent": 9}
    removed = postprocess_segmentation_(array, labels, {"a": True, "b": False, "c": True, "absent": True})
    assert removed == {"a": 2, "c": 0, "absent": 0}
    assert np.bincount(array.ravel()).tolist()[1:] == [27, 2, 2]


def test_a_second_kidney_that_is_removed_is_told_and_noise_is_not(caplog: pytest.LogCaptureFixture) -> None:
    array = np.zeros((20, 20, 20), dtype=np.uint8)
    array[1:6, 1:6, 1:6] = array[10:14, 10:14, 10:14] = 1  # 125 and 64 voxels
    array[1:6, 10:15, 1:6], array[18, 18, 18] = 2, 2
    assert postprocess_segmentation_(array, {"kidneys": 1, "liver": 2}, {"kidneys": True, "liver": True}, "s7") == {"kidneys": 64, "liver": 1}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("s7: kidneys: a component of 64 voxels is removed beside the largest one of 125; ")
