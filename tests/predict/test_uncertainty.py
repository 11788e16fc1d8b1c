"""Entropy and disagreement, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arena_pipeline.predict.fold_agreement import FoldDecisions
from arena_pipeline.predict.uncertainty import Uncertainty, boundary_entropy, entropy


def test_entropy_in_bits() -> None:
    """H(1/2) = 1, H(1/4) = 2 - 3/4 log2 3 = 0.8113, and 0 of what is sure."""
    assert entropy(np.array([0.5, 0.25, 0.75, 0.0, 1.0], np.float32)) == pytest.approx([1, 0.8113, 0.8113, 0, 0], abs=1e-4)


def test_entropy_at_the_surface_alone() -> None:
    """A cube of 3^3 has a core of one voxel, 26 on its surface, and 6 x 9 face neighbours outside; of these, those outside are even."""
    probability, mask = np.ones((7, 7, 7), np.float32), np.zeros((7, 7, 7), bool)
    mask[2:5, 2:5, 2:5] = True
    probability[3, 3, 3] = 0.5  # the core: not at the surface
    probability[~mask] = 0.5
    assert boundary_entropy(probability, mask) == pytest.approx(54 / (54 + 26), abs=1e-4)
    assert math.isnan(boundary_entropy(probability, np.zeros_like(mask)))


def test_disagreement_is_the_share_of_the_fewer() -> None:
    """Of three folds 0, 1, 2 and 3 find a voxel."""
    decisions = FoldDecisions((4, 1, 1), {"liver": 0}, "sigmoid", threshold=0.5)
    for fold, found in enumerate(([0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1])):
        decisions.add(fold, (slice(0, 4), slice(0, 1), slice(0, 1)), np.array(found, np.float32).reshape(1, 4, 1, 1))
    assert decisions.disagreement("liver").ravel() == pytest.approx([0, 1 / 3, 1 / 3, 0])


def test_of_several_structures_the_most_unsure_counts() -> None:
    maps = Uncertainty()
    for probability in ([0.5, 0.0], [0.25, 0.25]):
        maps.add_probability(np.array(probability, np.float32).reshape(2, 1, 1))
    assert maps.entropy is not None and maps.entropy.ravel() == pytest.approx([1, 0.8113], abs=1e-4)
    assert maps.disagreement is None
