"""Scores of label maps, the summary and the tables, from arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arena_pipeline.evaluate.scores import (
    METRICS,
    LabelPair,
    StructureScore,
    native_scores,
    not_annotated_metrics,
    published_score,
    structure_table,
    summarise,
)
from arena_pipeline.io.geometry import Geometry

GRID = Geometry((20, 20, 20), np.diag([1.0, 1.0, 2.0, 1.0]))


def label_maps() -> tuple[np.ndarray, np.ndarray]:
    """liver (1 in the reference, 2 in the prediction) shifted by a voxel; spleen missed; kidney invented; aorta absent in both."""
    reference, prediction = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    reference[2:6, 2:6, 2:6] = 1
    prediction[3:7, 2:6, 2:6] = 2
    reference[12:14, 12:14, 12:14] = 2
    prediction[16:18, 16:18, 16:18] = 7
    return reference, prediction


LABELS = {"liver": LabelPair(1, 2), "spleen": LabelPair(2, 1), "kidney": LabelPair(3, 7), "aorta": LabelPair(4, 9)}


def test_native_scores() -> None:
    scores = native_scores(*label_maps(), LABELS, GRID)
    assert {name: status for name, (status, _) in scores.items()} == {
        "liver": "scored",
        "spleen": "missed",
        "kidney": "false_positive",
        "aorta": "absent",
    }
    liver = scores["liver"][1]
    assert tuple(liver) == METRICS["native"]
    assert {m: liver[m] for m in ("Dice", "TP", "FP", "FN", "TN", "n_pred", "n_ref")} == {
        "Dice": 0.75,
        "TP": 48,
        "FP": 16,
        "FN": 16,
        "TN": 20**3 - 80,
        "n_pred": 64,
        "n_ref": 64,
    }
    assert (liver["IoU"], liver["NSD_1mm"], liver["HD95_mm"]) == pytest.approx((0.6, 1.0, 1.0))
    assert (liver["volume_error_ml"], liver["volume_error_percent"]) == (0, 0)


def test_missed_false_positive_and_absent() -> None:
    """8 voxels of 2 mm3 are 0.016 ml."""
    scores = {name: metrics for name, (_, metrics) in native_scores(*label_maps(), LABELS, GRID).items()}
    missed, invented, absent = scores["spleen"], scores["kidney"], scores["aorta"]
    for metrics in (missed, invented):
        assert [metrics[m] for m in ("Dice", "IoU", "NSD_1mm", "NSD_2mm")] == [0, 0, 0, 0]
        assert math.isnan(metrics["HD95_mm"])
    assert (missed["volume_error_ml"], missed["volume_error_percent"]) == pytest.approx((-0.016, -100))
    assert invented["volume_error_ml"] == pytest.approx(0.016)
    assert math.isnan(invented["volume_error_percent"])
    assert all(math.isnan(absent[m]) for m in METRICS["native"] if m not in ("TP", "FP", "FN", "TN", "n_pred", "n_ref"))
    assert (absent["TP"], absent["n_ref"], absent["TN"]) == (0, 0, 20**3)


def test_published_dice_has_a_one_below() -> None:
    reference, prediction = np.zeros((6, 6, 6), bool), np.zeros((6, 6, 6), bool)
    reference[1:3, 1:3, 1:3] = prediction[1:3, 1:3, 1:4] = True
    assert published_score(reference, prediction)[1]["Dice"] == 2 * 8 / (8 + 12 + 1)
    assert published_score(reference & False, prediction & False)[0] == "absent"
    assert tuple(published_score(reference, prediction)[1]) == METRICS["published"]


def score(case: str, structure: str, status: str, dice: float) -> StructureScore:
    return StructureScore(case, structure, status, {**not_annotated_metrics("native"), "Dice": dice})  # type: ignore[arg-type]


SCORES = [
    score("a", "liver", "scored", 0.9),
    score("b", "liver", "missed", 0.0),
    score("c", "liver", "absent", math.nan),
    score("a", "spleen", "scored", 0.6),
    score("b", "spleen", "not_annotated", math.nan),
]


def test_means_are_over_the_scores_there_are() -> None:
    """liver (0.9 + 0) / 2, spleen 0.6 / 1; foreground: the mean of the two."""
    files = {case: (f"ref/{case}.nii.gz", f"pred/{case}.nii.gz") for case in "abc"}
    summary = summarise(SCORES, {"liver": 1, "spleen": 2}, files, "native")
    assert summary["mean"]["1"]["Dice"] == pytest.approx(0.45)
    assert summary["mean"]["2"]["Dice"] == pytest.approx(0.6)
    assert summary["foreground_mean"]["Dice"] == pytest.approx(0.525)
    assert math.isnan(summary["foreground_mean"]["HD95_mm"])
    last = summary["metric_per_case"][2]
    assert (last["reference_file"], last["prediction_file"]) == files["c"]
    assert math.isnan(last["metrics"]["1"]["Dice"])
    assert last["status"] == {"1": "absent", "2": "not_evaluated"}


def test_false_positives_are_told_apart_from_missed_structures() -> None:
    """(0.9 + 0 + 0) / 3 with the false positive, (0.9 + 0) / 2 over the cases that have the structure."""
    invented = score("d", "liver", "false_positive", 0.0)
    row = structure_table([*SCORES[:3], invented], "native").loc["liver"]
    assert row[["Dice", "Dice_present", "false_positive"]].tolist() == pytest.approx([0.3, 0.45, 1])


def test_structure_table() -> None:
    table = structure_table(SCORES, "native")
    assert table.loc["liver", ["scored", "absent", "missed", "false_positive", "not_annotated"]].tolist() == [1, 1, 1, 0, 0]
    assert table.loc["liver", ["Dice", "Dice_median"]].tolist() == pytest.approx([0.45, 0.45])
    assert table.loc["all structures", "Dice"] == pytest.approx(0.525)
    assert table.loc["all structures", "scored"] == 2
    assert len(structure_table(SCORES[:3], "native")) == 1  # no row for all where there is one


def test_volumes_under_a_tilted_gantry_are_those_of_the_determinant() -> None:
    tilted = GRID.affine.copy()
    tilted[:3, 2] = (0, 4 * math.sin(math.radians(30)), 4 * math.cos(math.radians(30)))  # columns of 4 mm, voxels of 3.46 mm3
    reference, prediction = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    reference[2:12, 2:12, 2:12] = 1
    prediction[2:12, 2:12, 2:7] = 1
    _, metrics = native_scores(reference, prediction, {"liver": LabelPair(1, 1)}, Geometry((20, 20, 20), tilted))["liver"]
    assert metrics["volume_error_ml"] == pytest.approx(-500 * 2 * math.sqrt(3) / 1000)


def test_voxels_that_nobody_annotated_are_in_no_count() -> None:
    reference, prediction = label_maps()
    reference[:, :, 4:] = 9  # of liver's four slices two are annotated, of the spleen none
    scores = native_scores(reference, prediction, LABELS, GRID, ignore_label=9)
    status, liver = scores["liver"]
    assert (status, liver["TP"], liver["FP"], liver["FN"], liver["TN"]) == ("scored", 24, 8, 8, 20 * 20 * 4 - 40)
    assert liver["Dice"] == 0.75
    assert math.isnan(liver["NSD_1mm"]) and math.isnan(liver["HD95_mm"])
    assert scores["spleen"][0] == "absent"
    assert scores["kidney"][0] == "absent"
    mask, unlabelled = reference == 1, reference == 9
    assert published_score(mask, prediction == 2, unlabelled, reduce=True)[1]["Dice"] == 2 * 24 / (32 + 32 + 1)
