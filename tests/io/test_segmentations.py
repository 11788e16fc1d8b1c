"""Segmentations that are right although they are stored oddly are read as what they are; those that contradict dataset.json are refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.io.segmentations import read_case_segmentation

SHAPE = (5, 6, 7)
LABELS = {"background": 0, "liver": 1, "Left kidney": 2}
GRID = Geometry(SHAPE, np.array([[0.8, 0, 0, -17], [0, 0.9, 0, 33], [0, 0, 2.5, 120], [0, 0, 0, 1.0]]))


def label_map() -> np.ndarray:
    return np.arange(210).reshape(SHAPE) % 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_whole_numbers_that_nibabel_stores_with_an_inexact_slope_are_read_as_those(tmp_path: Path, dtype: type) -> None:
    image = nib.Nifti1Image(label_map().astype(np.float64), GRID.affine)
    image.set_data_dtype(dtype)  # as if a file of integers were edited as float
    nib.save(image, tmp_path / "mask.nii.gz")
    assert not np.array_equal(nib.load(tmp_path / "mask.nii.gz").get_fdata(), label_map())
    read = read_case_segmentation("a", tmp_path / "mask.nii.gz", GRID, LABELS)
    assert read.array.dtype == np.uint8
    assert np.array_equal(read.array, label_map())
    assert [fix.split(" of ")[0] for fix in read.fixes] == ["stored with a slope"]


@pytest.mark.parametrize(("stored", "slope"), [(128, 1 / 255), (1, 0.5), (4, 0.4), (1, 1.2)])
def test_values_that_the_slope_does_not_explain_are_refused(tmp_path: Path, stored: int, slope: float) -> None:
    image = nib.Nifti1Image(np.full(SHAPE, stored, np.uint8), GRID.affine)
    image.header.set_slope_inter(slope, 0)
    nib.save(image, tmp_path / "mask.nii.gz")
    with pytest.raises(ImageError, match="not whole numbers"):
        read_segmentation(tmp_path / "mask.nii.gz")


@pytest.mark.parametrize("order", [[[0, -1], [1, 1], [2, 1]], [[1, 1], [0, 1], [2, 1]], [[2, -1], [0, 1], [1, -1]]])
def test_a_mask_with_other_axes_over_the_same_voxels_is_turned_to_the_cts(tmp_path: Path, order: list[list[int]]) -> None:
    turned = nib.Nifti1Image(label_map().astype(np.uint8), GRID.affine).as_reoriented(np.array(order))
    nib.save(turned, tmp_path / "mask.nii.gz")
    read = read_case_segmentation("a", tmp_path / "mask.nii.gz", GRID, LABELS)
    assert np.array_equal(read.array, label_map())
    (fix,) = read.fixes
    assert "where the CT's run RAS, over the same voxels; turned to the CT's" in fix


def test_a_turned_mask_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    turned = nib.Nifti1Image(label_map().astype(np.uint8), GRID.affine).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    moved = turned.affine.copy()
    moved[0, 3] += 0.8  # by a voxel
    nib.save(nib.Nifti1Image(np.asanyarray(turned.dataobj), moved), tmp_path / "mask.nii.gz")
    with pytest.raises(DatasetError, match="a: label grid differs from the CT: direction RAS"):
        read_case_segmentation("a", tmp_path / "mask.nii.gz", GRID, LABELS)


def test_layers_of_overlapping_segments_are_refused(tmp_path: Path) -> None:
    layer = sitk.GetImageFromArray(label_map().astype(np.uint8))
    sitk.WriteImage(sitk.Compose(layer, layer), str(tmp_path / "mask.nrrd"))
    with pytest.raises(ImageError, match="one number per voxel, found 3 dimensions of 2; .*or one label map whose structures don't overlap"):
        read_segmentation(tmp_path / "mask.nrrd")


def write_slicer(path: Path, segments: dict[str, int]) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(label_map().astype(np.uint8).transpose(2, 1, 0)))
    image.SetSpacing(GRID.spacing_mm)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    image.SetOrigin((17, -33, 120))
    for index, (name, value) in enumerate(segments.items()):
        image.SetMetaData(f"Segment{index}_Name", name)
        image.SetMetaData(f"Segment{index}_LabelValue", str(value))
    sitk.WriteImage(image, str(path))


def test_segment_names_that_contradict_dataset_json_are_refused(tmp_path: Path) -> None:
    write_slicer(tmp_path / "mask.nrrd", {"Liver": 1, "left_kidney": 2, "Segment_3": 9})
    assert np.array_equal(read_case_segmentation("a", tmp_path / "mask.nrrd", GRID, LABELS).array, label_map())
    write_slicer(tmp_path / "mask.nrrd", {"liver": 2, "left kidney": 1})
    with pytest.raises(DatasetError, match="the header says that liver is 2, dataset.json says that liver is 1; correct labels") as caught:
        read_case_segmentation("a", tmp_path / "mask.nrrd", GRID, LABELS)
    assert (caught.value.case, caught.value.file) == ("a", tmp_path / "mask.nrrd")
