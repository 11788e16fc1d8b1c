"""To RAS and back is exact, whichever way the axes lie."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from arena_pipeline.errors import ImageError
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.labels import bounding_box
from arena_pipeline.io.orientation import to_ras
from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation, window_to_unit_
from arena_pipeline.preprocess.grid import GridMap

SCHEME = Scheme(spacing_mm=(1.5, 1.5, 1.5), window_hu=(-175, 250), patch_size_voxels=(96, 96, 96))
ALL_48 = [np.eye(3)[:, order] * signs for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
ANGLE = np.deg2rad(25)
OBLIQUE = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])


def affine_of(direction: np.ndarray, spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = direction @ np.diag(spacing)
    affine[:3, 3] = (3, -4, 5)
    return affine


@pytest.mark.parametrize("direction", [*ALL_48, *(OBLIQUE @ d for d in ALL_48)])
def test_there_and_back_is_the_same_array_and_there_is_nibabels_canonical(direction: np.ndarray) -> None:
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    ras, order = to_ras(array, affine_of(direction))
    assert np.array_equal(ras, np.asanyarray(nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int16), affine_of(direction))).dataobj))
    back = order.undo(ras)
    assert np.array_equal(back, array)
    assert np.shares_memory(ras, array)
    assert np.array_equal(order.undo(order.apply(array).copy()), array)


@pytest.mark.parametrize("direction", ALL_48)
def test_the_same_patient_gives_the_same_volume_in_all_48_orientations(direction: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    ras = rng.integers(-1000, 500, (12, 13, 14)).astype(np.int16)
    reference, _ = preprocess_image(Image(ras, Geometry(ras.shape, affine_of(np.eye(3), (1.0, 2.0, 3.0)))), SCHEME)
    # bring the RAS volume into the orientation: axis j of the array lies along the patient axis where column j is not 0
    axes = [int(np.flatnonzero(direction[:, j])[0]) for j in range(3)]
    native = ras.transpose(axes)[tuple(slice(None, None, -1 if direction[:, j].sum() < 0 else 1) for j in range(3))]
    spacing = tuple((1.0, 2.0, 3.0)[axis] for axis in axes)
    image = Image(np.ascontiguousarray(native), Geometry(native.shape, affine_of(direction, spacing)))
    volume, grid = preprocess_image(image, SCHEME)
    assert np.array_equal(volume, reference)
    assert grid.native_spacing_mm == pytest.approx((1.0, 2.0, 3.0))
    assert grid.ras_shape == ras.shape
    assert grid.native_shape == native.shape


def test_at_the_schemes_spacing_nothing_but_order_and_crop_change() -> None:
    array = np.full((10, 11, 12), -1000, np.int16)
    array[2:7, 3:9, 4:6] = 100
    labels = (array > 0).astype(np.uint16) * 300
    geometry = Geometry(array.shape, affine_of(np.diag([-1.0, -1, 1]), (1.5, 1.5, 1.5)))
    volume, grid = preprocess_image(Image(array, geometry), SCHEME)
    assert grid == GridMap(
        native_shape=(10, 11, 12),
        axes=(0, 1, 2),
        flips=(True, True, False),
        native_spacing_mm=(1.5, 1.5, 1.5),
        scheme_spacing_mm=(1.5, 1.5, 1.5),
        resampled_shape=(10, 11, 12),
        crop_start=(3, 2, 4),
        crop_stop=(8, 8, 6),
    )
    assert grid.cropped_shape == volume.shape == (5, 6, 2)
    assert volume == pytest.approx((100 + 175) / 425)
    segmentation = preprocess_segmentation(labels, grid)
    assert segmentation.dtype == np.uint16
    assert (segmentation == 300).all()
    assert GridMap.model_validate_json(grid.model_dump_json()) == grid


def test_nothing_above_the_window_and_a_foreign_segmentation_are_errors() -> None:
    geometry = Geometry((4, 5, 6), affine_of(np.eye(3)))
    with pytest.raises(ImageError, match=r"nothing to see.*\(-1000 to -1000 after resampling\).*-175 HU"):
        preprocess_image(Image(np.full((4, 5, 6), -1000, np.int16), geometry), SCHEME)
    _, grid = preprocess_image(Image(np.zeros((4, 5, 6), np.int16), geometry), SCHEME)
    with pytest.raises(ImageError, match="does not fit"):
        preprocess_segmentation(np.zeros((4, 5, 7), np.uint8), grid)


def test_window_and_box_by_hand() -> None:
    assert window_to_unit_(np.array([-1000, -175, 37.5, 250, 3000], np.float32), (-175, 250)).tolist() == [0, 0, 0.5, 1, 1]
    mask = np.zeros((5, 6, 7), bool)
    assert bounding_box(mask) is None
    mask[1, 5, 2] = mask[3, 4, 6] = True
    assert bounding_box(mask) == (slice(1, 4), slice(4, 6), slice(2, 7))


def test_a_voxel_of_a_tilted_gantry_has_the_volume_of_its_axes() -> None:
    """Slices 2 mm apart along an axis at 30 degrees: cos 30 of the product of the spacings, preprocessed as it is."""
    tilted = np.diag([1.0, 1.0, 2.0, 1.0])
    tilted[:3, 2] = [0, 2 * np.sin(np.pi / 6), 2 * np.cos(np.pi / 6)]
    _, grid = preprocess_image(Image(np.zeros((6, 6, 6), np.int16), Geometry((6, 6, 6), tilted)), SCHEME)
    assert grid.voxel_volume_ml == pytest.approx(np.prod(grid.scheme_spacing_mm) * np.cos(np.pi / 6) / 1000, rel=1e-5)
    assert GridMap.model_validate(grid.model_dump(exclude={"slant"})).slant == 1  # as cases stored by older versions
