"""Which predicted scan a person should look at next, and why: review.csv, a line per case and structure.

The reasons are rules of thumb that need no reference segmentation. They find predictions that look wrong beside the support set or on which the
folds disagree; a prediction without a reason may be wrong too.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cc3d
import numpy as np

from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.labels import label_boxes

REVIEW_NAME = "review.csv"
SECONDS_PER_SECOND_OF_WRITING = 20  # times what writing the table took, at least, between two writings
LOW_FOLD_DICE = 0.7  # folds see other support sets: a few per cent of disagreement is their normal difference
VOLUME_MARGIN = 1.5  # of five volumes the next one lies outside the smallest and largest one time in three, so the range is widened by this


@dataclass(frozen=True)
class ReviewLine:
    """One structure of one predicted case.

    Attributes:
        check: whether a person should look, which is whether there is a reason.
        reasons: in words, separated by "; ".
        volume_ml, mean_hu, sd_hu: of the written segmentation; the intensities NaN where it is empty.
        components: 26-connected pieces.
        touches_border: whether it reaches the edge of the volume.
        fold_dice: mean Dice between the folds on the preprocessed grid; NaN with one fold, or where none has the structure.
        boundary_entropy: mean entropy of the probabilities at its surface there, in bits; NaN where nothing was found.
        support_min_ml, support_max_ml: volumes in the support sets; NaN where they are not known.
    """

    case: str
    structure: str
    check: bool
    reasons: str
    volume_ml: float
    mean_hu: float
    sd_hu: float
    components: int
    touches_border: bool
    fold_dice: float
    boundary_entropy: float
    support_min_ml: float
    support_max_ml: float


def review_case(
    case: str,
    image: Image,
    segmentation: np.ndarray,
    labels: Mapping[str, int],
    support_volumes_ml: Mapping[str, Sequence[float]],
    fold_dice: Mapping[str, float],
    boundary_entropy: Mapping[str, float],
) -> list[ReviewLine]:
    """A line per structure, in the order of `labels`.

    Args:
        image: the CT in HU.
        segmentation: (x, y, z) integers on its grid, as it is written.
        labels: structure -> integer.
        support_volumes_ml: structure -> volume in each support case.
        fold_dice: structure -> mean Dice between the folds.
        boundary_entropy: structure -> mean entropy at its surface.
    """
    boxes = label_boxes(segmentation)
    lines = []
    for name, label in labels.items():
        support = [volume for volume in support_volumes_ml.get(name, ()) if volume > 0]
        lowest, highest = (min(support), max(support)) if support else (math.nan, math.nan)
        volume, mean, sd, pieces, border = _measured(image, segmentation, label, boxes.get(label))
        dice, unsure = fold_dice.get(name, math.nan), boundary_entropy.get(name, math.nan)
        reasons = "; ".join(_reasons(volume, border, dice, (lowest, highest)))
        volume, mean, sd, dice, unsure, lowest, highest = (round(value, 3) for value in (volume, mean, sd, dice, unsure, lowest, highest))
        lines.append(ReviewLine(case, name, bool(reasons), reasons, volume, mean, sd, pieces, border, dice, unsure, lowest, highest))
    return lines


def _measured(image: Image, segmentation: np.ndarray, label: int, box: tuple[slice, ...] | None) -> tuple[float, float, float, int, bool]:
    """Volume (ml), mean and standard deviation (HU), components, whether it touches the edge of the volume."""
    if box is None:
        return 0.0, math.nan, math.nan, 0, False
    mask = segmentation[box] == label
    values = image.array[box].T[mask.T]  # nibabel's arrays are in Fortran order: read along memory, several times faster
    pieces = int(cc3d.connected_components(mask, connectivity=26).max())
    border = any(part.start == 0 or part.stop == length for part, length in zip(box, segmentation.shape, strict=True))
    return len(values) * image.geometry.voxel_volume_ml, float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)), pieces, border


def _reasons(volume_ml: float, border: bool, fold_dice: float, support_ml: tuple[float, float]) -> list[str]:
    lowest, highest = support_ml
    reasons = []
    if volume_ml == 0:
        reasons.append("not found" if math.isnan(fold_dice) else "not found, though some fold finds it")
    elif volume_ml < lowest / VOLUME_MARGIN:
        reasons.append(f"small: {volume_ml:.3g} ml, support sets have {lowest:.3g} to {highest:.3g} ml")
    elif volume_ml > highest * VOLUME_MARGIN:
        reasons.append(f"large: {volume_ml:.3g} ml, support sets have {lowest:.3g} to {highest:.3g} ml")
    if fold_dice < LOW_FOLD_DICE:
        reasons.append(f"folds disagree: mean Dice between them {fold_dice:.2f}")
    if border:
        reasons.append("reaches the edge of the scan, may be cut off")
    return reasons


def sorted_for_review(lines: Sequence[ReviewLine]) -> list[ReviewLine]:
    """The line to look at first comes first: most reasons, then least agreement between the folds; NaN agrees least where nothing was found."""

    def urgency(line: ReviewLine) -> tuple[float, ...]:
        unknown = 0.0 if line.components == 0 else 1.0
        return (-(line.reasons.count("; ") + 1 if line.check else 0), unknown if math.isnan(line.fold_dice) else line.fold_dice)

    return sorted(lines, key=lambda line: (*urgency(line), line.case, line.structure))


def write_review(path: Path, lines: Sequence[ReviewLine]) -> None:
    """The table, sorted; a value that is not there is an empty field."""
    names = [field.name for field in fields(ReviewLine)]
    with replace_when_done(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for line in sorted_for_review(lines):
            writer.writerow(["" if isinstance(value := getattr(line, name), float) and math.isnan(value) else value for name in names])


class ReviewTable:
    """review.csv while a folder is predicted: the lines of each case are written soon after it is done, those of cases that stay are kept.

    Args:
        cases: those with a segmentation in the folder; an earlier run's lines of others are dropped.
    """

    def __init__(self, path: Path, cases: Collection[str]) -> None:
        self.path = path
        self._cases: dict[str, list[ReviewLine]] = {}
        for line in read_review(path):
            if line.case in cases:
                self._cases.setdefault(line.case, []).append(line)
        self._write_seconds, self._written_at = 0.0, -math.inf

    @property
    def lines(self) -> list[ReviewLine]:
        """The most urgent first."""
        return sorted_for_review([line for lines in self._cases.values() for line in lines])

    def of(self, case: str) -> list[ReviewLine]:
        """The lines of a case."""
        return self._cases.get(case, [])

    def put(self, case: str, lines: Sequence[ReviewLine]) -> None:
        """Replaces the lines of a case, and writes the file unless that would take much of the time: ten thousand cases have a long one."""
        self.update({case: lines})
        if time.monotonic() - self._written_at > SECONDS_PER_SECOND_OF_WRITING * self._write_seconds:
            self.write()

    def update(self, cases: Mapping[str, Sequence[ReviewLine]]) -> None:
        """Replaces the lines of these cases in memory alone."""
        self._cases.update({case: list(lines) for case, lines in cases.items()})

    def write(self) -> None:
        """The file as it should be now; at the end, and when a command is interrupted."""
        began = time.monotonic()
        write_review(self.path, self.lines)
        self._written_at = time.monotonic()
        self._write_seconds = self._written_at - began


def read_review(path: Path) -> list[ReviewLine]:
    """The lines of an earlier run; none where there is no such file or it is not one of these."""
    readers: dict[str, Callable[[str], Any]] = {
        "float": lambda text: float(text or "nan"),
        "int": int,
        "bool": lambda text: text == "True",
        "str": str,
    }
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [ReviewLine(**{one.name: readers[str(one.type)](row[one.name]) for one in fields(ReviewLine)}) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
