"""The losses of a pre-training.

Each is the loss of a whole batch. Where several processes share a batch, `total` sums a count over the processes, and each process
gets the part of the loss that its own samples have: the parts add up to what one process would have computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

SMOOTHING = 1.0
MAX_BALANCE = 50.0

Total = Callable[[Tensor], Tensor]
CrossEntropy = Literal["none", "plain", "balanced"]
CROSS_ENTROPY: dict[str, CrossEntropy] = {"dice": "none", "dice_ce": "plain", "dice_balanced_ce": "balanced"}  # by PretrainSettings.loss


def total_of_one_process(count: Tensor) -> Tensor:
    """The `total` of a process that has the whole batch."""
    return count


def softmax_loss(logits: Tensor, target: Tensor, cross_entropy: CrossEntropy, total: Total = total_of_one_process) -> Tensor:
    """Soft Dice over the channels that a sample contains, background included, plus a cross-entropy.

    A structure that is still predicted nowhere has almost no Dice gradient, and beside the background its share of a plain
    cross-entropy vanishes too: small structures then stay at zero for thousands of steps. The balanced cross-entropy gives them
    a gradient: it weights a voxel with 1 / sqrt(its channel's share of the sample), at most 50.

    Args:
        logits: (batch, channels, x, y, z).
        target: (batch, x, y, z) int64 channel indices; every structure is annotated.
        cross_entropy: "none", "plain" or "balanced".
        total: sums a count over the processes that share the batch.
    """
    probabilities = torch.softmax(logits, dim=1)
    truth = one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    share = truth.mean((2, 3, 4))
    loss = _masked_dice(probabilities, truth, share > 0, total)
    if cross_entropy == "none":
        return loss
    surprise = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    if cross_entropy == "plain":
        return loss + surprise.mean() * _share(target, total)
    weight = share.clamp(min=MAX_BALANCE**-2).rsqrt().gather(1, target.flatten(1)).view_as(surprise)
    return loss + ((weight * surprise).sum((1, 2, 3)) / weight.sum((1, 2, 3))).mean() * _share(target, total)


def sigmoid_loss(logits: Tensor, target: Tensor, annotated: Tensor, with_cross_entropy: bool, total: Total = total_of_one_process) -> Tensor:
    """Soft Dice over the annotated structures, plus binary cross-entropy over them if asked for.

    Args:
        logits: (batch, structures, x, y, z).
        target: (batch, x, y, z) int64, 0 background, k + 1 the structure of channel k.
        annotated: (batch, structures) bool: False where a structure is not annotated in the sample's volume.
        total: sums a count over the processes that share the batch.
    """
    truth = one_hot(target, logits.shape[1] + 1).movedim(-1, 1)[:, 1:].to(logits.dtype)
    loss = _masked_dice(torch.sigmoid(logits), truth, annotated, total)
    if with_cross_entropy:
        cross = binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3, 4))
        loss = loss + (cross * annotated).sum() / total(annotated.sum()).clamp(min=1)
    return loss


def _share(target: Tensor, total: Total) -> Tensor:
    """The share of the batch's samples that are here: exactly 1 in a process that has them all."""
    samples = target.new_tensor(len(target))
    return samples / total(samples)


def _masked_dice(probabilities: Tensor, truth: Tensor, counted: Tensor, total: Total) -> Tensor:
    overlap = (probabilities * truth).sum((2, 3, 4))
    size = probabilities.sum((2, 3, 4)) + truth.sum((2, 3, 4))
    dice_loss = 1 - (2 * overlap + SMOOTHING) / (size + SMOOTHING)
    return (dice_loss * counted).sum() / total(counted.sum()).clamp(min=1)
