"""Whether an adaptation has learned anything, and how one that has not is started again.

Where a network calls everything background, or everything structure, soft Dice has almost no gradient: such an adaptation can't recover, and
finishes its schedule all the same. So it is judged by Dice on patches of its own support set, drawn as for training but never shifted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from arena_pipeline.adapt.loop import Adaptation
from arena_pipeline.adapt.loss import UNKNOWN
from arena_pipeline.settings import AdaptationSettings

LOWER_RATES = 0.5
"""Rates of an attempt, as a share of those of the one before."""
DRAWS = 4
"""Times that patches are drawn from every support volume: what a few show may be chance."""


def attempt_seed(fold: int, number: int) -> tuple[int, ...]:
    """Of attempt 0, 1, ... at a fold: the first has the fold's own."""
    return (fold,) if number == 0 else (fold, number)


def attempt_settings(settings: AdaptationSettings, number: int) -> AdaptationSettings:
    """The settings with the rates of attempt 0, 1, ...: the first has those planned."""
    factor = LOWER_RATES**number
    new_head = settings.new_head_learning_rate
    rates = {
        "learning_rate": settings.learning_rate * factor,
        "decoder_learning_rate": settings.decoder_learning_rate * factor,
        "new_head_learning_rate": None if new_head is None else new_head * factor,
    }
    return settings.model_copy(update=rates)


def support_dice(adaptation: Adaptation) -> tuple[np.ndarray, np.ndarray]:
    """Dice on the support set, of the network and of calling everything the structure: (structures,) each, NaN for one that the patches do not show.

    2 |P and G| / (|P| + |G|) over all patches together; every call draws the same patches.
    """
    settings = adaptation.settings.model_copy(update={"intensity_shift_probability": 0.0})
    rng, counts = np.random.default_rng(0), []
    for volume in adaptation.support:
        for _ in range(DRAWS):
            images, segmentations = volume.patches(adaptation.patch_size, settings, rng)
            counts.append(adaptation.micro_batch.run(lambda size, i=images, s=segmentations: _counts(adaptation, i, s, size)))  # type: ignore[misc]
    overlap, found, there, voxels = np.sum(counts, axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(there > 0, 2 * overlap / (found + there), np.nan), np.where(there > 0, 2 * there / (voxels + there), np.nan)


@torch.no_grad()
def _counts(adaptation: Adaptation, images: Tensor, segmentations: Tensor, size: int) -> np.ndarray:
    """(4, structures) numbers of annotated voxels: true positives, those predicted, those of the structure, all."""
    device, total = adaptation.device, np.zeros(0)
    for image, segmentation in zip(images.split(size), segmentations.split(size), strict=True):
        with adaptation.precision.autocast():
            logits, truth = adaptation.network(image.to(device, memory_format=torch.channels_last_3d)), segmentation.to(device)
        found = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
        structures = range(1, max(logits.shape[1], 2))
        known = truth != UNKNOWN
        counts = [[int(part.sum()) for part in ((found == s) & (truth == s), (found == s) & known, truth == s, known)] for s in structures]
        total = np.array(counts, dtype=float).T + (total if total.size else 0)
    return total


def not_learned(dice: np.ndarray, dice_of_everything: np.ndarray, least_dice: float) -> np.ndarray:
    """Which structures occur in the support set and were not learned; a fit that has learned others is kept all the same."""
    return np.asarray(dice <= np.fmax(least_dice, dice_of_everything))  # False for NaN


def why_not_learned(dice: np.ndarray, dice_of_everything: np.ndarray, least_dice: float) -> str | None:
    """Why Dice like these mean that nothing was learned, in words; None where at least one structure was learned."""
    bound = np.fmax(least_dice, dice_of_everything)
    if np.any(dice > bound):  # False for NaN
        return None
    best = int(np.nanargmax(dice))
    return f"Dice on its own support set is {dice[best]:.3f}, expected more than {bound[best]:.3f}"
