"""Review flags on agreement and volumes worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.predict.fold_agreement import FoldDecisions
from arena_pipeline.predict.review import read_review, review_case, sorted_for_review, write_review


def test_dice_between_folds_of_a_sigmoid_task() -> None:
    """Folds of 4, 4 (shifted by half) and 0 voxels: 2 2 / 8 = 0.5, and 0 twice; the mean is 1/6."""
    decisions = FoldDecisions((8, 1, 1), {"liver": 0}, "sigmoid", threshold=0.5)
    for fold, where in enumerate((slice(0, 4), slice(2, 6), slice(0, 0))):
        probabilities = np.full((1, 8, 1, 1), 0.5, np.float32)  # at the threshold, so not above it
        probabilities[0, where] = 0.9
        for half in (slice(0, 4), slice(4, 8)):
            decisions.add(fold, (half, slice(0, 1), slice(0, 1)), probabilities[:, half])
    assert decisions.mean_pairwise_dice() == {"liver": pytest.approx(0.5 / 3)}


def test_dice_between_folds_of_a_softmax_task() -> None:
    """Folds choose 1 1 2 0 and 1 2 2 0: liver 2 1 / 3, spleen 2 1 / 3, and no fold finds the aorta."""
    decisions = FoldDecisions((4, 1, 1), {"liver": 1, "spleen": 2, "aorta": 3}, "softmax", threshold=0.5)
    for fold, winners in enumerate(([1, 1, 2, 0], [1, 2, 2, 0])):
        decisions.add(fold, (slice(0, 4), slice(0, 1), slice(0, 1)), np.eye(4, dtype=np.float32)[winners].T.reshape(4, 4, 1, 1))
    found = decisions.mean_pairwise_dice()
    assert (found["liver"], found["spleen"]) == pytest.approx((2 / 3, 2 / 3))
    assert math.isnan(found["aorta"])


def scan() -> tuple[Image, np.ndarray]:
    """20^3 voxels of 1 ml: liver (1) of 4 x 4 x 4 inside, in two intensities; spleen (2) of 2 + 1 voxels, one of them at the edge."""
    segmentation = np.zeros((20, 20, 20), np.uint8)
    segmentation[4:8, 4:8, 4:8] = 1
    segmentation[12:14, 12, 12] = segmentation[0, 0, 0] = 2
    hu = np.zeros(segmentation.shape, np.int16)
    hu[4:6, 4:8, 4:8], hu[6:8, 4:8, 4:8] = 40, 60
    return Image(hu, Geometry(hu.shape, np.diag([10.0, 10.0, 10.0, 1.0]))), segmentation


LABELS = {"liver": 1, "spleen": 2, "aorta": 3}


def test_what_is_measured() -> None:
    liver, spleen, aorta = review_case("a", *scan(), LABELS, {"liver": (60.0, 70.0)}, {"liver": 0.9}, {"liver": 0.2})
    assert (liver.volume_ml, liver.mean_hu, liver.sd_hu, liver.components, liver.touches_border) == (64, 50, 10, 1, False)
    assert (liver.check, liver.reasons, liver.fold_dice, liver.support_min_ml, liver.support_max_ml) == (False, "", 0.9, 60, 70)
    assert liver.boundary_entropy == 0.2 and math.isnan(spleen.boundary_entropy)
    assert (spleen.volume_ml, spleen.components, spleen.touches_border, spleen.check) == (3, 2, True, True)
    assert (aorta.volume_ml, aorta.components, aorta.reasons) == (0, 0, "not found")
    assert math.isnan(aorta.mean_hu) and math.isnan(aorta.support_min_ml)


@pytest.mark.parametrize(
    ("dice", "support", "reasons"),
    [
        (0.7, (96.0, 100.0), []),  # at the limits: 64 ml is 96 / 1.5
        (0.69, (96.0,), ["folds disagree: mean Dice between them 0.69"]),
        (0.9, (97.0, 300.0), ["small: 64 ml, support sets have 97 to 300 ml"]),
        (0.9, (20.0, 42.0), ["large: 64 ml, support sets have 20 to 42 ml"]),
        (0.9, (0.0, 60.0), []),  # a support case without the structure says nothing about its volume
        (0.1, (), ["folds disagree: mean Dice between them 0.10"]),
    ],
)
def test_reasons_at_their_limits(dice: float, support: tuple[float, ...], reasons: list[str]) -> None:
    line = review_case("a", *scan(), {"liver": 1}, {"liver": support}, {"liver": dice}, {})[0]
    assert line.reasons == "; ".join(reasons) and line.check == bool(reasons)


def test_the_first_line_is_the_one_to_look_at_next_and_files_are_read_back(tmp_path: Path) -> None:
    """Two reasons before one, then the lower agreement; without a reason at the end."""
    image, segmentation = scan()
    dice = {"two": {"liver": 0.5}, "low": {"liver": 0.3}, "high": {"liver": 0.6}, "good": {"liver": 0.95}}
    support = {"two": {"liver": (5.0,)}}
    lines = [
        review_case(case, image, segmentation, {"liver": 1}, support.get(case, {}), dice[case], {"liver": 0.1})[0]
        for case in ("good", "high", "two", "low")
    ]
    assert [line.case for line in sorted_for_review(lines)] == ["two", "low", "high", "good"]
    write_review(tmp_path / "review.csv", lines)
    again = read_review(tmp_path / "review.csv")
    assert [line.case for line in again] == ["two", "low", "high", "good"]
    assert again[0] == lines[2]
    (tmp_path / "review.csv").write_text("case,structure\na,liver\n")
    assert read_review(tmp_path / "review.csv") == [] == read_review(tmp_path / "none.csv")
