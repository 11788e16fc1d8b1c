"""Where a prediction is unsure: the entropy of its probabilities, and the folds that decide otherwise."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from arena_pipeline.io.labels import label_boxes
from arena_pipeline.predict.export import restore_probability
from arena_pipeline.preprocess.grid import GridMap


def entropy(probability: np.ndarray) -> np.ndarray:
    """-p log2 p - (1 - p) log2 (1 - p) in bits, 0 (sure) to 1 (even), float32."""
    inside = np.clip(probability, 1e-7, 1 - 1e-7)
    found: np.ndarray = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    return found.astype(np.float32, copy=False)


def boundary_entropy(probability: np.ndarray, mask: np.ndarray) -> float:
    """The mean entropy of the voxels that touch the mask's surface from inside or outside; NaN of an empty mask."""
    box = label_boxes(mask).get(1)
    if box is None:
        return math.nan
    around = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
    own = mask[around]
    band = ndimage.binary_dilation(own) & ~ndimage.binary_erosion(own, border_value=1)
    return float(entropy(probability[around][band]).mean()) if band.any() else math.nan


class Uncertainty:
    """Both maps of one case, filled structure by structure: where several are unsure, the most unsure counts.

    Attributes:
        entropy: bits, 0 to 1.
        disagreement: share of the folds that decide otherwise than most of them, 0 to 0.5.
    """

    def __init__(self) -> None:
        self.entropy: np.ndarray | None = None
        self.disagreement: np.ndarray | None = None

    def add_probability(self, probability: np.ndarray) -> None:
        """Of one structure, (x, y, z) on the preprocessed grid."""
        self.entropy = _maximum(self.entropy, entropy(probability))

    def add_disagreement(self, share: np.ndarray) -> None:
        """Of one structure, likewise."""
        self.disagreement = _maximum(self.disagreement, share)

    def restored(self, grid: GridMap) -> dict[str, np.ndarray]:
        """Those that there are, on the CT's own grid; nothing is unsure around the crop."""
        maps = {"entropy": self.entropy, "disagreement": self.disagreement}
        return {name: restore_probability(found, grid) for name, found in maps.items() if found is not None}


def _maximum(there: np.ndarray | None, more: np.ndarray) -> np.ndarray:
    return more if there is None else np.maximum(there, more, out=there)
