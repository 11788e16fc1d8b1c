from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr.codedict import codes

from arena_pipeline.errors import ImageError
from arena_pipeline.io.dicom import only_series, sorted_files
from arena_pipeline.io.dicom.annotations import read_annotation, read_region_masks
from arena_pipeline.io.facts import load_fact
from arena_pipeline.io.images import read_image
from arena_pipeline.predict.dicom_seg import structure_code, write_dicom_seg
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.rtstruct import write_rtstruct

PROGRAM = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))
SHAPE = (12, 9, 5)
CORONAL, SAGITTAL, FEET_FIRST = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)
LABELS = LabelMap.of({"liver": 1, "kidney_left": 3, "my_structure": 4}, {"foundation": "arena_mini", "model": "arena_5shots"})


def segmentation() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:5, 2:4, 0:2] = 1
    array[7:11, 5:8, 1:4] = 3
    array[0, 0, 4] = 4
    return array


@pytest.mark.parametrize("labelmap", [False, True])
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), CORONAL, SAGITTAL, FEET_FIRST])
def test_highdicom_finds_every_voxel_where_it_was(tmp_path: Path, write_ct_series: Any, orientation: tuple[float, ...], labelmap: bool) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), orientation=orientation)
    series, expected = only_series(tmp_path / "ct"), segmentation()
    affine = np.diag([-1, -1, 1, 1]) @ read_image(tmp_path / "ct").geometry.affine
    write_dicom_seg(tmp_path / "a.seg.dcm", expected, series, LABELS, labelmap)
    dataset = highdicom.seg.segread(tmp_path / "a.seg.dcm")
    assert dataset.segmentation_type.value == ("LABELMAP" if labelmap else "BINARY")
    volume = dataset.get_volume(combine_segments=True)
    numbers = {1: 1, 3: 2, 4: 3}  # segments are numbered without gaps
    found = 0
    for index in np.argwhere(volume.array):
        in_patient = volume.affine @ (*index, 1)
        x, y, z = np.rint(np.linalg.inv(affine) @ in_patient)[:3].astype(int)
        assert numbers[expected[x, y, z]] == volume.array[tuple(index)]
        found += 1
    assert found == np.count_nonzero(expected)


@pytest.mark.skipif(PROGRAM is None, reason="dcmqi is not installed")
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), SAGITTAL, FEET_FIRST])
def test_dcmqi_finds_every_voxel_where_it_was(tmp_path: Path, write_ct_series: Any, orientation: tuple[float, ...]) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), orientation=orientation)
    write_dicom_seg(tmp_path / "a.dcm", segmentation(), only_series(tmp_path / "ct"), LABELS)
    (tmp_path / "out").mkdir()
    command = [PROGRAM, "--inputDICOM", str(tmp_path / "a.dcm"), "--outputDirectory", str(tmp_path / "out"), "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    image = read_image(tmp_path / "ct")
    for number, label in enumerate((1, 3, 4), start=1):
        mask = sitk.ReadImage(str(tmp_path / "out" / f"{number}.nrrd"))
        affine = np.eye(4)
        affine[:3, :3] = np.array(mask.GetDirection()).reshape(3, 3) * mask.GetSpacing()
        affine[:3, 3] = mask.GetOrigin()
        array = sitk.GetArrayFromImage(mask).transpose(2, 1, 0).astype(bool)
        to_ct = np.linalg.inv(image.geometry.affine) @ np.diag([-1, -1, 1, 1]) @ affine
        found = np.rint(np.argwhere(array) @ to_ct[:3, :3].T + to_ct[:3, 3]).astype(int)
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, np.argwhere(segmentation() == label).tolist())), label


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
@pytest.mark.parametrize("without", [(), ("AccessionNumber", "StudyID", "PatientBirthDate", "PatientSex")])
def test_dciodvfy_finds_no_error(tmp_path: Path, write_ct_series: Any, without: tuple[str, ...]) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16))
    for path in (tmp_path / "ct").iterdir():
        dataset = pydicom.dcmread(path)
        for tag in set(without) & set(dataset.dir()):
            delattr(dataset, tag)
        dataset.save_as(path)
    series = only_series(tmp_path / "ct")
    write_dicom_seg(tmp_path / "seg.dcm", segmentation(), series, LABELS)
    write_rtstruct(tmp_path / "rt.dcm", segmentation(), series, LABELS)
    for name in ("seg.dcm", "rt.dcm"):
        said = subprocess.run(["dciodvfy", str(tmp_path / name)], check=False, capture_output=True, text=True)
        assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith(("Error", "Abort"))], name


def test_it_belongs_to_the_patients_study_and_refers_to_every_slice(tmp_path: Path, write_ct_series: Any) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16))
    series = only_series(tmp_path / "ct")
    write_dicom_seg(tmp_path / "a.dcm", segmentation(), series, LABELS)
    made, source = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(sorted_files(series)[0])
    for tag in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert made[tag].value == source[tag].value
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    referenced = {item.ReferencedSOPInstanceUID for item in made.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == {pydicom.dcmread(file).SOPInstanceUID for file in series.files}
    assert "research" in made.SeriesDescription.lower()
    liver, kidney, own = made.SegmentSequence
    assert (liver.SegmentLabel, liver.SegmentedPropertyTypeCodeSequence[0].CodeValue) == ("liver", "10200004")
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (kidney.SegmentLabel, side.CodeValue) == ("kidney_left", "7771000")
    assert own.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99ARENA"
    assert liver.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "ARENA pipeline"


def test_nothing_found_is_a_valid_file_too(tmp_path: Path, write_ct_series: Any) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16))
    write_dicom_seg(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8), only_series(tmp_path / "ct"), LABELS)
    assert not highdicom.seg.segread(tmp_path / "a.dcm").get_volume(combine_segments=True).array.any()


def test_codes_are_pydicoms() -> None:
    known = {(code.value, code.meaning) for code in (getattr(codes.SCT, keyword) for keyword in codes.SCT.dir())}
    assert {tuple(code) for code in load_fact("snomed_codes")["codes"].values()} <= known
    kind, side = structure_code("heart_atrium_left")
    assert (kind.meaning, side) == ("Left atrium", None)
    kind, side = structure_code("rib_right_7")
    assert (kind.meaning, side.meaning if side else None) == ("Rib", "Right")


ANONYMISED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
    *("ReferringPhysicianName", "SliceThickness", "PositionReferenceIndicator"),
)


@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
@pytest.mark.parametrize("kind", ["absent", "empty", "wrong", "no preamble"])
def test_anonymised_slices_of_any_kind_can_be_referred_to(tmp_path: Path, write_ct_series: Any, write: Any, kind: str) -> None:
    def edit(_: int, dataset: pydicom.Dataset) -> None:
        for tag in ANONYMISED if kind in ("absent", "empty") else ():
            delattr(dataset, tag) if kind == "absent" else setattr(dataset, tag, None)
        if kind == "empty":
            dataset.SpecificCharacterSet = ""
        if kind == "wrong":
            dataset.PatientSex, dataset.StudyDate, dataset.PatientBirthDate, dataset.StudyTime = "W", "2024", "000Y", "noon"

    for file in write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), edit=edit):
        if kind == "no preamble":
            file.write_bytes(file.read_bytes()[132:])
    series = only_series(tmp_path / "ct")
    write(tmp_path / "a.dcm", segmentation(), series, LABELS)
    made = pydicom.dcmread(tmp_path / "a.dcm")
    for tag in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "PositionReferenceIndicator"):
        assert tag in made
    assert (made.PatientSex, str(made.StudyDate)) == {"wrong": ("W", "2024"), "no preamble": ("F", "20240229")}.get(kind, ("", ""))
    annotation = read_annotation(tmp_path / "a.dcm")
    (mask,) = read_region_masks(annotation.path, ["liver"], read_image(series).geometry, 0)
    assert np.array_equal(mask.array, segmentation() == 1)


@pytest.mark.parametrize("tag", ["FrameOfReferenceUID", "StudyInstanceUID", "SOPInstanceUID"])
def test_slices_that_nothing_can_refer_to_are_said_to_be_so(tmp_path: Path, write_ct_series: Any, tag: str) -> None:
    write_ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), edit=lambda index, dataset: delattr(dataset, tag) if index == 3 else None)
    assert only_series(tmp_path / "ct").lacks == (tag,)
    for write in (write_dicom_seg, write_rtstruct):
        with pytest.raises(ImageError, match=f"^ct: slices without {tag}"):
            write(tmp_path / "a.dcm", segmentation(), only_series(tmp_path / "ct"), LABELS)
