from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
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
    (nifti,), (seg,), (contours,), (slicer,) = (list(out.glob(f"*{end}")) for end in (".nii.gz", ".seg.dcm", ".rtstruct.dcm", ".seg.nrrd"))
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
    logs = [path for path in [*out.rglob("*"), *(tmp_path / "workspace").rglob("*")] if path.is_file() and path not in (seg, contours)]
    texts = {path.relative_to(tmp_path): path.read_bytes().decode("latin-1") for path in logs}
    output = capfd.readouterr()
    told = {"stdout": output.out, "stderr": output.err} | {str(path): text + path.name for path, text in texts.items()}
    for where, text in told.items():
        assert not [value for value in PATIENT if value in text], where


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
