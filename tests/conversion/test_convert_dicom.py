from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from arena_pipeline.cli.convert_dicom import main
from arena_pipeline.errors import DatasetError
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.dicom import only_series
from arena_pipeline.io.dicom.annotations import read_annotation
from arena_pipeline.io.images import read_image, read_segmentation
from arena_pipeline.predict.dicom_seg import write_dicom_seg
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.rtstruct import write_rtstruct
from arena_pipeline.workspace import Workspace
from dataset_conversion.dicom import convert_dicom
from dataset_conversion.region_names import UndecidedNames

SHAPE = (24, 20, 9)
PATIENT = ("Mustermann", "Erika", "4711-0815", "19640812", "ACC99887", "1.2.826.0.1.3680043.8.498.1")
Edit = Callable[[Dataset], object]


def regions() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[3:12, 3:12, 1:8] = 1
    array[6:9, 6:9, 2:7] = 0  # a hole
    array[14:20, 5:15, 2:6] = 2
    return array


@pytest.fixture
def patient(tmp_path: Path, write_ct_series: Any) -> Callable[..., Path]:
    """patient("a", {"Leber": 1}, edit, seg=False): in/a with a CT and a file of its regions, those of `regions()`; returns that file."""

    def make(name: str, labels: dict[str, int], edit: Edit = lambda dataset: None, seg: bool = False) -> Path:
        folder, number = tmp_path / "in" / name, sum(map(ord, name))
        hu = np.random.default_rng(number).integers(-1000, 1000, SHAPE).astype(np.int16)
        write_ct_series(folder / "ct", hu, study=f"1.2.826.0.1.3680043.8.498.1.{number}")
        file, series = folder / "labels.dcm", only_series(folder / "ct")
        if seg:
            write_dicom_seg(file, regions() * np.isin(regions(), list(labels.values())), series, LabelMap.of(labels, {}))
        else:
            write_rtstruct(file, regions(), series, LabelMap.of(labels, {}))
        dataset = pydicom.dcmread(file)
        edit(dataset)
        dataset.save_as(file)
        return file

    return make


def fill_in(table: Path, **structures: str) -> None:
    lines = table.read_text().splitlines()
    for name, structure in structures.items():
        (index,) = (index for index, line in enumerate(lines) if line.startswith(f"{name},"))
        lines[index] = f"{name},{structure},1,"
    table.write_text("\n".join(lines) + "\n")


def test_names_are_proposed_then_converted_and_nothing_tells_of_the_patient(
    tmp_path: Path, patient: Any, workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    patient("p1", {"Lung_L": 1, "Stomach_duo_planCT": 2})
    patient("Mustermann", {"LUNG_L": 1, "spleen": 2}, seg=True)
    patient("p3", {"Lung_L": 1, "PTV": 2})
    words = ["-i", str(tmp_path / "in"), "-d", "7", "-w", str(workspace.root), "-np", "0"]
    assert main(words) == 2
    printed = capfd.readouterr()
    assert "LUNG_L -> lung_left\n" in printed.out
    assert "Stomach_duo_planCT -> ?  (stomach, duodenum?)\n" in printed.out
    assert "PTV -> ?\n" in printed.out
    assert "no structure yet for" in printed.err
    folder = workspace.raw / "Dataset007_DICOM"
    assert [path.name for path in folder.iterdir()] == ["roi_names.csv"]
    fill_in(folder / "roi_names.csv", Stomach_duo_planCT="stomach", PTV="")
    assert main(words) == 0
    dataset = RawDataset.open(folder)
    assert dataset.json.structures == {"lung_left": 1, "spleen": 2, "stomach": 3}
    first, second, third = dataset.training
    assert first.startswith("ct_")  # the folder bears the patient's name
    assert (second, third) == ("p1_ct", "p3_ct")
    assert dataset.json.annotated == {first: ("lung_left", "spleen"), second: ("lung_left", "stomach"), third: ("lung_left",)}
    for case, numbers in ((first, [0, 1, 2]), (second, [0, 1, 3]), (third, [0, 1, 0])):
        label = read_segmentation(dataset.training[case].segmentation)
        assert np.array_equal(label.array, np.array(numbers)[regions()])
        assert np.allclose(label.geometry.affine, read_image(dataset.training[case].image).geometry.affine)
    source = read_image(tmp_path / "in" / "p1" / "ct")
    assert np.array_equal(read_image(dataset.training["p1_ct"].image).array, source.array)
    _assert_nothing_of_the_patient(tmp_path, workspace, capfd)


def _assert_nothing_of_the_patient(tmp_path: Path, workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    texts = {str(path): path.read_bytes().decode("latin-1") + path.name for path in workspace.root.rglob("*") if path.is_file()}
    output = capfd.readouterr()
    for where, text in {**texts, "stdout": output.out, "stderr": output.err}.items():
        assert not [value for value in PATIENT if value in text.replace(str(tmp_path), "")], where


def test_what_is_refused_says_nothing_of_the_patient(tmp_path: Path, patient: Any, workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    patient("p1", {"liver": 1})
    patient("Mustermann", {"liver": 1})
    (tmp_path / "in" / "Mustermann" / "ct" / "3.dcm").unlink()
    file = patient("Erika", {"liver": 1}, _move_between_slices)
    file.rename(file.with_name("RS.1.2.826.0.1.3680043.8.498.1.77.dcm"))
    patient("4711-0815", {"liver": 1}, _other_frame)
    file = patient("19640812", {"liver": 1})
    dataset = pydicom.dcmread(file)
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.save_as(file.with_name("4711-0815.dcm"))
    assert main(["-i", str(tmp_path / "in"), "-d", "7", "-w", str(workspace.root), "-np", "0", "--verbose"]) == 2
    failures = " ".join(json.loads((workspace.raw / "Dataset007_DICOM" / "conversion_report.json").read_text())["failures"].values())
    for reason in ("slices are missing", "between the CT's slices", "liver in several files (a file whose name tells of the patient, labels.dcm)"):
        assert reason in failures
    _assert_nothing_of_the_patient(tmp_path, workspace, capfd)


def test_it_goes_on_and_a_corrected_label_stays(tmp_path: Path, patient: Any, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    patient("p1", {"liver": 1, "spleen": 2})
    folder = convert_dicom(tmp_path / "in", workspace, 7, workers=0)
    label, image = folder / "labelsTr" / "p1_ct.nii.gz", folder / "imagesTr" / "p1_ct_0000.nii.gz"
    made = image.stat().st_mtime_ns
    corrected = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), nibabel.load(label).affine)
    nibabel.save(corrected, label)
    patient("p2", {"liver": 1, "spleen": 2})
    caplog.set_level("INFO")
    convert_dicom(tmp_path / "in", workspace, 7, workers=0, queries=["p2_ct"])
    assert image.stat().st_mtime_ns == made
    assert not np.any(nibabel.load(label).dataobj)
    assert "labelsTr/p1_ct.nii.gz: changed since the conversion, kept as it is" in caplog.text
    dataset = RawDataset.open(folder)
    assert (list(dataset.training), list(dataset.queries)) == (["p1_ct"], ["p2_ct"])
    with pytest.raises(DatasetError, match="there is a dataset with liver, spleen of DICOM"):  # another folder would take these cases away
        convert_dicom(tmp_path / "in" / "p2", workspace, 7, workers=0)


def _contours(dataset: Dataset) -> list[Dataset]:
    return list(dataset.ROIContourSequence[0].ContourSequence)


def _skip(*slices: int) -> Edit:
    def edit(dataset: Dataset) -> None:
        places = sorted({float(contour.ContourData[2]) for contour in _contours(dataset)})
        skipped = {places[index] for index in slices}
        dataset.ROIContourSequence[0].ContourSequence = [c for c in _contours(dataset) if float(c.ContourData[2]) not in skipped]

    return edit


def test_skipped_slices_are_filled_in_between_and_told(tmp_path: Path, patient: Any, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    patient("p1", {"liver": 1}, _skip(2, 4))  # slices 4 and 6 of the volume, as viewers count
    folder = convert_dicom(tmp_path / "in", workspace, 7, workers=0)
    label = read_segmentation(folder / "labelsTr" / "p1_ct.nii.gz").array
    assert np.array_equal(label, regions() == 1)
    assert "2 slices without contours filled in between (4, 6)" in caplog.text
    convert_dicom(tmp_path / "in", workspace, 8, workers=0, bridge_mm=0)
    empty = read_segmentation(workspace.raw / "Dataset008_DICOM" / "labelsTr" / "p1_ct.nii.gz").array
    assert [z for z in range(9) if empty[:, :, z].any()] == [1, 2, 4, 6, 7]
    assert "2 slices without contours between drawn ones left empty (4, 6)" in caplog.text


def _nested(dataset: Dataset) -> None:
    """Holes as contours of their own, as other programs write them."""
    square = np.array([[5.5, 5.5], [5.5, 8.5], [8.5, 8.5], [8.5, 5.5]])
    outline = np.array([[2.5, 2.5], [11.5, 2.5], [11.5, 11.5], [2.5, 11.5]])
    for contour in _contours(dataset)[1:6]:
        z = float(contour.ContourData[2])
        inner = Dataset()
        inner.ContourGeometricType = contour.ContourGeometricType = "CLOSEDPLANAR_XOR"
        for item, points in ((contour, outline), (inner, square)):
            item.NumberOfContourPoints = 4
            item.ContourData = [float(value) for x, y in points for value in (-5 + 0.8 * x, 7 + 0.9 * y, z)]
        dataset.ROIContourSequence[0].ContourSequence.append(inner)


def test_holes_of_other_programs_points_and_empty_rois(tmp_path: Path, patient: Any, workspace: Workspace) -> None:
    def edit(dataset: Dataset) -> None:
        _nested(dataset)
        (point,) = dataset.ROIContourSequence[1].ContourSequence[:1]
        point.ContourGeometricType, point.NumberOfContourPoints, point.ContourData = "POINT", 1, point.ContourData[:3]
        dataset.ROIContourSequence[1].ContourSequence = [point]

    file = patient("p1", {"liver": 1, "isocentre": 2}, edit)
    assert read_annotation(file).empty == ("isocentre",)
    folder = convert_dicom(tmp_path / "in", workspace, 7, workers=0)
    assert np.array_equal(read_segmentation(folder / "labelsTr" / "p1_ct.nii.gz").array, regions() == 1)
    assert json.loads((folder / "conversion_report.json").read_text())["not_drawn"] == {"p1_ct": ["isocentre"]}


def _move_between_slices(dataset: Dataset) -> None:
    contour = _contours(dataset)[0]
    contour.ContourData = [float(value) + (1.25 if index % 3 == 2 else 0) for index, value in enumerate(contour.ContourData)]


def _other_frame(dataset: Dataset) -> None:
    for item in [*dataset.StructureSetROISequence]:
        item.ReferencedFrameOfReferenceUID = "1.2.3"


def _other_series(dataset: Dataset) -> None:
    dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


@pytest.mark.parametrize(
    "edit, message",
    [
        (_move_between_slices, "liver: a contour between the CT's slices or across them, beside slice"),
        (_other_frame, "another frame of reference than that of its series p1_ct"),
        (_other_series, "no RTSTRUCT or SEG of a CT in it"),
        (lambda d: setattr(_contours(d)[0], "NumberOfContourPoints", 77), "points, expected 77"),
        (lambda d: delattr(d, "StructureSetROISequence"), "damaged or incomplete"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(tmp_path: Path, patient: Any, workspace: Workspace, edit: Edit, message: str) -> None:
    patient("p1", {"liver": 1}, edit)
    with pytest.raises(DatasetError, match=message):
        convert_dicom(tmp_path / "in", workspace, 7, workers=0)
    assert not (workspace.raw / "Dataset007_DICOM" / "dataset.json").exists()


def test_one_structure_from_two_files_or_of_two_names(tmp_path: Path, patient: Any, workspace: Workspace) -> None:
    file = patient("p1", {"lung_left": 1, "lung_right": 2})
    with pytest.raises(UndecidedNames):
        table = tmp_path / "names.csv"
        table.write_text("name;structure\nlung_left;lung\nlung_right;?\n")  # as a spreadsheet of another country saves it
        convert_dicom(tmp_path / "in", workspace, 7, names=table, workers=0)
    table.write_text("name;structure\nlung_left;lung\nlung_right;lung\n")
    folder = convert_dicom(tmp_path / "in", workspace, 7, names=table, workers=0)
    assert np.array_equal(read_segmentation(folder / "labelsTr" / "p1_ct.nii.gz").array, regions() > 0)
    shutil.copy(file, file.with_name("copy.dcm"))
    assert convert_dicom(tmp_path / "in", workspace, 7, names=table, workers=0) == folder  # a copy counts once
    dataset = pydicom.dcmread(file)
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.save_as(file.with_name("second.dcm"))
    with pytest.raises(DatasetError, match="lung in several files"):
        convert_dicom(tmp_path / "in", workspace, 8, names=table, workers=0)


def test_a_file_that_is_not_used_is_an_error_after_all_others(tmp_path: Path, patient: Any, workspace: Workspace) -> None:
    patient("p1", {"liver": 1})
    patient("p2", {"liver": 1}, _other_frame)
    with pytest.raises(DatasetError, match="1 file not used: .*another frame of reference.*all others are converted"):
        convert_dicom(tmp_path / "in", workspace, 7, workers=0)
    assert list(RawDataset.open(workspace.raw / "Dataset007_DICOM").training) == ["p1_ct"]
