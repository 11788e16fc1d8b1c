"""The preprocessed grid and values are those of the MONAI chain that the foundations were trained behind."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Orientationd, ScaleIntensityRanged, Spacingd

from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation
from arena_pipeline.preprocess.grid import GridMap

SCHEME = Scheme(spacing_mm=(1.5, 1.5, 1.5), window_hu=(-175, 250), patch_size_voxels=(96, 96, 96))


def tensor(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.as_tensor(array.astype(np.float32))[None], affine)


def monai_chain(image: np.ndarray, segmentation: np.ndarray, affine: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    chain = Compose(
        [
            Orientationd(["image", "label"], axcodes="RAS", labels=None),
            Spacingd(["image", "label"], pixdim=scheme.spacing_mm, mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", *scheme.window_hu, b_min=0.0, b_max=1.0, clip=True),
            CropForegroundd(["image", "label"], source_key="image", allow_smaller=True),
        ]
    )
    result = chain({"image": tensor(image, affine), "label": tensor(segmentation, affine)})
    return result["image"][0].numpy(), result["label"][0].numpy()


def body(shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Air all round, noisy tissue and bone inside, one label map of three."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    image = np.where(radius < 0.8, rng.normal(40, 200, shape), -1000 + rng.normal(0, 10, shape)).astype(np.int16)
    labels = np.where(radius < 0.6, 1 + (grid[0] > 0) + (grid[2] > 0.2), 0).astype(np.uint8)
    return image, labels


def affine_of(codes: str, spacing: tuple[float, float, float], degrees: float = 0.0) -> np.ndarray:
    """Axes that point to `codes`, with `spacing` along the array's own axes, turned about z and x by `degrees`."""
    a = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    orientation = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (1, 1, 1))[:3, :3]
    affine[:3, :3] = about_z @ about_x @ np.linalg.inv(orientation) @ np.diag(spacing)
    affine[:3, 3] = (-120.3, 77.7, -1033)
    return affine


def without_ties(array: np.ndarray, grid: GridMap) -> np.ndarray:
    """The planes that do not lie exactly half-way between two native voxels, where MONAI's arithmetic noise chooses the label."""
    for axis in range(3):
        position = np.arange(grid.crop_start[axis], grid.crop_stop[axis]) * (grid.scheme_spacing_mm[axis] / grid.native_spacing_mm[axis])
        array = array.compress(np.abs(position % 1 - 0.5) > 1e-6, axis)
    return array


@pytest.mark.parametrize(
    ("shape", "spacing", "codes", "degrees"),
    [
        ((41, 37, 29), (0.8, 0.8, 2.5), "RAS", 0),
        ((40, 52, 23), (0.7, 0.7, 5.0), "LPS", 0),
        ((31, 33, 35), (3.0, 3.0, 3.0), "RAS", 0),  # up only
        ((61, 47, 53), (0.9, 0.65, 1.1), "LAS", 0),  # down only
        ((27, 61, 43), (2.5, 0.8, 0.8), "SPL", 0),  # sagittal
        ((61, 47, 53), (0.85, 0.85, 1.95), "PIR", 0),  # coronal, no ties
        ((45, 39, 51), (1.5, 1.5, 1.5), "LPS", 0),  # nothing to resample
        ((45, 39, 51), (1.5004, 1.4996, 2.0), "RAS", 0),  # as good as nothing in the plane
        ((47, 41, 31), (0.85, 0.85, 3.2), "LPS", 17),
        ((33, 29, 37), (1.9, 1.9, 1.25), "RAS", -8),
    ],
)
def test_values_grid_and_labels_are_monais(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], codes: str, degrees: float, rng: np.random.Generator
) -> None:
    image, labels = body(shape, rng)
    affine = affine_of(codes, spacing, degrees)
    expected_image, expected_labels = monai_chain(image, labels, affine, SCHEME)

    found, grid = preprocess_image(Image(image, Geometry(shape, affine)), SCHEME)
    found_labels = preprocess_segmentation(labels, grid)

    assert found.shape == expected_image.shape
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.abs(found - expected_image).max() < 1e-4
    assert found_labels.dtype == np.uint8
    assert found_labels.shape == expected_labels.shape
    assert np.array_equal(without_ties(found_labels, grid), without_ties(expected_labels, grid))
    assert without_ties(found_labels, grid).size > 0.1 * found_labels.size


def test_another_scheme_too(rng: np.random.Generator) -> None:
    scheme = Scheme(spacing_mm=(2.0, 3.0, 4.0), window_hu=(-1000, 400), patch_size_voxels=(32, 32, 32))
    image, labels = body((50, 44, 36), rng)
    affine = affine_of("LPS", (0.9, 0.9, 2.7))
    expected, expected_labels = monai_chain(image, labels, affine, scheme)
    found, grid = preprocess_image(Image(image, Geometry(image.shape, affine)), scheme)
    assert np.abs(found - expected).max() < 1e-4
    assert np.array_equal(without_ties(preprocess_segmentation(labels, grid), grid), without_ties(expected_labels, grid))


@pytest.mark.parametrize("memory_order", ["C", "F"])
def test_memory_order_and_threads_change_nothing(memory_order: str, rng: np.random.Generator) -> None:
    image, _ = body((41, 37, 29), rng)
    geometry = Geometry(image.shape, affine_of("LPS", (0.8, 0.8, 2.5)))
    reference, grid = preprocess_image(Image(np.ascontiguousarray(image), geometry), SCHEME)
    found, found_grid = preprocess_image(Image(np.asarray(image, order=memory_order), geometry), SCHEME, threads=3)
    assert np.array_equal(found, reference)
    assert found_grid == grid
