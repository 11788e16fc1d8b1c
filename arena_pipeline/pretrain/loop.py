"""The pre-training loop, resumable to the same result."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.pretrain.loss import softmax_loss
from arena_pipeline.pretrain.patches import PatchSteps
from arena_pipeline.pretrain.settings import PretrainSettings

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_STEPS = 100

Loss = Callable[[Tensor, Tensor], Tensor]


class Pretraining:
    """The state of a run: network, optimizer, averaged weights and the number of steps done."""

    def __init__(self, network: nn.Module, settings: PretrainSettings) -> None:
        self.network = network
        self.settings = settings
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.averaged = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        self.done = 0

    def step(self, images: Tensor, targets: Tensor, loss: Loss) -> float:
        """One step of AdamW; returns the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate_factor(self.done, self.settings)
        self.optimizer.zero_grad(set_to_none=True)
        value = loss(self.network(images.to(memory_format=torch.channels_last_3d)), targets)
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        self.optimizer.step()
        self.done += 1
        self._average_()
        return float(value.detach())

    @torch.no_grad()
    def _average_(self) -> None:
        # the average trusts young weights less: its memory grows to the asked-for length over the first steps
        decay = min(self.settings.averaging, self.done / (10 + self.done))
        for name, parameter in self.network.named_parameters():
            self.averaged[name].lerp_(parameter.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "averaged": self.averaged, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged = state["averaged"]
        self.done = state["done"]

    def averaged_state(self) -> dict[str, Tensor]:
        """The network's state dict with the averaged parameters."""
        return {**self.network.state_dict(), **self.averaged}


def rate_factor(step: int, settings: PretrainSettings) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return (1 + math.cos(math.pi * progress)) / 2


def pretrain(preset: FoundationPreset, run: Pretraining, steps: PatchSteps, folder: Path, workers: int) -> None:
    """Trains until the settings' last step, from where the checkpoint in `folder` stands; logs a row per step to training_log.csv."""
    settings, checkpoint = run.settings, folder / CHECKPOINT
    if checkpoint.is_file():
        run.load_state_dict(torch.load(checkpoint, weights_only=True))
        logger.info("continues at step %d of %d", run.done, settings.steps)
    with_cross_entropy = settings.loss == "dice_ce"

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return softmax_loss(logits, targets, with_cross_entropy)

    loader = DataLoader(
        Subset(steps, range(run.done, settings.steps)),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
    )
    log = folder / "training_log.csv"
    _cut_log(log, run.done)
    bar = tqdm(total=settings.steps, initial=run.done, desc=preset.name, unit="step", disable=None)
    with log.open("a", newline="", encoding="utf-8") as file, bar:
        writer = csv.writer(file)
        for images, targets in loader:
            value = run.step(images, targets, loss)
            writer.writerow([run.done, f"{value:.5f}"])
            bar.set_postfix(loss=f"{value:.3f}")
            bar.update()
            if run.done % CHECKPOINT_STEPS == 0 or run.done == settings.steps:
                file.flush()
                with replace_when_done(checkpoint) as temporary:
                    torch.save(run.state_dict(), temporary)


def _cut_log(log: Path, done: int) -> None:
    """Drops the rows after the checkpoint, whose steps run again."""
    rows = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    log.write_text("".join(["step,loss\n", *rows[1 : done + 1]]), encoding="utf-8")
