"""A folder that was converted before: what is kept, made again, or must not be touched."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from arena_pipeline.cli.convert_totalsegmentator import main
from arena_pipeline.errors import DatasetError
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.workspace import Workspace
from dataset_conversion.totalsegmentator import convert_totalsegmentator
from tests.conversion.conftest import LEFT, labels_of


def test_a_second_run_keeps_finished_cases_and_redoes_changed_or_damaged_ones(
    v1_root: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    folder = convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    outputs = {path: path.stat().st_mtime_ns for path in sorted(folder.glob("labels*/*")) + sorted(folder.glob("conversion/*"))}
    convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert {path: path.stat().st_mtime_ns for path in outputs} == outputs
    (folder / "labelsTr" / "s0001.nii.gz").write_bytes(b"cut")
    mask = v1_root / "s0002" / "segmentations" / "liver.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 5, 4), np.uint8), nibabel.load(mask).affine), mask)
    with caplog.at_level(logging.INFO):
        convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert re.search(r"s0001: converted again: .*s0001.nii.gz: an empty file\n", caplog.text)
    changed = sorted(path.name for path, time in outputs.items() if path.stat().st_mtime_ns != time)
    assert changed == ["s0001.json", "s0001.nii.gz", "s0002.json", "s0002.nii.gz"]
    assert labels_of(folder / "labelsTr" / "s0002.nii.gz").min() == 2


def state_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".in_use")}


@pytest.mark.parametrize("left", ["whole", "older version", "interrupted"])
def test_other_structures_do_not_replace_a_dataset_unless_asked(v1_root: Path, workspace: Workspace, left: str) -> None:
    folder = convert_totalsegmentator(v1_root, workspace, 101, structures=["spleen"], workers=0)
    if left != "whole":
        (folder / ("conversion_settings.json" if left == "older version" else "dataset.json")).unlink()
    before = state_of(folder)
    command = ["-i", str(v1_root), "-d", "101", "-w", str(workspace.root), "-np", "0"]
    assert main([*command, "--structures", "liver"]) == 2
    with pytest.raises(DatasetError, match=r"there is a dataset with spleen of TotalSegmentator v1, expected spleen, liver, .*-d, or --overwrite"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    assert state_of(folder) == before
    convert_totalsegmentator(v1_root, workspace, 101, structures=["spleen"], workers=0)
    assert main([*command, "--structures", "liver", "--overwrite"]) == 0
    assert list(RawDataset.open(folder).json.structures) == ["liver"]


def test_more_cases_may_bring_more_structures(v1_root: Path, raw_subject, workspace: Workspace) -> None:
    folder = convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    raw_subject(v1_root, "s0004", {"aorta": LEFT})
    convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    assert "aorta" in RawDataset.open(folder).json.structures


def corrected(path: Path, label: int = 1) -> bytes:
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.full((6, 5, 4), label, np.uint8), image.affine), path)
    return path.read_bytes()


def test_a_corrected_label_is_kept_and_said_until_it_is_deleted(v1_root: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    folder = convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    label, image = folder / "labelsTr" / "s0001.nii.gz", folder / "imagesTr" / "s0001_0000.nii.gz"
    converted, content = label.read_bytes(), corrected(label)
    convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    assert label.read_bytes() == content
    assert "labelsTr/s0001.nii.gz: changed since the conversion, kept as it is; to get the converted file back, delete it" in caplog.text
    image.unlink()  # only this one is made again, also where the raw files have changed
    (v1_root / "s0001" / "segmentations" / "liver.nii.gz").touch()
    convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    assert image.is_file() and label.read_bytes() == content
    with pytest.raises(DatasetError, match=r"labelsTr/s0001.nii.gz: changed since the conversion, and this one would remove or renumber it"):
        convert_totalsegmentator(v1_root, workspace, 101, exclude=["s0001"], workers=0)
    ct = v1_root / "s0001" / "ct.nii.gz"
    whole = ct.read_bytes()
    ct.write_bytes(whole[:100])  # a case that fails takes nobody's work with it
    with pytest.raises(DatasetError, match=r"s0001.ct.nii.gz: cut short"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    assert label.read_bytes() == content
    ct.write_bytes(whole)
    label.unlink()
    convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    assert label.read_bytes() == converted
    corrected(label)
    convert_totalsegmentator(v1_root, workspace, 101, workers=0, overwrite=True)
    assert label.read_bytes() == converted


def test_a_corrected_image_is_kept_and_a_corrected_label_is_never_renumbered(v1_root: Path, raw_subject, workspace: Workspace) -> None:
    folder = convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    image = folder / "imagesTr" / "s0001_0000.nii.gz"
    image.unlink()  # a link to the raw file
    write = nibabel.Nifti1Image(np.ones((6, 5, 4), np.int16), np.eye(4))
    nibabel.save(write, image)
    content = image.read_bytes()
    convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    assert image.read_bytes() == content
    raw_subject(v1_root, "s0004", {"aorta": LEFT})
    corrected(folder / "labelsTr" / "s0002.nii.gz")
    before = state_of(folder)
    with pytest.raises(DatasetError, match="labelsTr/s0002.nii.gz: changed .* remove or renumber it"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    assert state_of(folder) == before


def test_another_split_moves_cases(v1_root: Path, workspace: Workspace, write_meta) -> None:
    convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    write_meta(v1_root, {"s0001": "test", "s0002": "train", "s0003": "train"})
    raw = RawDataset.open(convert_totalsegmentator(v1_root, workspace, 101, workers=1))
    assert (list(raw.training), list(raw.queries)) == (["s0002", "s0003"], ["s0001"])


def test_files_of_somebody_else_are_not_touched(v1_root: Path, workspace: Workspace, write_nifti) -> None:
    own = write_nifti(workspace.raw / "Dataset101_TotalSegmentator" / "imagesTr" / "mine_0000.nii.gz", np.zeros((3, 3, 3), np.int16))
    with pytest.raises(DatasetError, match=r"mine_0000.nii.gz: not from this conversion"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert own.exists()
    with pytest.raises(DatasetError, match="has this number already"):
        convert_totalsegmentator(v1_root, workspace, 101, name="Other", workers=1)
