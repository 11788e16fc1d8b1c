"""The adaptation loop: from a network, a support set and settings to a trained network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loss import task_loss
from arena_pipeline.adapt.schedule import cosine_factor, has_converged
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.ahead import one_ahead
from arena_pipeline.errors import LossNotFinite
from arena_pipeline.model.out_of_memory import FittingBatch, out_of_memory_as_arena_error
from arena_pipeline.model.precision import Precision
from arena_pipeline.settings import AdaptationSettings, LossName

Drawn = tuple[tuple[Tensor, Tensor], Mapping[str, Any]]
"""Images and segmentations of one iteration, and the generator's state after they were drawn."""
CONVERGED = "the smoothed training loss has stopped improving"
COMPLETED = "the schedule is complete"


@dataclass(frozen=True)
class Epoch:
    """One row of the training log. `learning_rate` is that of the method's own parameters during the epoch."""

    epoch: int
    loss: float
    learning_rate: float
    effective_rank: dict[str, int]


class Adaptation:
    """Trains `trainable` in place, epoch by epoch; the network stays in eval mode. One iteration is one support volume."""

    def __init__(
        self,
        network: nn.Module,
        trainable: Trainable,
        support: Sequence[SupportVolume],
        settings: AdaptationSettings,
        patch_size: tuple[int, int, int],
        rng: np.random.Generator,
    ) -> None:
        self.network, self.trainable, self.support = network.eval(), trainable, support
        self.settings, self.patch_size = settings, patch_size
        self._rng, self._drawn = rng, rng.bit_generator.state  # the generator may be a batch ahead; its state after the last batch used
        self.device = next(network.parameters()).device
        self.precision = Precision.of(settings.precision, self.device)
        self.scaler = self.precision.scaler
        gates = [gate for gate in trainable.gates if gate.requires_grad and not any(gate is one for one in trainable.own)]
        unmoved = [(0.0, gates)] if self.scaler.is_enabled() and gates else []  # the scaler unscales only what an optimizer holds
        groups = [{"params": params, "lr": rate, "base": rate} for rate, params in (*trainable.groups, *unmoved)]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0)
        self.epochs: list[Epoch] = []
        self.micro_batch = FittingBatch(settings.micro_batch or settings.patches_per_volume)

    def run(self, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> str:
        """Trains from the present epoch to the end; returns why it ended.

        Raises:
            LossNotFinite: it is NaN or infinite.
        """
        with closing(one_ahead(self._draw())) as batches:
            while (reason := self._stop_reason()) is None:
                epoch = self._epoch(len(self.epochs), batches)
                if not math.isfinite(epoch.loss):
                    advice = "check the support images for wrong values, or lower learning_rate in plans.json"
                    raise LossNotFinite(f"epoch {epoch.epoch}: the loss is {epoch.loss}", advice=advice)
                self.epochs.append(epoch)
                on_epoch(epoch)
        return reason

    def state_dict(self) -> dict[str, Any]:
        """The state between two epochs, as tensors and JSON values; the tensors may be those in use, not copies."""
        return {
            "trainable": self.trainable.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": json.dumps(self._drawn),
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, in an adaptation prepared in the same way: the same bits as without the interruption.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: the state does not fit.
        """
        self.trainable.load_state_dict(state["trainable"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):  # missing or empty after a run in bf16 or fp32: a new scaler then
            self.scaler.load_state_dict(state["scaler"])
        self._drawn = json.loads(state["rng"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]

    def _stop_reason(self) -> str | None:
        done = len(self.epochs)
        if done and has_converged([epoch.loss for epoch in self.epochs], self.settings) and self.trainable.may_stop(done * len(self.support) - 1):
            return CONVERGED
        return COMPLETED if done >= self.settings.max_epochs else None

    def _epoch(self, index: int, batches: Iterator[Drawn]) -> Epoch:
        factor = cosine_factor(index, self.settings.max_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        rate = self.trainable.rate * factor
        losses = []
        for position in range(len(self.support)):
            batch, self._drawn = next(batches)
            losses.append(self._iterate(batch))
            self.trainable.after_step_(index * len(self.support) + position, rate)
        return Epoch(index, float(torch.stack(losses).cpu().double().mean()), rate, self.trainable.effective_rank())

    def _draw(self) -> Iterator[Drawn]:
        """The batches of all epochs to come."""
        self._rng.bit_generator.state = self._drawn
        while True:
            for volume in self._rng.permutation(len(self.support)):
                images, segmentations = self.support[volume].patches(self.patch_size, self.settings, self._rng)
                if self.device.type == "cuda":
                    images, segmentations = images.pin_memory(), segmentations.pin_memory()
                yield (images, segmentations), self._rng.bit_generator.state

    def _iterate(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """One forward and backward over the patches, and AdamW's step; returns the task's loss before it, without a method's penalty."""

        def attempt(size: int) -> Tensor:
            self.network.zero_grad(set_to_none=True)  # also what an attempt that failed half-way has left
            return accumulate_gradients(self.network, *batch, size, self.settings.loss, self.precision)

        loss = self.micro_batch.run(attempt)
        with out_of_memory_as_arena_error("the optimizer's step"):
            penalty = self.trainable.penalty()
            if penalty is not None:
                self.scaler.scale(penalty).backward()
            if self.scaler.is_enabled():
                self._unscale_()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss

    def _unscale_(self) -> None:
        """Undoes the scaling of the gradients. Where one has overflowed, AdamW skips its step, and the methods' own steps see 0."""
        self.scaler.unscale_(self.optimizer)
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.nan_to_num_(0, 0, 0)


def accumulate_gradients(
    network: nn.Module,
    images: Tensor,
    segmentations: Tensor,
    micro_batch: int | None = None,
    loss_name: LossName = "dice",
    precision: Precision | None = None,
) -> Tensor:
    """Adds the gradients of the batch's loss, run `micro_batch` patches at a time, and returns that loss, a scalar on the device.

    No layer mixes patches (the norms are of instances), and the loss is a mean over them: the parts, each weighted with its
    share of the patches, add up to the full batch's gradients.
    """
    device = next(network.parameters()).device
    size = micro_batch or len(images)
    precision, losses = precision or Precision(device), []
    for image, segmentation in zip(images.split(size), segmentations.split(size), strict=True):
        image = image.to(device, memory_format=torch.channels_last_3d, non_blocking=True)
        truth = segmentation.to(device, non_blocking=True)
        with precision.autocast():
            logits = network(image)
        loss = task_loss(logits.float() if precision.half else logits, truth, loss_name) * (len(image) / len(images))
        precision.scaler.scale(loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()
