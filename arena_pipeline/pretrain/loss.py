"""The losses of a pre-training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

SMOOTHING = 1.0


def softmax_loss(logits: Tensor, target: Tensor, with_cross_entropy: bool) -> Tensor:
    """Soft Dice over the channels that a sample contains, background included, plus cross-entropy if asked for.

    Args:
        logits: (batch, channels, x, y, z).
        target: (batch, x, y, z) int64 channel indices; every structure is annotated.
    """
    probabilities = torch.softmax(logits, dim=1)
    truth = one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    loss = _masked_dice(probabilities, truth, truth.sum((2, 3, 4)) > 0)
    return loss + cross_entropy(logits, target) if with_cross_entropy else loss


def sigmoid_loss(logits: Tensor, target: Tensor, annotated: Tensor, with_cross_entropy: bool) -> Tensor:
    """Soft Dice over the annotated structures, plus binary cross-entropy over them if asked for.

    Args:
        logits: (batch, structures, x, y, z).
        target: (batch, x, y, z) int64, 0 background, k + 1 the structure of channel k.
        annotated: (batch, structures) bool: False where a structure is not annotated in the sample's volume.
    """
    truth = one_hot(target, logits.shape[1] + 1).movedim(-1, 1)[:, 1:].to(logits.dtype)
    loss = _masked_dice(torch.sigmoid(logits), truth, annotated)
    if with_cross_entropy:
        cross = binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3, 4))
        loss = loss + (cross * annotated).sum() / annotated.sum().clamp(min=1)
    return loss


def _masked_dice(probabilities: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    overlap = (probabilities * truth).sum((2, 3, 4))
    size = probabilities.sum((2, 3, 4)) + truth.sum((2, 3, 4))
    dice_loss = 1 - (2 * overlap + SMOOTHING) / (size + SMOOTHING)
    return (dice_loss * counted).sum() / counted.sum().clamp(min=1)
