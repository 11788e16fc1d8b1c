"""Back to the native grid: against scipy's interpolation, against all channels resampled at once, and in every orientation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from scipy import ndimage

from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.predict.export import RunningMaximum, restore_probability
from arena_pipeline.preprocess.case import preprocess_image
from arena_pipeline.preprocess.grid import GridMap

SCHEME = Scheme(spacing_mm=(1.5, 1.5, 1.5), window_hu=(-175, 250), patch_size_voxels=(32, 32, 32))


def make_grid(axes: tuple[int, int, int] = (0, 1, 2), flips: tuple[bool, bool, bool] = (False, False, False)) -> GridMap:
    """A native RAS grid of 90 x 70 x 50 at 0.8 x 0.9 x 2.5 mm; resampled 48 x 42 x 83, a part of which is kept."""
    ras_shape = (90, 70, 50)
    native = [0, 0, 0]
    for ras, axis in enumerate(axes):
        native[axis] = ras_shape[ras]
    return GridMap(
        native_shape=tuple(native), axes=axes, flips=flips, native_spacing_mm=(0.8, 0.9, 2.5), scheme_spacing_mm=(1.5, 1.5, 1.5),
        resampled_shape=(48, 42, 83), crop_start=(3, 0, 10), crop_stop=(44, 42, 80),
    )  # fmt: skip


def smooth_softmax(shape: tuple[int, int, int], channels: int, seed: int = 0) -> np.ndarray:
    """Blobs of every channel over a mostly winning background."""
    rng = np.random.default_rng(seed)
    logits = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 3) for _ in range(channels)]) * 60
    logits[0] += 4
    exponential = np.exp(logits - logits.max(axis=0))
    return (exponential / exponential.sum(axis=0)).astype(np.float32)


def by_scipy(channel: np.ndarray, grid: GridMap, outside: float) -> np.ndarray:
    """The same definition in other words: the resampled volume filled with `outside` around the crop, interpolated at every native voxel."""
    resampled = np.full(grid.resampled_shape, outside)
    resampled[grid.crop] = channel
    ratio = np.divide(grid.native_spacing_mm, grid.scheme_spacing_mm)
    ras = ndimage.affine_transform(resampled, ratio, output_shape=grid.ras_shape, order=1, mode="nearest")
    return grid.axis_order.undo(ras)


@pytest.mark.parametrize("outside", [0.0, 1.0])
@pytest.mark.parametrize("axes, flips", [((0, 1, 2), (False, False, False)), ((2, 0, 1), (True, False, True))])
def test_probability_equals_scipys_interpolation(axes: tuple[int, int, int], flips: tuple[bool, bool, bool], outside: float) -> None:
    grid = make_grid(axes, flips)
    channel = np.random.default_rng(0).random(grid.cropped_shape, dtype=np.float32)
    found = restore_probability(channel, grid, outside)
    assert found.shape == grid.native_shape
    np.testing.assert_allclose(found, by_scipy(channel, grid, outside), atol=2e-6)


def restore_segmentation(channels: Iterable[tuple[int, np.ndarray]], grid: GridMap, rival: np.ndarray | float, workers: int = 1) -> np.ndarray:
    maximum = RunningMaximum(grid, rival, workers)
    for label, probability in channels:
        maximum.add(label, probability)
    return maximum.segmentation


def test_linear_in_one_axis_by_hand() -> None:
    # Native voxels 1 mm apart, preprocessed 2 mm apart: native 0, 1, 2, 3, 4 lie at 0, 0.5, 1, 1.5, 2; the crop keeps 1 and 2.
    grid = GridMap(
        native_shape=(5, 1, 1), axes=(0, 1, 2), flips=(False, False, False), native_spacing_mm=(1, 2, 2), scheme_spacing_mm=(2, 2, 2),
        resampled_shape=(3, 1, 1), crop_start=(1, 0, 0), crop_stop=(3, 1, 1),
    )  # fmt: skip
    channel = np.array([0.8, 0.2], dtype=np.float32)[:, None, None]
    np.testing.assert_allclose(restore_probability(channel, grid).ravel(), [0, 0.4, 0.8, 0.5, 0.2], atol=1e-6)
    np.testing.assert_allclose(restore_probability(channel, grid, outside=1.0).ravel(), [1, 0.9, 0.8, 0.5, 0.2], atol=1e-6)
    assert restore_segmentation(iter([(1, channel)]), grid, 0.45).ravel().tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("workers", [1, 3])
def test_softmax_equals_all_channels_resampled_then_argmax(workers: int) -> None:
    grid = make_grid((1, 2, 0), (True, True, False))
    probabilities = smooth_softmax(grid.cropped_shape, 6)
    full = np.stack([restore_probability(p, grid, outside=float(channel == 0)) for channel, p in enumerate(probabilities)])
    expected = full.argmax(axis=0)
    found = restore_segmentation(((label, probabilities[label]) for label in range(1, 6)), grid, probabilities[0], workers)
    assert np.unique(expected).tolist() == [0, 1, 2, 3, 4, 5]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_binary_tasks_merge_by_the_highest_above_the_threshold() -> None:
    grid = make_grid()
    probabilities = 1 - smooth_softmax(grid.cropped_shape, 4, seed=1)  # they overlap: a voxel may be above 0.5 in several
    full = np.stack([restore_probability(p, grid) for p in probabilities])
    expected = np.where(full.max(axis=0) > 0.5, full.argmax(axis=0) + 1, 0)
    assert ((full > 0.5).sum(axis=0) > 1).any()
    found = restore_segmentation(((label, p) for label, p in enumerate(probabilities, start=1)), grid, 0.5)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_structure_with_rivals_is_interpolated_before_it_is_held_against_them(workers: int) -> None:
    grid = make_grid((1, 2, 0), (True, True, False))
    first, second = np.log(smooth_softmax(grid.cropped_shape, 5)), np.log(smooth_softmax(grid.cropped_shape, 3, seed=1))
    maximum, leads = RunningMaximum(grid, 0.0, workers), []
    for label, (own, *rivals) in enumerate((first, second), start=1):
        maximum.add(label, own, rivals)
        leads.append(restore_probability(own, grid) - np.max([restore_probability(rival, grid, outside=1.0) for rival in rivals], axis=0))
    expected = np.where(np.max(leads, axis=0) > 0, np.argmax(leads, axis=0) + 1, 0)
    assert np.unique(expected).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(maximum.segmentation, expected)
    at_once = [restore_probability(own - np.max(rivals, axis=0), grid) for own, *rivals in (first, second)]
    assert ((np.max(at_once, axis=0) > 0) != (expected > 0)).any()  # which interpolating the lead would not give


def test_a_tie_goes_to_the_lowest_label_and_half_is_not_above_half() -> None:
    grid = make_grid()
    same = np.full(grid.cropped_shape, 0.75, dtype=np.float32)
    found = restore_segmentation(iter([(2, same), (5, same.copy())]), grid, 0.5)
    assert np.unique(found).tolist() == [0, 2]
    half = np.full(grid.cropped_shape, 0.5, dtype=np.float32)
    assert not restore_segmentation(iter([(1, half)]), grid, 0.5).any()


def test_no_tile_is_kept_where_nothing_can_win() -> None:
    grid = make_grid()
    background = np.ones(grid.cropped_shape, dtype=np.float32)
    structure = np.zeros_like(background)
    structure[5, 5, 5], background[5, 5, 5] = 1, 0
    maximum = RunningMaximum(grid, background)
    maximum.add(1, structure)
    assert maximum.segmentation.sum() > 0
    assert len(maximum._best) == 1


def test_labels_must_ascend() -> None:
    grid = make_grid()
    maximum = RunningMaximum(grid, 0.5)
    maximum.add(3, np.zeros(grid.cropped_shape, dtype=np.float32))
    with pytest.raises(ValueError, match="label 2 after 3"):
        maximum.add(2, np.zeros(grid.cropped_shape, dtype=np.float32))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_every_orientation_comes_back_on_its_own_grid(axes: tuple[int, int, int]) -> None:
    """A box in mm, found in the preprocessed volume and restored, is the box's voxels in the native array; 48 orientations in all."""
    for signs in itertools.product((1, -1), repeat=3):
        spacing = (1.0, 1.5, 2.0)
        affine = np.eye(4)
        affine[:3, :3] = 0
        for native, ras in enumerate(axes):
            affine[ras, native] = signs[native] * spacing[native]
        array = np.full((40, 30, 20), -1000, dtype=np.int16)
        array[8:30, 9:21, 6:14] = 40
        image = Image(array, Geometry(array.shape, affine))
        volume, grid = preprocess_image(image, SCHEME.model_copy(update={"spacing_mm": (0.5, 0.5, 0.5)}))
        found = restore_segmentation(iter([(1, volume)]), grid, 0.5 * (40 + 175) / 425)
        np.testing.assert_array_equal(found, array == 40)
