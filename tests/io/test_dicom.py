from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from arena_pipeline.errors import ArenaError, DatasetError, ImageError
from arena_pipeline.io.dicom import find_series, only_series
from arena_pipeline.io.images import read_geometry, read_image
from arena_pipeline.predict.inputs import find_inputs

HU = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4) * 7 - 300
CORONAL, SAGITTAL, FEET_FIRST = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)
LPS_TO_RAS = np.diag([-1, -1, 1, 1])


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), CORONAL, SAGITTAL, FEET_FIRST, (0.8, 0.6, 0, -0.6, 0.8, 0)])
def test_values_and_geometry_are_those_of_two_other_readers(tmp_path: Path, write_ct_series: Any, orientation: tuple[float, ...]) -> None:
    files = write_ct_series(tmp_path / "ct", HU, orientation=orientation)
    image = read_image(tmp_path / "ct")
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(file) for file in files])
    to_xyz = theirs.permute_spatial_axes((2, 1, 0))
    if np.dot(to_xyz.affine[:3, 2], LPS_TO_RAS[:3, :3] @ image.geometry.affine[:3, 2]) < 0:
        to_xyz = to_xyz.flip_spatial(2)
    assert np.allclose(LPS_TO_RAS @ to_xyz.affine, image.geometry.affine, atol=1e-6)
    assert np.array_equal(to_xyz.array, image.array)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    itk = reader.Execute()
    for index in [(0, 0, 0), (5, 4, 3), (2, 3, 1)]:
        in_patient = image.geometry.affine @ (*index, 1)
        assert itk[itk.TransformPhysicalPointToIndex((LPS_TO_RAS @ in_patient)[:3].tolist())] == image.array[index]
    assert np.allclose(image.geometry.spacing_mm, (0.8, 0.9, 2.5))
    assert np.array_equal(read_geometry(tmp_path / "ct").affine, image.geometry.affine)


def test_each_slice_has_its_own_slope_and_type_and_padding_is_air(tmp_path: Path, write_ct_series: Any) -> None:
    def edit(index: int, dataset: Dataset) -> None:
        stored = np.full((5, 6), 100, "<u2")
        if index == 1:  # signed, with padding
            dataset.PixelRepresentation, dataset.PixelPaddingValue, dataset.RescaleIntercept = 1, -2000, 0
            stored = np.full((5, 6), -50, "<i2")
            stored[0, 0], stored[0, 1] = -2000, -3024
        if index == 2:
            dataset.RescaleSlope, dataset.RescaleIntercept = 2, 5
        dataset.PixelData = stored.tobytes()

    write_ct_series(tmp_path / "ct", HU, edit=edit)
    array = read_image(tmp_path / "ct").array
    assert array.dtype == np.int16
    assert array[3, 3].tolist() == [100 - 1024, -50, 2 * 100 + 5, 100 - 1024]
    assert array[:3, 0, 1].tolist() == [-1024, -1024, -50]


def _set(**tags: object) -> Any:
    def edit(index: int, dataset: Dataset) -> None:
        if index == 1:
            for tag, value in tags.items():
                setattr(dataset, tag, value) if value is not None else delattr(dataset, tag)

    return edit


@pytest.mark.parametrize(
    "edit, message",
    [
        (_set(PixelSpacing=[0.5, 0.5]), r"PixelSpacing .* in most slices, another in 1\.dcm"),
        (_set(PixelSpacing=None), "without PixelSpacing"),
        (_set(ImageOrientationPatient=[1, 0, 0, 0, 0.99999, 0.004]), r"other orientations: 1\.dcm"),
        (_set(ImagePositionPatient=[-5.0, 7.0, 3.0]), r"two slices in one place: (0|1)\.dcm"),
        (_set(ImagePositionPatient=[-5.0, 7.0, 3.0], AcquisitionNumber=2), "two slices in one place"),
        (_set(ImagePositionPatient=[-5.0, 7.0, 3.0], AcquisitionNumber=4, TemporalPositionIdentifier=1), "two slices in one place"),
        (_set(ImagePositionPatient=[-5.0, 9.0, 5.5]), "shifted against each other"),
        (_set(ImagePositionPatient=[-5.0, 7.0, 6.3]), r"unevenly spaced: expected .* mm everywhere"),
        (_set(PixelData=None), "no pixel data"),
        (_set(PixelData=b"\0" * 10), "can't be decoded"),
        (_set(RescaleSlope=None), "nobody knows its HU"),
        (_set(RescaleType="OD"), "values in OD"),
        (_set(RescaleSlope=1e38), "values that can't be HU"),
        (_set(SamplesPerPixel=3), "a picture of colours"),
    ],
)
def test_what_is_no_regular_series_is_refused_by_name(tmp_path: Path, write_ct_series: Any, edit: Any, message: str) -> None:
    write_ct_series(tmp_path / "ct", HU, edit=edit)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "ct")


def test_a_missing_slice_one_slice_and_a_tilted_gantry_are_refused(tmp_path: Path, write_ct_series: Any) -> None:
    files = write_ct_series(tmp_path / "gap", np.zeros((4, 4, 6), np.int16))
    files[2].unlink()
    with pytest.raises(ImageError, match=r"slices are missing: expected 2\.50 mm everywhere, found 5\.00 mm between 1\.dcm and 3\.dcm"):
        read_image(tmp_path / "gap")
    write_ct_series(tmp_path / "one", HU[..., :1])
    with pytest.raises(ImageError, match="one slice is no volume"):
        read_image(tmp_path / "one")
    write_ct_series(tmp_path / "tilt", HU, shift_mm=(0, 2.5 * np.tan(np.radians(14)), 0))
    with pytest.raises(ImageError, match=r"tilted by 14\.0 degrees"):
        read_image(tmp_path / "tilt")


@pytest.mark.parametrize("degrees, accepted", [(0.05, True), (0.3, False), (1.0, False), (1.8, False)])
def test_a_small_tilt_adds_up_over_many_slices(tmp_path: Path, write_ct_series: Any, degrees: float, accepted: bool) -> None:
    shift = (0, 0.625 * np.tan(np.radians(degrees)), 0)
    write_ct_series(tmp_path / "ct", np.zeros((2, 2, 120), np.int16), spacing_mm=(0.5, 0.5, 0.625), shift_mm=shift)
    if accepted:  # the last slice lies 0.07 mm beside the straight grid, a seventh of a pixel
        assert read_image(tmp_path / "ct").array.shape == (2, 2, 120)
    else:
        with pytest.raises(ImageError, match=rf"tilted by {degrees:.1f} degrees"):
            read_image(tmp_path / "ct")


def test_numbers_are_compared_as_numbers_and_within_what_headers_round(tmp_path: Path, write_ct_series: Any) -> None:
    def edit(index: int, dataset: Dataset) -> None:
        dataset.PixelSpacing = ["0.90", "0.80"] if index == 1 else ["0.9", "0.8"]
        tilt = 0.995 + (1e-5 if index % 2 else -1e-5)  # rounds to 0.99 or to 1.00
        dataset.ImageOrientationPatient = [tilt, 0.0998749, 0, -0.0998749, tilt, 0]

    write_ct_series(tmp_path / "ct", HU, edit=edit)
    (series,), _ = find_series(tmp_path)
    assert len(series.files) == 4
    assert np.array_equal(read_image(series).array, HU)


def test_series_are_grouped_and_everything_else_is_named(tmp_path: Path, write_ct_series: Any) -> None:
    write_ct_series(tmp_path / "a" / "axial", HU)
    write_ct_series(tmp_path / "a" / "more", HU, study="1.2.3.4")
    localizer = _set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_ct_series(tmp_path / "a" / "scout", HU[..., :1], edit=lambda _, dataset: localizer(1, dataset), study="1.2.9")
    write_ct_series(tmp_path / "mr", HU[..., :2], edit=lambda _, d: setattr(d, "Modality", "MR"), study="1.2.8")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    for file in (tmp_path / "a" / "axial").iterdir():
        file.rename(file.with_suffix(""))  # archives drop endings
    found, left_out = find_series(tmp_path)
    assert [(series.name, len(series.files)) for series in found] == [("a_axial", 4), ("a_more", 4)]
    assert {(entry.kind, entry.files) for entry in left_out} == {("localizer", 1), ("MR", 2), ("no DICOM", 1)}
    assert sorted(find_inputs(tmp_path)) == ["a_axial", "a_more"]
    with pytest.raises(ImageError, match="2 CT series"):
        only_series(tmp_path)
    with pytest.raises(DatasetError, match="no CT slices, found 2 x MR"):
        find_inputs(tmp_path / "mr")


def test_links_are_followed_once(tmp_path: Path, write_ct_series: Any) -> None:
    write_ct_series(tmp_path / "archive" / "a", np.zeros((6, 5, 4), np.int16))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b").symlink_to(tmp_path / "archive" / "a")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    series = only_series(tmp_path / "in")
    assert len(series.files) == 4


def test_two_orientations_of_one_series_are_two_cases(tmp_path: Path, write_ct_series: Any) -> None:
    write_ct_series(tmp_path / "ct" / "x", HU)
    for file in write_ct_series(tmp_path / "y", HU, orientation=CORONAL, edit=lambda i, d: setattr(d, "SOPInstanceUID", f"1.2.77.{i}")):
        file.rename(tmp_path / "ct" / "x" / f"c{file.name}")
    assert [series.name for series in find_series(tmp_path / "ct")[0]] == ["x_series2", "x_series2_part2"]


def test_no_name_of_a_case_tells_of_the_patient(tmp_path: Path, write_ct_series: Any) -> None:
    for folder in ("Mustermann Erika", "scan 4711", "19640812_abdomen"):
        write_ct_series(tmp_path / folder / "ct", HU)
        (series,) = find_series(tmp_path / folder)[0]
        assert series.name == "ct"  # the folder given is not part of it
    names = [series.name for series in find_series(tmp_path)[0]]
    assert len(names) == 1  # the same slices three times are one series
    assert names[0].startswith("ct_"), names


@pytest.mark.parametrize(
    "folder",
    ["1.2.826.0.1.3680043.8.498.1", "1_2_826_0_1_3680043_8_498_1_2", "1.3.6.1.4.1.14519.5.2.1", "2024-02-29", "Li_Wu", "12.08.1964", "acc-998 87"],
)
def test_uids_dates_and_short_names_are_the_patients_too(tmp_path: Path, write_ct_series: Any, folder: str) -> None:
    write_ct_series(tmp_path / folder, HU, edit=lambda _, dataset: setattr(dataset, "PatientName", "Li^Wu"))
    (series,) = find_series(tmp_path)[0]
    assert series.name.startswith("ct_"), series.name


def test_what_only_looks_a_little_like_the_patient_names_a_case(tmp_path: Path, write_ct_series: Any) -> None:
    write_ct_series(tmp_path / "case_5_liver_ct", HU, edit=lambda _, dataset: setattr(dataset, "PatientName", "Li^CT"))
    assert find_series(tmp_path)[0][0].name == "case_5_liver_ct"  # StudyID is 5


def test_a_refusal_names_the_case_and_the_file_without_the_folders(tmp_path: Path, write_ct_series: Any) -> None:
    files = write_ct_series(tmp_path / "Mustermann_Erika" / "ct", HU, edit=_set(RescaleSlope=None))
    (series,) = find_series(tmp_path)[0]
    with pytest.raises(ImageError, match=rf"^{series.name}: 1\.dcm: no RescaleSlope"):
        read_image(series)
    for number, file in enumerate(files):
        file.rename(file.with_name(f"CT.1.2.826.0.1.3680043.8.498.{number}"))
    with pytest.raises(ImageError, match=rf"^{series.name}: file 2 of 4: no RescaleSlope"):
        read_image(find_series(tmp_path)[0][0])


WRONG = (None, "", "nan", "1e400", "0", "-1", "65535", "x", "1\\2", "1\\2\\3\\4\\5\\6", "nan\\1\\1\\0\\1\\0")


def test_a_slice_with_any_tag_absent_or_of_another_value_is_refused_or_read(tmp_path: Path, write_ct_series: Any) -> None:
    files = write_ct_series(tmp_path / "ct", HU[..., :3], edit=lambda _, dataset: setattr(dataset, "PixelPaddingValue", 0))
    whole = files[1].read_bytes()
    keywords = [element.keyword for element in pydicom.dcmread(files[1]) if element.keyword != "PixelData"]
    outcomes = set[object]()
    for keyword in keywords:
        for wrong in WRONG:
            dataset = pydicom.dcmread(files[1])
            text = dataset[keyword].VR not in ("US", "SS")
            dataset.pop(keyword)
            if wrong is not None and (text or wrong.isdigit()):
                value = wrong.encode("ascii") if text else int(wrong).to_bytes(2, "little")
                dataset[keyword] = RawDataElement(Tag(keyword), dictionary_VR(keyword)[:2], len(value), value, 0, False, True)
            with contextlib.suppress(AttributeError):  # without BitsAllocated nothing is written
                dataset.save_as(files[1])
            try:
                outcomes.add(read_image(tmp_path / "ct").array.shape)
            except ArenaError:
                outcomes.add("refused")
            files[1].write_bytes(whole)
    assert outcomes >= {"refused", (6, 5, 3)}


def test_a_damaged_file_is_refused_or_read_as_it_says(tmp_path: Path, write_ct_series: Any) -> None:
    rng = random.Random(0)
    (file, *_) = write_ct_series(tmp_path / "ct", HU[..., :2])
    whole = file.read_bytes()
    outcomes = set()
    for trial in range(150):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: rng.randrange(len(damaged))]
        for _ in range(rng.randrange(1, 4) if damaged else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(bytes(damaged))
        try:
            outcomes.add(read_image(tmp_path / "ct").array.shape)
        except ArenaError:
            outcomes.add("refused")
    assert outcomes >= {"refused", (6, 5, 2)}


def test_real_series(real_data: Path) -> None:
    folder = real_data / "dicom"
    image = read_image(folder / "abdomen_contrast")
    assert image.array.min() == -1024  # stored as -3024 outside the scanner's circle
    planning = read_image(folder / "abdomen_rtstruct" / "ct")
    mask = read_geometry(folder / "abdomen_rtstruct" / "masks" / "lung_l.nii.gz")  # on the CT's grid, by another converter
    assert planning.array.shape == mask.shape == (512, 512, 134)
    corners = np.array([[x, y, z, 1] for x in (0, 511) for y in (0, 511) for z in (0, 133)]).T
    ours, theirs = planning.geometry.affine @ corners, mask.affine @ corners
    assert all(np.linalg.norm(theirs.T - corner, axis=1).min() < 0.1 for corner in ours.T)
    with pytest.raises(ImageError, match=r"tilted by 14\.0 degrees"):
        read_image(folder / "odd" / "gantrytilting")


def test_transfer_syntaxes(real_data: Path) -> None:
    from arena_pipeline.io.dicom.decoders import decoded

    files = sorted((real_data / "dicom" / "odd" / "transfer_syntaxes").glob("*.dcm"))
    (plain,) = (decoded(pydicom.dcmread(file)) for file in files if "LittleEndianExplicit" in file.name)
    equal, close, refused = 0, 0, 0
    for file in files:
        dataset = pydicom.dcmread(file)
        try:
            stored = decoded(dataset).astype(float)
        except ImageError as error:
            assert "retired transfer syntax" in str(error)
            refused += 1
            continue
        equal += np.array_equal(stored, plain)
        hu = stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        close += bool(np.abs(hu - (plain - 1024)).mean() < 20)
    assert (equal, close, refused) == (9, 13, 2)
