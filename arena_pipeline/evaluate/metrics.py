"""Agreement of two masks on one grid. Absent (both masks empty) is NaN, never 0 and never 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np

# scored: both have the structure. absent: neither. missed: only the reference. false_positive: only the prediction.
# not_annotated: nobody looked for it in this case.
Status = Literal["scored", "absent", "missed", "false_positive", "not_annotated"]
STATUSES: tuple[Status, ...] = ("scored", "absent", "missed", "false_positive", "not_annotated")


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a reference and a prediction: true and false positives and negatives."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def reference_voxels(self) -> int:
        return self.true_positives + self.false_negatives

    @property
    def prediction_voxels(self) -> int:
        return self.true_positives + self.false_positives

    @property
    def status(self) -> Status:
        if self.reference_voxels:
            return "scored" if self.prediction_voxels else "missed"
        return "false_positive" if self.prediction_voxels else "absent"

    @property
    def dice(self) -> float:
        """2 TP / (|reference| + |prediction|); 0 where only one is empty, NaN where both are."""
        return _ratio(2 * self.true_positives, self.reference_voxels + self.prediction_voxels)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); 0 where only one is empty, NaN where both are."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)

    @property
    def published_dice(self) -> float:
        """2 TP / (|reference| + |prediction| + 1), as the published numbers were computed; NaN where both are empty."""
        if self.status == "absent":
            return math.nan
        return 2 * self.true_positives / (self.reference_voxels + self.prediction_voxels + 1)


def overlap(reference: np.ndarray, prediction: np.ndarray, outside: int = 0) -> Overlap:
    """Counts of two boolean masks of one shape; `outside` more voxels, outside of both masks, are true negatives."""
    if reference.shape != prediction.shape:
        raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} are not on one grid")
    both = int(np.count_nonzero(reference & prediction))
    in_reference, in_prediction = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    neither = reference.size - in_reference - in_prediction + both + outside
    return Overlap(both, in_prediction - both, in_reference - both, neither)


def volume_error(counts: Overlap, voxel_volume_ml: float) -> tuple[float, float]:
    """(ml, percent of the reference's volume), prediction minus reference: positive is too large.

    Both NaN where both masks are empty; the percentage is also NaN where the reference is empty.
    """
    if counts.status == "absent":
        return math.nan, math.nan
    difference = counts.prediction_voxels - counts.reference_voxels
    return difference * voxel_volume_ml, _ratio(100 * difference, counts.reference_voxels)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 26-connected component of a boolean mask (of equals, one); an empty mask stays empty."""
    components = cc3d.largest_k(np.asarray(mask, dtype=np.uint8), k=1, connectivity=26)
    return np.asarray(components, dtype=bool)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
