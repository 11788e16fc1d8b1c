"""The adaptation loop: from a network, a support set and settings to a trained network and its history."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loss import task_loss
from arena_pipeline.adapt.proximal import proximal_step_
from arena_pipeline.adapt.schedule import cosine_factor, has_converged
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import ArenaError
from arena_pipeline.settings import AdaptationSettings

logger = logging.getLogger(__name__)

CONVERGED = "the smoothed training loss has stopped improving"
COMPLETED = "the schedule is complete"


@dataclass(frozen=True)
class Epoch:
    """One row of the training log. `learning_rate` is that of A and B during the epoch."""

    epoch: int
    loss: float
    learning_rate: float
    effective_rank: dict[str, int]


@dataclass(frozen=True)
class History:
    """All epochs that ran, and why they ended."""

    epochs: tuple[Epoch, ...]
    stop_reason: str


def adapt(
    network: nn.Module,
    trainable: Trainable,
    support: Sequence[SupportVolume],
    settings: AdaptationSettings,
    patch_size: tuple[int, int, int],
    rng: np.random.Generator,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> History:
    """Trains `trainable` in place; the network stays in eval mode. One iteration is one support volume.

    Raises:
        ArenaError: the loss is not finite.
    """
    network.eval()
    optimizer = torch.optim.AdamW([{"params": params, "lr": rate, "base": rate} for rate, params in trainable.groups], weight_decay=0)
    epochs: list[Epoch] = []
    for index in range(settings.max_epochs):
        factor = cosine_factor(index, settings.max_epochs)
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor
        rate = settings.learning_rate * factor
        losses = []
        for volume in rng.permutation(len(support)):
            batch = support[volume].patches(patch_size, settings, rng)
            losses.append(_iterate(network, trainable, optimizer, batch, settings))
            proximal_step_(trainable.gates, settings.gate_step if settings.gate_optimizer == "proximal" else 0.0, rate * settings.l1_weight)
        epochs.append(Epoch(index, float(np.mean(losses)), rate, trainable.effective_rank()))
        _check_finite(epochs[-1])
        on_epoch(epochs[-1])
        if has_converged([epoch.loss for epoch in epochs], settings):
            return History(tuple(epochs), CONVERGED)
    return History(tuple(epochs), COMPLETED)


def _iterate(
    network: nn.Module, trainable: Trainable, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], settings: AdaptationSettings
) -> float:
    """One forward and backward over the patches, and AdamW's step; returns the loss before it."""
    optimizer.zero_grad(set_to_none=True)
    for gate in trainable.gates:
        gate.grad = None
    loss = accumulate_gradients(network, *batch, settings.micro_batch)
    optimizer.step()
    return loss


def accumulate_gradients(network: nn.Module, images: Tensor, segmentations: Tensor, micro_batch: int | None = None) -> float:
    """Adds the gradients of the batch's loss, run `micro_batch` patches at a time, and returns that loss.

    No layer mixes patches (the norms are of instances), and the loss is a mean over them: the parts, each weighted with its
    share of the patches, add up to the full batch's gradients.
    """
    device = next(network.parameters()).device
    size = micro_batch or len(images)
    total = 0.0
    for image, segmentation in zip(images.split(size), segmentations.split(size), strict=True):
        image = image.to(device, memory_format=torch.channels_last_3d)
        loss = task_loss(network(image), segmentation.to(device)) * (len(image) / len(images))
        loss.backward()
        total += float(loss.detach())
    return total


def _check_finite(epoch: Epoch) -> None:
    if not math.isfinite(epoch.loss):
        raise ArenaError(
            f"epoch {epoch.epoch}: the loss is {epoch.loss}; check the support images for wrong values, or lower learning_rate in plans.json"
        )
