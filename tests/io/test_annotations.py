from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scipy import ndimage

from arena_pipeline.errors import ArenaError
from arena_pipeline.io.dicom import find_series, only_series, series_geometry
from arena_pipeline.io.dicom.annotations import find_annotations, read_annotation, read_region_masks, series_of
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.images import read_geometry, read_segmentation
from arena_pipeline.predict.dicom_seg import write_dicom_seg
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.rtstruct import write_rtstruct

SHAPE = (24, 20, 9)
PATIENT = ("Mustermann", "Erika", "4711-0815", "19640812", "ACC99887", "1.2.826.0.1.3680043.8.498.1")


@pytest.fixture(params=[write_rtstruct, write_dicom_seg])
def annotated(tmp_path: Path, write_ct_series: Any, request: pytest.FixtureRequest) -> tuple[Path, Geometry]:
    """An RTSTRUCT or a SEG of two structures, one with a hole, and the grid of its CT."""
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16))
    array = np.zeros(SHAPE, np.uint8)
    array[3:12, 3:12, 1:8], array[6:9, 6:9, 2:7], array[14:20, 5:15, 2:6] = 1, 0, 2
    request.param(tmp_path / "labels.dcm", array, only_series(tmp_path / "ct"), LabelMap.of({"liver": 1, "spleen": 2}, {}))
    return tmp_path / "labels.dcm", series_geometry(only_series(tmp_path / "ct"))


def test_a_damaged_file_is_refused_or_read_as_it_says(annotated: tuple[Path, Geometry]) -> None:
    rng, (file, geometry) = random.Random(1), annotated
    whole, outcomes = file.read_bytes(), set[object]()
    for trial in range(60):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if trial % 4 == 0 else whole)
        for _ in range(rng.randrange(1, 5) if damaged else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(bytes(damaged))
        try:
            annotation = read_annotation(file)
            outcomes |= {mask.array.shape for mask in read_region_masks(file, annotation.names, geometry, 10)}
        except ArenaError as fault:
            assert not [value for value in PATIENT if value in str(fault)]
            outcomes.add("refused")
    assert outcomes >= {"refused", SHAPE}


def _places(dataset: Dataset, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every tag, with those of the sequences around it; of a sequence the first item."""
    for element in dataset:
        yield (*above, element.tag)
        if element.VR == "SQ" and element.value:
            yield from _places(element.value[0], (*above, element.tag))


def test_a_file_without_any_one_of_its_tags_too(tmp_path: Path, annotated: tuple[Path, Geometry]) -> None:
    (file, geometry), refused = annotated, 0
    for *above, tag in list(_places(pydicom.dcmread(file))):
        whole = part = pydicom.dcmread(file)
        for sequence in above:
            part = part[sequence].value[0]
        del part[tag]
        whole.save_as(tmp_path / "less.dcm")
        try:
            annotation = read_annotation(tmp_path / "less.dcm")
            assert all(mask.array.shape == SHAPE for mask in read_region_masks(annotation.path, annotation.names, geometry, 10))
        except ArenaError:
            refused += 1
    assert refused > 3


def test_two_rois_of_one_name_are_one_region(tmp_path: Path, write_ct_series: Any) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16))
    array = np.zeros(SHAPE, np.uint8)
    array[3:12, 3:12, 1:8], array[14:20, 5:15, 2:6] = 1, 2
    series = only_series(tmp_path / "ct")
    write_rtstruct(tmp_path / "labels.dcm", array, series, LabelMap.of({"liver": 1, "spleen": 2}, {}))
    dataset = pydicom.dcmread(tmp_path / "labels.dcm")
    dataset.StructureSetROISequence[1].ROIName = "liver"
    dataset.ROIContourSequence[1].ContourSequence.extend(dataset.ROIContourSequence[0].ContourSequence)  # drawn by both: no hole
    dataset.save_as(tmp_path / "labels.dcm")
    (mask,) = read_region_masks(tmp_path / "labels.dcm", ["liver"], series_geometry(series), 0)
    assert np.array_equal(mask.array, array > 0)


def test_published_contours_and_masks(real_data: Path) -> None:
    """The masks are another program's, which takes voxels that a contour only touches: larger by a rim, and without the narrowest clefts."""
    folder = real_data / "dicom" / "abdomen_rtstruct"
    annotation, geometry = read_annotation(folder / "rtstruct.dcm"), read_geometry(folder / "ct")
    for mask in read_region_masks(annotation.path, annotation.names, geometry, 10):
        published = read_segmentation(folder / "masks" / f"{mask.name.lower()}.nii.gz").array > 0
        inner = np.stack([ndimage.binary_erosion(plane, np.ones((3, 3))) for plane in np.moveaxis(published, 2, 0)], axis=2)
        assert (inner & ~mask.array).sum() < 1e-3 * inner.sum(), mask.name
        assert 2 * (mask.array & published).sum() / (mask.array.sum() + published.sum()) > 0.96, mask.name
        assert not mask.notes


def test_segmentations_of_dcmqi(real_data: Path) -> None:
    folder = real_data / "dicom" / "odd" / "dcmqi_seg"
    series, left_out = find_series(folder)
    _, (fault,) = find_annotations(left_out)
    assert "sparse-labelmap-ppv5.dcm: another content than sparse-labelmap-noppv.dcm under the same UID" in str(fault)
    for name, reference in {
        "liver.dcm": "liver_seg.nrrd",
        "23x38x3/seg/label.seg": "23x38x3/nrrd/label.nrrd",
        "sparse-labelmap-noppv.dcm": "sparse_labelmap_noppv_seg.nrrd",
        "sparse-labelmap-ppv5.dcm": "sparse_labelmap_ppv5_seg.nrrd",
    }.items():
        file = read_annotation(folder / name)
        (mask,) = read_region_masks(file.path, file.names, read_geometry(series_of(file, series)), 0)
        assert np.array_equal(mask.array, read_segmentation(folder / reference).array == 1), name
