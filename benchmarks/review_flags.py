"""Do the columns of review.csv find the bad segmentations? Measured against references.

    python -m benchmarks.review_flags REFERENCES PREDICTIONS ...

REFERENCES: a labelsTs; PREDICTIONS: outputs of arena_predict with their review.csv. For each column, as a suspicion (more is worse): Spearman's rank
correlation with the true Dice over the cases, and the area under the risk-coverage curve: the mean 1 - Dice of the i least suspicious cases, averaged
over all i; beside it those of any order (no flag) and of the best order. Both are computed per structure and output, then averaged.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

from arena_pipeline.evaluate.metrics import overlap
from arena_pipeline.io.images import read_geometry, read_segmentation
from arena_pipeline.io.segmentations import aligned
from arena_pipeline.predict.labels import LabelMap

WORST = math.inf  # the suspicion of a structure that was not found


def number(row: dict[str, str], name: str) -> float:
    """NaN for an empty field."""
    return float(row[name] or "nan")


def outside_support(row: dict[str, str]) -> float:
    """The logarithm of the factor by which the volume lies outside the support's range; 0 inside."""
    volume, low, high = (number(row, name) for name in ("volume_ml", "support_min_ml", "support_max_ml"))
    return WORST if volume == 0 else max(0.0, math.log(volume / high), math.log(low / volume))


SUSPICIONS: dict[str, Callable[[dict[str, str]], float]] = {
    "fold_dice": lambda row: -number(row, "fold_dice") if row["fold_dice"] else WORST,
    "boundary_entropy": lambda row: number(row, "boundary_entropy") if row["boundary_entropy"] else WORST,
    "volume outside the support's": outside_support,
    "sd_hu": lambda row: number(row, "sd_hu") if row["sd_hu"] else WORST,
    "mean_hu, away from the median": lambda row: number(row, "mean_hu") if row["mean_hu"] else WORST,
    "components": lambda row: number(row, "components") or WORST,
    "touches_border": lambda row: float(row["touches_border"] == "True"),
    "number of reasons": lambda row: float(row["reasons"].count("; ") + 1 if row["reasons"] else 0),
}


def risk_coverage(suspicion: np.ndarray, dice: np.ndarray) -> float:
    """Area under the curve; cases of equal suspicion have no order, so each counts with their mean risk."""
    risk = 1 - dice
    equals = np.array([risk[suspicion == value].mean() for value in suspicion])
    ordered = equals[np.argsort(suspicion, kind="stable")]
    return float(np.mean(np.cumsum(ordered) / np.arange(1, len(ordered) + 1)))


def scored(references: Path, predictions: Path) -> list[dict[str, str]]:
    """The rows of review.csv whose case has a reference with the structure, with the true "Dice"."""
    label_map = LabelMap.read(predictions)
    rows = []
    with open(predictions / "review.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            reference = references / f"{row['case']}.nii.gz"
            if not reference.is_file():
                continue
            found = predictions / f"{row['case']}.nii.gz"
            truth = aligned(read_segmentation(reference), read_geometry(found)).array == label_map.labels[row["structure"]]
            if truth.any():
                counts = overlap(truth, read_segmentation(found).array == label_map.labels[row["structure"]])
                rows.append({**row, "Dice": str(counts.dice)})
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("references", type=Path)
    options.add_argument("predictions", type=Path, nargs="+")
    args = options.parse_args()
    groups = []
    for folder in args.predictions:
        rows = scored(args.references, folder)
        groups += [[row for row in rows if row["structure"] == name] for name in dict.fromkeys(row["structure"] for row in rows)]
    groups = [group for group in groups if len(group) > 2]
    dice = [np.array([float(row["Dice"]) for row in group]) for group in groups]
    for group, own in zip(groups, dice, strict=True):
        print(f"{group[0]['structure']}: {len(own)} cases, Dice {own.mean():.3f}, worst {own.min():.3f}")
    print("| flag | rank correlation with the Dice | area under the risk-coverage curve |\n| --- | --- | --- |")
    for name, suspicion in SUSPICIONS.items():
        values = [np.array([suspicion(row) for row in group]) for group in groups]
        if "away" in name:
            values = [np.abs(one - np.median(one[np.isfinite(one)])) for one in values]
        told = [stats.spearmanr(one, own).statistic if len(set(one)) > 1 else 0.0 for one, own in zip(values, dice, strict=True)]
        area = [risk_coverage(one, own) for one, own in zip(values, dice, strict=True)]
        print(f"| {name} | {np.mean(told):+.2f} ({min(told):+.2f} to {max(told):+.2f}) | {np.mean(area):.3f} |")
    print(f"| none (any order) | 0 | {np.mean([1 - own.mean() for own in dice]):.3f} |")
    print(f"| the Dice itself | -1 | {np.mean([risk_coverage(-own, own) for own in dice]):.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
