"""Corner-aligned resampling, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from arena_pipeline.io.nearest import effective_spacing, resample_nearest, resampled_size
from arena_pipeline.preprocess.resample import neighbours, resample_linear


@pytest.mark.parametrize(
    ("n", "old", "new", "expected"),
    [
        (512, 0.8, 1.5, 274),  # 511 * 0.8 / 1.5 = 272.53
        (200, 2.5, 1.5, 333),  # 199 * 2.5 / 1.5 = 331.67
        (512, 0.7, 1.5, 239),  # 238.47
        (5, 3.0, 1.5, 9),
        (1, 5.0, 1.5, 1),
        (6, 0.75, 1.5, 4),  # 2.5: a tie; 3.5 rounds to 4
        (4, 0.75, 1.5, 2),  # 1.5: a tie; 2.5 rounds to 2
    ],
)
def test_sizes_worked_out_by_hand(n: int, old: float, new: float, expected: int) -> None:
    assert resampled_size(n, old, new) == expected


def test_linear_values_worked_out_by_hand() -> None:
    line = np.array([0, 10, 40, 100], np.int16)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 4
        spacing = [1.0, 1.0, 1.0]
        spacing[axis] = 2.0
        up = resample_linear(line.reshape(shape), tuple(spacing), (1.0, 1.0, 1.0))
        assert up.ravel().tolist() == [0, 5, 10, 25, 40, 70, 100]
        assert up.shape[axis] == 7
        spacing[axis] = 1.0
        target = [1.0, 1.0, 1.0]
        target[axis] = 1.5
        assert resample_linear(line.reshape(shape), tuple(spacing), tuple(target)).ravel().tolist() == [0, 25, 100]


def test_beyond_the_last_voxel_its_value_holds() -> None:
    # 3 * 1.0 / 1.6 = 1.875: three voxels, the last at 3.2, past the input's last
    assert resample_linear(np.array([0.0, 10, 20, 30]).reshape(4, 1, 1), (1, 1, 1), (1.6, 1, 1)).ravel() == pytest.approx([0, 16, 30])


def test_a_constant_stays_that_constant_exactly() -> None:
    constant = np.full((20, 21, 22), -175, np.int16)
    assert (resample_linear(constant, (0.83, 0.83, 2.6), (1.5, 1.5, 1.5)) == -175).all()


def test_a_linear_field_is_reproduced(rng: np.random.Generator) -> None:
    x, y, z = np.meshgrid(*(np.arange(n) * s for n, s in zip((15, 16, 17), (0.8, 1.1, 2.5), strict=True)), indexing="ij")
    out = resample_linear(3 * x - 2 * y + 5 * z, (0.8, 1.1, 2.5), (1.5, 1.5, 1.5))
    inside = tuple(slice(0, n - 1) for n in out.shape)  # the last may lie outside, where the edge value holds
    x, y, z = np.meshgrid(*(np.arange(n) * 1.5 for n in out.shape), indexing="ij")
    assert np.allclose(out[inside], (3 * x - 2 * y + 5 * z)[inside], atol=1e-3)


def test_views_turned_round_give_what_their_copies_give(rng: np.random.Generator) -> None:
    array = rng.normal(size=(9, 14, 11))
    view = array.transpose(2, 0, 1)[::-1, :, ::-1]
    spacing = (0.8, 2.5, 1.1)
    assert np.array_equal(resample_linear(view, spacing, (1.5,) * 3), resample_linear(view.copy(), spacing, (1.5,) * 3))


def test_nearest_by_hand_and_a_tie_takes_the_even_voxel() -> None:
    line = np.arange(8, dtype=np.uint8).reshape(8, 1, 1)
    # positions 0, 1.875, 3.75, 5.625, 7.5 -> clamped to 7
    assert resample_nearest(line, (0.8, 1, 1), (1.5, 1, 1)).ravel().tolist() == [0, 2, 4, 6, 7]
    # positions 0, 1.5, 3, 4.5, 6, 7.5
    assert resample_nearest(line, (1.0, 1, 1), (1.5, 1, 1)).ravel().tolist() == [0, 2, 3, 4, 6, 7]


def test_nearly_equal_spacings_are_equal() -> None:
    assert effective_spacing((1.5004, 1.5, 1.502), (1.5, 1.5, 1.5)) == (1.5004, 1.5, 1.5)
    array = np.arange(27.0).reshape(3, 3, 3)
    assert np.array_equal(resample_linear(array, (1.5004,) * 3, (1.5,) * 3), array)


def test_neighbours_stay_inside() -> None:
    lower, upper, weight = neighbours(4, 5, 1.0)
    assert (lower.tolist(), upper.tolist(), weight.tolist()) == ([0, 1, 2, 2, 2], [1, 2, 3, 3, 3], [0, 0, 0, 1, 1])
    lower, upper, weight = neighbours(1, 2, 0.3)
    assert (lower.tolist(), upper.tolist(), weight.tolist()) == ([0, 0], [0, 0], [0, 0])
