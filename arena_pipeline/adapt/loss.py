"""The loss of an adaptation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from arena_pipeline.settings import LossName

SMOOTHING = 1.0
UNKNOWN = 255
"""In place of a channel in a patch's segmentation: nobody annotated this voxel, and no term of the loss counts it."""


def soft_dice(probabilities: Tensor, target: Tensor) -> Tensor:
    """(2 sum(p g) + 1) / (sum p + sum g + 1) per sample and channel; both (batch, channels, x, y, z), the result (batch, channels)."""
    voxels = (2, 3, 4)
    overlap = (probabilities * target).sum(voxels)
    size = probabilities.sum(voxels) + target.sum(voxels)
    return (2 * overlap + SMOOTHING) / (size + SMOOTHING)


def soft_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, the mean over samples and channels."""
    return (1 - soft_dice(probabilities, target)).mean()


def log_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """-log(soft Dice), the mean over samples and channels.

    Its gradient is that of soft Dice over the Dice itself: where next to nothing is found, and soft Dice is flat, it still points back.
    """
    return -soft_dice(probabilities, target).log().mean()


LOSSES = {"dice": soft_dice_loss, "log_dice": log_dice_loss}


def task_loss(logits: Tensor, segmentation: Tensor, loss: LossName = "dice") -> Tensor:
    """The loss of a task's logits (batch, channels, x, y, z) against its segmentation (batch, x, y, z).

    One channel is a binary task (sigmoid, segmentation 0 or 1); several are a softmax whose channel 0, the background, counts. Voxels that are
    UNKNOWN in the segmentation count neither as prediction nor as target.
    """
    known = (segmentation != UNKNOWN).unsqueeze(1).to(logits.dtype)
    segmentation = torch.where(segmentation == UNKNOWN, 0, segmentation)
    if logits.shape[1] == 1:
        return LOSSES[loss](torch.sigmoid(logits) * known, segmentation.unsqueeze(1).to(logits.dtype))
    target = one_hot(segmentation.long(), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return LOSSES[loss](torch.softmax(logits, dim=1) * known, target * known)
