"""The loss of an adaptation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

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


def task_loss(logits: Tensor, segmentation: Tensor, loss: LossName = "dice") -> Tensor:
    """The loss of a task's logits (batch, channels, x, y, z) against its segmentation (batch, x, y, z).

    One channel is a binary task (sigmoid, segmentation 0 or 1); several are a softmax whose channel 0, the background, counts. Voxels that are
    UNKNOWN in the segmentation count neither as prediction nor as target.

    "dice_ce" adds the cross-entropy, the mean over a patch's annotated voxels: it still has a gradient where almost nothing is found
    and soft Dice is flat.
    """
    annotated = segmentation != UNKNOWN
    known = annotated.unsqueeze(1).to(logits.dtype)
    segmentation = torch.where(annotated, segmentation, 0).long()
    if logits.shape[1] == 1:
        target = segmentation.unsqueeze(1).to(logits.dtype)
        probabilities = torch.sigmoid(logits)
    else:
        target = one_hot(segmentation, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        probabilities = torch.softmax(logits, dim=1)
    value = soft_dice_loss(probabilities * known, target * known)
    if loss == "dice":
        return value
    if logits.shape[1] == 1:
        entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")[:, 0]
    else:
        entropy = cross_entropy(logits, segmentation, reduction="none")
    voxels = (1, 2, 3)
    return value + ((entropy * annotated).sum(voxels) / annotated.sum(voxels).clamp(min=1)).mean()
