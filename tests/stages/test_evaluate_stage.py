"""arena_evaluate on files: matching, partial annotation, splits, and what bad input says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from arena_pipeline.cli.evaluate import main
from arena_pipeline.errors import DatasetError, UnknownStructure
from arena_pipeline.io.dataset import StructureSplit
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.stages.evaluate import evaluate
from arena_pipeline.workspace import Workspace
from tests.stages.scored_folders import WriteNifti, describe

SPACING_MM = (1.0, 1.0, 2.0)
NNUNET_METRICS = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}


def liver_and_spleen(shift: int = 0, spleen: bool = True) -> np.ndarray:
    """4^3 voxels of liver (1), `shift` voxels along x, and 3^3 of spleen (2), in 16^3."""
    segmentation = np.zeros((16, 16, 16), np.uint8)
    segmentation[2 + shift : 6 + shift, 2:6, 2:6] = 1
    if spleen:
        segmentation[10:13, 10:13, 10:13] = 2
    return segmentation


@pytest.fixture
def folders(tmp_path: Path, write_nifti: WriteNifti) -> tuple[Path, Path]:
    """labelsTs with its dataset.json beside it, and predictions: a is shifted by one voxel, b is perfect without its spleen."""
    reference, prediction = tmp_path / "Dataset901_Tiny" / "labelsTs", tmp_path / "out"
    describe(reference)
    for case in "ab":
        write_nifti(reference / f"{case}.nii.gz", liver_and_spleen(), SPACING_MM)
    write_nifti(prediction / "a.nii.gz", liver_and_spleen(shift=1), SPACING_MM)
    write_nifti(prediction / "b.nii.gz", liver_and_spleen(spleen=False), SPACING_MM)
    return reference, prediction


def test_summary_is_nnunets(folders: tuple[Path, Path]) -> None:
    evaluate(*folders, workers=1)
    summary = json.loads((folders[1] / "summary.json").read_text())
    assert {"foreground_mean", "mean", "metric_per_case"} <= set(summary)
    assert set(summary["mean"]) == {"1", "2"}
    assert set(summary["foreground_mean"]) >= NNUNET_METRICS
    case_a = summary["metric_per_case"][0]
    assert case_a["reference_file"] == str(folders[0] / "a.nii.gz")
    assert case_a["prediction_file"] == str(folders[1] / "a.nii.gz")
    assert {m: case_a["metrics"]["1"][m] for m in NNUNET_METRICS} == {
        "Dice": 0.75,
        "IoU": 0.6,
        "TP": 48,
        "FP": 16,
        "FN": 16,
        "TN": 16**3 - 80,
        "n_pred": 64,
        "n_ref": 64,
    }
    assert summary["mean"]["1"]["Dice"] == (0.75 + 1) / 2
    assert summary["mean"]["2"]["Dice"] == (1 + 0) / 2
    assert summary["foreground_mean"]["Dice"] == (0.875 + 0.5) / 2


def test_csv_has_a_row_per_case_and_structure(folders: tuple[Path, Path], write_nifti: WriteNifti) -> None:
    write_nifti(folders[0] / "c.nii.gz", liver_and_spleen(spleen=False), SPACING_MM)
    write_nifti(folders[1] / "c.nii.gz", liver_and_spleen(), SPACING_MM)
    describe(folders[0], annotated={"a": ["liver"]})
    result = evaluate(*folders, workers=2)
    table = pd.read_csv(result.csv_file)
    assert result.csv_file == folders[1] / "metrics.csv"
    assert list(zip(table.case, table.structure, table.status, strict=True)) == [
        ("a", "liver", "scored"),
        ("a", "spleen", "not_annotated"),
        ("b", "liver", "scored"),
        ("b", "spleen", "missed"),
        ("c", "liver", "scored"),
        ("c", "spleen", "false_positive"),
    ]
    assert table.Dice.tolist() == pytest.approx([0.75, math.nan, 1, 0, 1, 0], nan_ok=True)
    assert math.isnan(table.n_ref[1])
    assert result.table.loc["spleen", ["missed", "false_positive", "not_annotated"]].tolist() == [1, 1, 1]


def test_absent_is_not_zero(folders: tuple[Path, Path], write_nifti: WriteNifti) -> None:
    write_nifti(folders[0] / "b.nii.gz", liver_and_spleen(spleen=False), SPACING_MM)
    result = evaluate(*folders, workers=1)
    assert result.table.loc["spleen", "Dice"] == 1  # of case a alone
    assert result.table.loc["spleen", ["scored", "absent"]].tolist() == [1, 1]


def test_structures_are_matched_by_name(folders: tuple[Path, Path], write_nifti: WriteNifti) -> None:
    """The predictions number the liver 5; they have no spleen at all, so none is scored."""
    for case in "ab":
        write_nifti(folders[1] / f"{case}.nii.gz", (liver_and_spleen() == 1).astype(np.uint8) * 5, SPACING_MM)
    LabelMap.of({"liver": 5}, {}).write(folders[1])
    result = evaluate(*folders, workers=1)
    assert [(s.structure, s.metrics["Dice"]) for s in result.scores] == [("liver", 1), ("liver", 1)]
    with pytest.raises(UnknownStructure, match="not predicted: spleen; the predictions have: liver"):
        evaluate(*folders, structures=["spleen"])


def test_each_structure_on_its_own_test_cases(folders: tuple[Path, Path]) -> None:
    split = {"liver": StructureSplit(train=("b",), test=("a",)), "spleen": StructureSplit(train=("a",), test=("b",))}
    describe(folders[0], split=split)
    assert [(s.case, s.structure) for s in evaluate(*folders, workers=1).scores] == [("a", "liver"), ("b", "spleen")]
    assert len(evaluate(*folders, workers=1, ignore_split=True).scores) == 4
    (folders[1] / "b.nii.gz").unlink()
    assert len(evaluate(*folders, workers=1, structures=["liver"]).scores) == 1  # b is no test case of the liver: not missed
    describe(folders[0], split={"*": StructureSplit(train=("a", "b"), test=("z",))})
    with pytest.raises(DatasetError, match="none of its 2 cases is a test case"):
        evaluate(*folders)


def test_missing_and_extra_predictions(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    (folders[1] / "b.nii.gz").rename(folders[1] / "z.nii.gz")
    with pytest.raises(DatasetError, match=r"no prediction of b \(1 of 2 cases\); .*--chill"):
        evaluate(*folders)
    assert not (folders[1] / "summary.json").exists()
    result = evaluate(*folders, workers=1, chill=True)
    assert result.missing == ["b"]
    assert json.loads(result.summary_file.read_text())["missing_predictions"] == ["b"]
    assert "no reference for z" in caplog.text


def test_another_grid_names_the_case(folders: tuple[Path, Path], write_nifti: WriteNifti) -> None:
    write_nifti(folders[1] / "b.nii.gz", liver_and_spleen(), (1.0, 1.0, 3.0))
    with pytest.raises(DatasetError, match=r"b: the prediction's grid differs .* \(1.0, 1.0, 2.0\) vs \(1.0, 1.0, 3.0\) mm in .*b.nii.gz"):
        evaluate(*folders)
    write_nifti(folders[1] / "b.nii.gz", np.zeros((16, 16, 15), np.uint8), SPACING_MM)
    with pytest.raises(DatasetError, match=r"b: .*\(16, 16, 16\) vs \(16, 16, 15\)"):
        evaluate(*folders)
    assert not (folders[1] / "summary.json").exists()


def test_labels_without_a_name(folders: tuple[Path, Path], write_nifti: WriteNifti) -> None:
    write_nifti(folders[1] / "b.nii.gz", liver_and_spleen() * 4, SPACING_MM)
    with pytest.raises(DatasetError, match=r"b: labels \[4, 8\] in .*b.nii.gz have no name"):
        evaluate(*folders)


def test_unknown_structure_and_no_dataset_json(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UnknownStructure, match=r"livver; did you mean liver\? this dataset has: liver, spleen"):
        evaluate(*folders, structures=["livver"])
    (folders[0].parent / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="-djfile"):
        evaluate(*folders)
    (folders[0] / "labels.json").touch()
    with pytest.raises(DatasetError, match="are -ref and -pred swapped"):
        evaluate(*folders)


def test_folders_that_can_not_be_meant(folders: tuple[Path, Path], tmp_path: Path) -> None:
    reference, prediction = folders
    with pytest.raises(DatasetError, match="nowhere: no such file or folder; -ref"):
        evaluate(tmp_path / "nowhere", prediction)
    with pytest.raises(DatasetError, match="nowhere: no such file or folder; -pred"):
        evaluate(reference, tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(reference)
    with pytest.raises(DatasetError, match="-ref and -pred are the same"):
        evaluate(reference, tmp_path / "link")
    (tmp_path / "raw").symlink_to(tmp_path)
    with pytest.raises(DatasetError, match="labelsTs: lies in a raw dataset, .*; -pred takes what"):
        evaluate(prediction, reference, workspace=Workspace(tmp_path))
    (prediction / "labels.json").touch()
    with pytest.raises(DatasetError, match="labelsTs: lies in a raw dataset, .* swapped"):
        evaluate(prediction, reference, workspace=Workspace(tmp_path))
    assert sorted(path.name for path in reference.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_a_damaged_prediction_is_predicted_again_and_a_reference_copied(folders: tuple[Path, Path]) -> None:
    for folder, advice in zip(folders, ("copy or download it again", "predict it again with --continue_prediction"), strict=True):
        whole = (folder / "a.nii.gz").read_bytes()
        (folder / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DatasetError, match=rf"{folder.name}/a.nii.gz: cut short or damaged \([^;]*\); {advice}$"):
            evaluate(*folders, workers=0)
        (folder / "a.nii.gz").write_bytes(whole)


def test_support_cases_are_marked_and_left_out_of_the_means(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    """The liver's model has seen b (Dice 1): its mean is a's 0.75. The spleen's has not: (1 + 0) / 2."""
    LabelMap.of({"liver": 1, "spleen": 2}, {}, {"liver": ("b", "elsewhere")}).write(folders[1])
    result = evaluate(*folders, workers=0)
    assert "1 of 2 cases are support cases" in caplog.text
    table = pd.read_csv(result.csv_file)
    assert table[table.in_support][["case", "structure"]].values.tolist() == [["b", "liver"]]
    assert result.table.loc[["liver", "spleen"], "Dice"].tolist() == [0.75, 0.5]
    assert result.table.loc["liver", ["scored", "in_support"]].tolist() == [1, 1]
    summary = json.loads(result.summary_file.read_text())
    assert (summary["mean"]["1"]["Dice"], summary["mean"]["2"]["Dice"]) == (0.75, 0.5)
    assert summary["metric_per_case"][1]["metrics"]["1"]["Dice"] == 1  # there, if not in the mean
    assert evaluate(*folders, workers=0, include_support=True).table.loc["liver", "Dice"] == 0.875


def test_nothing_scored_is_said(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    LabelMap.of({"liver": 1, "spleen": 2}, {}, {"liver": ("a", "b"), "spleen": ("a", "b")}).write(folders[1])
    assert evaluate(*folders, workers=0).table["Dice"].isna().all()
    assert "nothing was scored, so there are no means: of 4 structures in all cases, 4 in the support set" in caplog.text


def test_two_files(folders: tuple[Path, Path]) -> None:
    """Names need not match, and a split is no reason to leave the case out; the folder's own summary stays untouched."""
    reference, prediction = folders
    describe(reference, split={"*": StructureSplit(train=("a", "b"), test=("z",))})
    mine = (prediction / "a.nii.gz").rename(prediction / "mine.nii.gz")
    result = evaluate(reference / "a.nii.gz", mine, workers=0)
    assert [(s.case, s.structure, s.metrics["Dice"]) for s in result.scores] == [("a", "liver", 0.75), ("a", "spleen", 1)]
    assert (result.summary_file.name, result.csv_file.name) == ("mine_summary.json", "mine_metrics.csv")
    with pytest.raises(DatasetError, match="-ref is a folder and -pred a file"):
        evaluate(reference, mine)


def test_scores_of_an_earlier_evaluation_do_not_stay(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders, workers=0)
    (folders[1] / "b.nii.gz").write_bytes(b"")
    with pytest.raises(DatasetError):
        evaluate(*folders, workers=0)
    assert not result.summary_file.exists() and not result.csv_file.exists()


def test_command(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "scores" / "first.json"
    arguments = ["-ref", str(folders[0]), "-pred", str(folders[1]), "-o", str(output), "-np", "1", "-w", str(tmp_path / "workspace")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    liver = next(line for line in printed.splitlines() if line.startswith("liver"))
    assert liver.split()[1:3] == ["0.875", "0.875"]  # mean and median Dice
    assert output.is_file() and printed.count(str(output)) == 1
    assert (tmp_path / "scores" / "first_metrics.csv").is_file()
    assert main([*arguments, "--structures", "livver"]) == 2
    assert "error: unknown structure livver" in capsys.readouterr().err


def test_predictions_stored_with_other_axes_over_the_same_voxels_score_the_same(folders: tuple[Path, Path], write_nifti: WriteNifti) -> None:
    expected = evaluate(*folders, workers=1).scores
    turned = np.diag([-1.0, 1, 2, 1])
    turned[0, 3] = 15
    write_nifti(folders[1] / "a.nii.gz", liver_and_spleen(shift=1)[::-1], turned)
    assert [score.metrics["Dice"] for score in evaluate(*folders, workers=1).scores] == [score.metrics["Dice"] for score in expected]


def test_a_tilted_gantry_is_told(folders: tuple[Path, Path], write_nifti: WriteNifti, caplog: pytest.LogCaptureFixture) -> None:
    tilted = np.diag([1.0, 1, 2, 1])
    tilted[1, 2] = 1
    for folder in folders:
        write_nifti(folder / "a.nii.gz", liver_and_spleen(), tilted)
    evaluate(*folders, workers=1)
    assert [message for message in caplog.messages if "right angles" in message] == [
        "a: the axes do not stand at right angles (a tilted gantry?); volumes are right, surface distances are measured as if they did"
    ]
