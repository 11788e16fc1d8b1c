"""Logits in the place of probabilities where nnU-Net interpolates these on the way back to the CT's own grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from scipy import special

from arena_pipeline.predict.windows import Activation

LEAST_PROBABILITY, MOST_PROBABILITY = np.float32(1e-30), np.float32(1 - 2**-24)  # whose logits are taken


@contextmanager
def as_interpolated(probabilities: np.ndarray, activation: Activation, threshold: float, by_logits: bool) -> Iterator[None]:
    """Within it the array holds logits, `by_logits`, instead of probabilities."""
    if by_logits:
        _to_logits_(probabilities, activation, threshold)
    yield
    if by_logits:
        _to_probabilities_(probabilities, activation, threshold)


def _to_logits_(probabilities: np.ndarray, activation: Activation, threshold: float) -> None:
    """In place. Of a softmax the logarithms, which differ from the logits of a voxel by one number; else logits, 0 at the threshold."""
    if activation == "softmax":
        np.log(np.maximum(probabilities, LEAST_PROBABILITY, out=probabilities), out=probabilities)
    else:
        special.logit(np.clip(probabilities, LEAST_PROBABILITY, MOST_PROBABILITY, out=probabilities), out=probabilities)
        probabilities -= np.float32(special.logit(threshold))


def _to_probabilities_(logits: np.ndarray, activation: Activation, threshold: float) -> None:
    """The way back, in place."""
    if activation == "softmax":
        np.exp(logits, out=logits)
    else:
        logits += np.float32(special.logit(threshold))
        special.expit(logits, out=logits)
