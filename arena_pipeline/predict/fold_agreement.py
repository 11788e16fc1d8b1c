"""How far the folds of a task agree on a volume: each fold's own decision, voxel by voxel, on the preprocessed grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from arena_pipeline.predict.windows import Activation, Box


class FoldDecisions:
    """Every fold's own segmentation, one byte per voxel (two where a softmax has more than 255 channels).

    Args:
        shape: of the preprocessed volume, (x, y, z).
        channels: structure -> output channel; the background of a softmax is channel 0.
        threshold: what a structure of a sigmoid task must exceed, and of a margin among itself and its highest rival.
    """

    def __init__(self, shape: tuple[int, ...], channels: Mapping[str, int], activation: Activation, threshold: float) -> None:
        if activation != "softmax" and len(channels) != 1:
            raise ValueError(f"a {activation} task with folds has one structure, found {', '.join(channels)}")
        self._shape, self._channels, self._activation, self._threshold = shape, dict(channels), activation, threshold
        self._folds: list[np.ndarray] = []

    def add(self, fold: int, box: Box, probabilities: np.ndarray) -> None:
        """A part of one fold's probabilities, (channels, x, y, z), at `box`; a fold's first part comes after that of the fold before, from 0."""
        if fold == len(self._folds):
            self._folds.append(np.zeros(self._shape, np.uint8 if len(probabilities) <= 256 else np.uint16))
        if self._activation == "softmax":
            self._folds[fold][box] = probabilities.argmax(axis=0)
        elif self._activation == "margin":
            rivals = probabilities[1:].max(axis=0)
            self._folds[fold][box] = probabilities[0] * (1 - self._threshold) > rivals * self._threshold
        else:
            self._folds[fold][box] = probabilities[0] > self._threshold

    def mean_pairwise_dice(self) -> dict[str, float]:
        """Structure -> mean Dice over all pairs of folds in which at least one has it; 1 agrees in full, NaN without such a pair."""
        return {name: self._mean_dice(name) for name in self._channels}

    def disagreement(self, structure: str) -> np.ndarray:
        """(x, y, z) float32: the share of the folds that decide otherwise than most of them, 0 to 0.5."""
        value = self._value(structure)
        share = sum((fold == value).astype(np.float32) for fold in self._folds) / np.float32(len(self._folds))
        return np.minimum(share, 1 - share)

    def _value(self, structure: str) -> int:
        return self._channels[structure] if self._activation == "softmax" else 1

    def _mean_dice(self, structure: str) -> float:
        masks = [fold == self._value(structure) for fold in self._folds]
        sizes = [int(np.count_nonzero(mask)) for mask in masks]
        pairs = [(i, j) for i, j in itertools.combinations(range(len(masks)), 2) if sizes[i] + sizes[j]]
        if not pairs:
            return math.nan
        return float(np.mean([2 * np.count_nonzero(masks[i] & masks[j]) / (sizes[i] + sizes[j]) for i, j in pairs]))
