from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest

from arena_pipeline.cli.predict import main
from arena_pipeline.io.images import read_segmentation

PATIENT = ("Mustermann", "Erika", "4711-0815", "19640812", "ACC99887", "1.2.826.0.1.3680043.8.498.1")


@pytest.fixture
def series(tmp_path: Path, write_ct_series: Any) -> Path:
    hu = np.full((40, 40, 24), -1000, np.int16)
    hu[8:32, 8:32] = 40
    write_ct_series(tmp_path / "archive" / "Mustermann_Erika" / "abdomen", hu, spacing_mm=(5, 5, 5))
    return tmp_path / "archive"


def test_a_dicom_folder_becomes_nifti_and_dicom_seg_without_a_word_on_the_patient(
    series: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "workspace").mkdir()
    words = ["-i", str(series), "-o", str(out), "-w", str(tmp_path / "workspace"), "--zero_shot", "liver", "spleen", "--rtstruct", "--slicer"]
    assert main([*words, "--verbose"]) == 0
    (nifti,), (seg,), (_,), (slicer,) = (list(out.glob(f"*{end}")) for end in (".nii.gz", ".seg.dcm", ".rtstruct.dcm", ".seg.nrrd"))
    image = nibabel.load(nifti)
    volume = highdicom.seg.segread(seg).get_volume(combine_segments=True)
    assert np.count_nonzero(volume.array) == np.count_nonzero(image.dataobj)
    to_lps = np.diag([-1, -1, 1, 1]) @ image.affine
    for index in np.argwhere(volume.array)[::7]:
        voxel = np.rint(np.linalg.inv(to_lps) @ volume.affine @ (*index, 1))[:3].astype(int)
        assert image.dataobj[tuple(voxel)] == volume.array[tuple(index)]
    assert np.array_equal(read_segmentation(slicer).array, image.dataobj)
    made = seg.stat().st_mtime_ns
    assert main([*words, "--continue_prediction"]) == 0  # all of it is whole
    assert seg.stat().st_mtime_ns == made
    _assert_nothing_of_the_patient(tmp_path, capfd, out, tmp_path / "workspace")


def _assert_nothing_of_the_patient(tmp_path: Path, capfd: pytest.CaptureFixture[str], *folders: Path) -> None:
    """Neither in what was printed nor in any file but the DICOM objects, nor in the names of all."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = {path.relative_to(tmp_path): path.read_bytes().decode("latin-1") for path in files if path.suffix != ".dcm"}
    output = capfd.readouterr()
    told = {"stdout": output.out, "stderr": output.err} | {str(path): text + path.name for path, text in texts.items()}
    for where, text in {**told, "names": " ".join(path.name for path in files)}.items():
        assert not [value for value in PATIENT if value in text], where


def _gap(files: list[Path]) -> None:
    files[3].unlink()


def _no_slope(files: list[Path]) -> None:
    dataset = pydicom.dcmread(files[3])
    del dataset.RescaleSlope
    dataset.save_as(files[3])


def _cut_short(files: list[Path]) -> None:
    files[3].write_bytes(files[3].read_bytes()[:-100])


@pytest.mark.parametrize("spoil", [_gap, _no_slope, _cut_short])
def test_a_refused_series_says_nothing_of_the_patient(
    tmp_path: Path, write_ct_series: Any, capfd: pytest.CaptureFixture[str], spoil: Callable[[list[Path]], None]
) -> None:
    files = write_ct_series(tmp_path / "archive" / "Mustermann_Erika" / "abdomen", np.zeros((20, 20, 8), np.int16), spacing_mm=(5, 5, 5))
    files = [file.rename(file.with_name(f"4711-0815_{file.name}")) for file in files]
    spoil(files)
    write_ct_series(tmp_path / "archive" / "other", np.zeros((20, 20, 8), np.int16), spacing_mm=(5, 5, 5), study="1.2.826.0.1.9")
    (tmp_path / "workspace").mkdir()
    words = ["-i", str(tmp_path / "archive"), "-o", str(tmp_path / "out"), "-w", str(tmp_path / "workspace"), "--zero_shot", "liver"]
    assert main([*words, "--no_previews", "--verbose"]) == 2
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["other.nii.gz"]
    _assert_nothing_of_the_patient(tmp_path, capfd, tmp_path / "out", tmp_path / "workspace")


def test_a_series_that_nothing_can_refer_to_costs_its_dicom_objects_alone(
    tmp_path: Path, write_ct_series: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hu, out = np.zeros((20, 20, 8), np.int16), tmp_path / "out"
    write_ct_series(tmp_path / "in" / "a", hu, spacing_mm=(5, 5, 5), edit=lambda _, dataset: delattr(dataset, "FrameOfReferenceUID"))
    write_ct_series(tmp_path / "in" / "b", hu, spacing_mm=(5, 5, 5), study="1.2.826.0.1.9")
    words = ["-i", str(tmp_path / "in"), "-o", str(out), "-w", str(tmp_path), "--zero_shot", "liver", "--no_previews"]
    assert main(words) == 0
    assert "a: slices without FrameOfReferenceUID" in capsys.readouterr().err
    made = {path.name: path.stat().st_mtime_ns for path in [*out.glob("*.nii.gz"), *out.glob("*.dcm")]}
    assert sorted(made) == ["a.nii.gz", "b.nii.gz", "b.seg.dcm"]
    assert main([*words, "--continue_prediction"]) == 0  # all of it is whole
    assert made == {path.name: path.stat().st_mtime_ns for path in [*out.glob("*.nii.gz"), *out.glob("*.dcm")]}
    for asked in ("--dicom_seg", "--labelmap", "--rtstruct"):
        assert main([*words, asked]) == 2
        assert "1 of 2 cases not predicted: a: slices without FrameOfReferenceUID" in capsys.readouterr().err
        assert [path.name for path in out.glob("*.nii.gz")] == ["b.nii.gz"]


def test_a_dicom_object_that_fails_costs_neither_its_segmentation_nor_other_cases(
    tmp_path: Path, write_ct_series: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hu, out = np.zeros((20, 20, 8), np.int16), tmp_path / "out"
    for case, study in (("a", "1.2.826.0.1.8"), ("b", "1.2.826.0.1.9")):
        write_ct_series(tmp_path / "in" / case, hu, spacing_mm=(5, 5, 5), study=study)
    whole = highdicom.seg.Segmentation

    def failing(source_images: Any, **rest: Any) -> Any:
        if source_images[0].StudyInstanceUID == "1.2.826.0.1.8":
            raise AttributeError("Mustermann^Erika")
        return whole(source_images=source_images, **rest)

    monkeypatch.setattr(highdicom.seg, "Segmentation", failing)
    assert main(["-i", str(tmp_path / "in"), "-o", str(out), "-w", str(tmp_path), "--zero_shot", "liver", "--no_previews"]) == 2
    told = capsys.readouterr().err
    assert "1 of 2 cases not predicted: a: no DICOM-SEG can be made of this series (AttributeError)" in told
    assert "Mustermann" not in told
    assert sorted(path.name for path in [*out.glob("*.nii.gz"), *out.glob("*.dcm")]) == ["a.nii.gz", "b.nii.gz", "b.seg.dcm"]


def test_dicom_seg_needs_dicom_and_can_be_left_out(series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nifti = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), nifti)
    words = ["-o", str(tmp_path / "out"), "-w", str(tmp_path), "--zero_shot", "liver"]
    assert main(["-i", str(nifti), *words, "--dicom_seg"]) == 2
    assert "give the DICOM folder" in capsys.readouterr().err
    assert main(["-i", str(series), *words, "--no_dicom_seg", "--no_previews"]) == 0
    assert not list((tmp_path / "out").glob("*.dcm"))
    assert main(["-i", str(nifti), *words, "--rtstruct"]) == 2
    assert "an RTSTRUCT refers to the slices of a DICOM series" in capsys.readouterr().err
    assert main(["-i", str(series), *words, "--labelmap", "--no_dicom_seg"]) == 2
    assert "--labelmap is a kind of DICOM-SEG, and --no_dicom_seg asks for none; leave one of them out" in capsys.readouterr().err


def test_one_ct_may_become_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    scan = nibabel.Nifti1Image(np.full((24, 24, 24), 40, np.int16), np.diag([5.0, 5, 5, 1]))
    for name in ("a", "b"):
        nibabel.save(scan, tmp_path / "in" / f"{name}.nii.gz")
    out, rest = tmp_path / "new" / "liver.nii.gz", ["-w", str(tmp_path), "--zero_shot", "liver"]
    assert main(["-i", str(tmp_path / "in" / "a.nii.gz"), "-o", str(out), *rest]) == 0
    assert nibabel.load(out).shape == scan.shape
    assert [path.name for path in out.parent.iterdir()] == ["liver.nii.gz"]
    assert main(["-i", str(tmp_path / "in" / "a.nii.gz"), "-o", str(out), *rest, "--slicer"]) == 2
    assert "-o names one file, and --slicer writes another" in capsys.readouterr().err
    assert main(["-i", str(tmp_path / "in"), "-o", str(out), *rest]) == 2
    assert "-o names one file, found 2 CTs" in capsys.readouterr().err
    assert main(["-i", str(tmp_path / "in" / "a.nii.gz"), "-o", str(tmp_path / "liver.nrrd"), *rest]) == 2
    assert "-o takes a folder or NAME.nii.gz" in capsys.readouterr().err
    assert main(["-i", str(tmp_path / "in" / "a.nii.gz"), "-o", str(tmp_path / "in" / "a.nii.gz"), *rest]) == 2
    assert "would overwrite the image" in capsys.readouterr().err
