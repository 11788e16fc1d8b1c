"""FLARE'22 folders become one multi-class dataset."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest

from arena_pipeline.cli.convert_flare22 import main
from arena_pipeline.errors import DatasetError, UnknownStructure
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.workspace import Workspace
from dataset_conversion.flare22 import convert_flare22

# spleen, kidney_left, gallbladder, esophagus, liver, pancreas, stomach, duodenum, aorta in FLARE'22's numbers -> 1..9
PAPER = {3: 1, 13: 2, 9: 3, 10: 4, 1: 5, 4: 6, 11: 7, 12: 8, 5: 9}


def test_the_nine_structures_of_the_paper_by_default(tmp_path: Path, flare_case, workspace: Workspace) -> None:
    raw_labels = flare_case(tmp_path / "raw", "FLARE22_Tr_0002")
    flare_case(tmp_path / "raw", "FLARE22_Tr_0001")
    flare_case(tmp_path / "raw", "FLARETs_0006")
    flare_case(tmp_path / "raw", "FLARETs_0002")  # not one of the published queries
    raw = RawDataset.open(convert_flare22(tmp_path / "raw", workspace, 102, workers=1))
    names = ["spleen", "kidney_left", "gallbladder", "esophagus", "liver", "pancreas", "stomach", "duodenum", "aorta"]
    assert raw.json.labels == {"background": 0, **{name: index for index, name in enumerate(names, start=1)}}
    assert raw.json.objective == "multiclass"
    assert raw.json.split["*"].train == ("FLARE22_Tr_0001", "FLARE22_Tr_0002")
    assert raw.json.split["*"].test == ("FLARETs_0006",)
    assert (list(raw.training), list(raw.queries)) == (["FLARE22_Tr_0001", "FLARE22_Tr_0002"], ["FLARETs_0002", "FLARETs_0006"])
    expected = np.vectorize(lambda label: PAPER.get(label, 0))(raw_labels)
    np.testing.assert_array_equal(np.asarray(nibabel.load(raw.training["FLARE22_Tr_0002"].segmentation).dataobj), expected)


def test_chosen_structures_are_numbered_anew(tmp_path: Path, flare_case, workspace: Workspace) -> None:
    flare_case(tmp_path / "raw", "FLARE22_Tr_0001")
    raw = RawDataset.open(convert_flare22(tmp_path / "raw", workspace, 102, structures=["kidney_right", "aorta", "liver"], workers=1))
    assert raw.json.labels == {"background": 0, "liver": 1, "aorta": 2, "kidney_right": 3}
    with pytest.raises(DatasetError, match="there is a dataset with liver, aorta, kidney_right of FLARE'22, expected spleen, .*--overwrite"):
        convert_flare22(tmp_path / "raw", workspace, 102, workers=1)
    with pytest.raises(UnknownStructure, match="unknown structure heart; FLARE'22 has: liver, kidney_right"):
        convert_flare22(tmp_path / "raw", workspace, 102, structures=["heart"], workers=1)


@pytest.mark.parametrize(("training", "tuning"), [("train", "tuning"), ("FLARE22Train", "FLARE22Tuning"), ("", "tuning")])
def test_the_other_folder_names(training: str, tuning: str, tmp_path: Path, flare_case, workspace: Workspace) -> None:
    flare_case(tmp_path / "raw" / training, "FLARE22_Tr_0001")
    flare_case(tmp_path / "raw" / tuning, "FLARETs_0001", labels=False)
    raw = RawDataset.open(convert_flare22(tmp_path / "raw", workspace, 102, workers=1))
    assert (list(raw.training), list(raw.queries)) == (["FLARE22_Tr_0001"], ["FLARETs_0001"])
    assert raw.queries["FLARETs_0001"].segmentation is None


def test_unlabelled_cases_are_ignored_aloud(tmp_path: Path, flare_case, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    flare_case(tmp_path / "raw", "FLARE22_Tr_0001")
    flare_case(tmp_path / "raw", "Case_00001", labels=False)
    with caplog.at_level(logging.INFO):
        convert_flare22(tmp_path / "raw", workspace, 102, workers=1)
    assert "1 image is neither FLARE22_Tr_XXXX nor FLARETs_XXXX" in caplog.text
    assert "1 of the published split's 72 cases are here" in caplog.text


def test_a_training_case_without_labels_is_named_and_can_be_excluded(tmp_path: Path, flare_case, workspace: Workspace) -> None:
    flare_case(tmp_path / "raw", "FLARE22_Tr_0001")
    flare_case(tmp_path / "raw", "FLARE22_Tr_0002", labels=False)
    with pytest.raises(DatasetError, match=r"FLARE22_Tr_0002: no labels, expected .*FLARE22_Tr_0002\.nii\.gz.*--exclude FLARE22_Tr_0002"):
        convert_flare22(tmp_path / "raw", workspace, 102, workers=1)
    folder = convert_flare22(tmp_path / "raw", workspace, 102, exclude=["FLARE22_Tr_0002"], workers=1)
    assert list(RawDataset.open(folder).training) == ["FLARE22_Tr_0001"]


def test_labels_that_flare_does_not_have(tmp_path: Path, flare_case, workspace: Workspace, write_nifti) -> None:
    flare_case(tmp_path / "raw", "FLARE22_Tr_0001")
    write_nifti(tmp_path / "raw" / "labels" / "FLARE22_Tr_0001.nii.gz", np.full((6, 5, 4), 14, np.uint8))
    with pytest.raises(
        DatasetError, match=r"no training case could be converted: FLARE22_Tr_0001: .*FLARE22_Tr_0001\.nii\.gz: labels \[14\]; FLARE'22 has 0\.\.13"
    ):
        convert_flare22(tmp_path / "raw", workspace, 102, workers=1)
    assert not (workspace.raw / "Dataset102_FLARE22" / "dataset.json").exists()


def test_folders_that_are_not_flare(tmp_path: Path, flare_case, workspace: Workspace) -> None:
    with pytest.raises(DatasetError, match=r"none of images, FLARE22Train/images, .*in it"):
        convert_flare22(tmp_path, workspace, 102, workers=1)
    flare_case(tmp_path, "case_0")
    with pytest.raises(DatasetError, match=r"no FLARE22_Tr_0001_0000.nii.gz"):
        convert_flare22(tmp_path, workspace, 102, workers=1)


def test_the_command_on_a_real_case(real_data: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-i", str(real_data / "FLARE22Train"), "-d", "102", "-w", str(workspace.root)]) == 0
    assert "next: arena_plan_and_preprocess -d 102" in capsys.readouterr().out
    raw = RawDataset.open(workspace.raw / "Dataset102_FLARE22")
    labels = np.unique(np.asarray(nibabel.load(raw.training["FLARE22_Tr_0001"].segmentation).dataobj))
    assert labels.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]  # no esophagus in it
