from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from arena_pipeline.errors import ImageError
from arena_pipeline.io.damage import damage
from arena_pipeline.io.dicom import find_series, only_series, read_series
from arena_pipeline.io.dicom.annotations import find_annotations, read_region_masks, series_of
from arena_pipeline.predict.dicom_seg import write_dicom_seg
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.rtstruct import write_rtstruct

SHAPE = (32, 25, 6)
CORONAL, SAGITTAL, FEET_FIRST = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)
LABELS = LabelMap.of({"liver": 1, "kidney_left": 3, "my_structure": 4, "spleen": 5}, {"foundation": "arena_mini"})


def segmentation(rng: np.random.Generator) -> np.ndarray:
    """Blobs with holes and islands, to the edges of the volume; nothing of label 5."""
    array = np.digitize(ndimage.gaussian_filter(rng.normal(size=SHAPE), (1.5, 1.5, 0)), [0.05, 0.2]).astype(np.uint8)
    return np.array([1, 0, 3], np.uint8)[array] + 4 * (np.arange(SHAPE[2]) == 5).astype(np.uint8) * (array == 1)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), CORONAL, SAGITTAL, FEET_FIRST, (0.8, 0.6, 0, -0.6, 0.8, 0)])
def test_the_contours_hold_exactly_the_voxels(tmp_path: Path, write_ct_series: Any, rng: np.random.Generator, orientation: tuple[float, ...]) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), orientation=orientation)
    expected = segmentation(rng)
    write_rtstruct(tmp_path / "a.rtstruct.dcm", expected, only_series(tmp_path / "ct"), LABELS)
    series, left_out = find_series(tmp_path)
    (annotation,), faults = find_annotations(left_out)
    assert (annotation.names, annotation.empty, faults) == (("liver", "kidney_left", "my_structure"), ("spleen",), [])
    assert series_of(annotation, series) == series[0]
    for mask in read_region_masks(annotation.path, annotation.names, read_series(series[0]).geometry, 0):
        assert np.array_equal(mask.array, expected == LABELS.structures[mask.name]), mask.name


def test_every_contour_lies_in_the_slice_it_refers_to(tmp_path: Path, write_ct_series: Any, rng: np.random.Generator) -> None:
    files = write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), orientation=SAGITTAL)
    slices = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, files)}
    write_rtstruct(tmp_path / "a.dcm", segmentation(rng), only_series(tmp_path / "ct"), LABELS)
    made = pydicom.dcmread(tmp_path / "a.dcm")
    source = next(iter(slices.values()))
    for tag in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert made[tag].value == source[tag].value
    (frame,) = made.ReferencedFrameOfReferenceSequence
    (referenced,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert {image.ReferencedSOPInstanceUID for image in referenced.ContourImageSequence} == set(slices)
    normal = np.cross(SAGITTAL[:3], SAGITTAL[3:])
    for item in made.ROIContourSequence:
        for contour in item.get("ContourSequence") or []:
            place = np.array(slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID].ImagePositionPatient, float)
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints >= 3
            assert np.allclose((points - place) @ normal, 0, atol=2e-3)
            assert all(len(value) <= 16 for value in map(str, contour.ContourData))
    liver, kidney, *_ = made.RTROIObservationsSequence
    assert liver.RTROIIdentificationCodeSequence[0].CodeValue == "10200004"
    assert kidney.RTROIIdentificationCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


def test_a_series_without_frame_of_reference_has_none_to_refer_to(tmp_path: Path, write_ct_series: Any, rng: np.random.Generator) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), edit=lambda _, dataset: delattr(dataset, "FrameOfReferenceUID"))
    with pytest.raises(ImageError, match="without FrameOfReferenceUID"):
        write_rtstruct(tmp_path / "a.dcm", segmentation(rng), only_series(tmp_path / "ct"), LABELS)


@pytest.mark.parametrize("kind", ["rtstruct", "seg", "labelmap"])
def test_a_file_that_was_cut_short_is_seen(tmp_path: Path, write_ct_series: Any, rng: np.random.Generator, kind: str) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16))
    file, series = tmp_path / "a.dcm", only_series(tmp_path / "ct")
    if kind == "rtstruct":
        write_rtstruct(file, segmentation(rng), series, LABELS)
    else:
        write_dicom_seg(file, segmentation(rng), series, LABELS, labelmap=kind == "labelmap")
    assert damage(file) is None
    content = file.read_bytes()
    for length in (0, 200, len(content) // 3, len(content) - 100, len(content) - 12):
        file.write_bytes(content[:length])
        assert damage(file) is not None, length
