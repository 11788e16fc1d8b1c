"""Logits in the place of probabilities, where nnU-Net averages these over folds and interpolates them on the way back to the CT's own grid."""

from __future__ import annotations

import numpy as np
from scipy import special

from arena_pipeline.predict.windows import Activation

LEAST_PROBABILITY, MOST_PROBABILITY = np.float32(1e-30), np.float32(1 - 2**-24)  # whose logits are taken


def to_logits_(probabilities: np.ndarray, activation: Activation, threshold: float) -> None:
    """In place. For a softmax or margin the logarithms, which differ from the logits by one constant per voxel; else the logits.

    The threshold is subtracted from a structure's own value, so that it wins against 0 or against the highest of a margin's rivals.
    """
    if activation == "sigmoid":
        special.logit(np.clip(probabilities, LEAST_PROBABILITY, MOST_PROBABILITY, out=probabilities), out=probabilities)
    else:
        np.log(np.maximum(probabilities, LEAST_PROBABILITY, out=probabilities), out=probabilities)
    if activation != "softmax":
        probabilities[0] -= np.float32(special.logit(threshold))


def to_probabilities_(logits: np.ndarray, activation: Activation, threshold: float) -> None:
    """The way back, in place; of means over several networks too, whose exponentials don't sum to 1.

    Of a margin the first channel alone: the structure's probability where only the highest of its rivals is left.
    """
    if activation == "softmax":
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=0)
        return
    own = logits[0]
    if activation == "margin":
        own -= logits[1:].max(axis=0)
    own += np.float32(special.logit(threshold))
    special.expit(own, out=own)
