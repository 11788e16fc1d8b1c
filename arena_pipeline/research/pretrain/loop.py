"""The pre-training loop, resumable to the same result, by one process or several."""

from __future__ import annotations

import csv
import logging
import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from arena_pipeline.errors import ArenaError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.atomic import replace_when_done, write_text
from arena_pipeline.io.damage import DAMAGED
from arena_pipeline.io.space import full_disk_as_no_space
from arena_pipeline.machine import this_machine
from arena_pipeline.model.out_of_memory import FittingBatch
from arena_pipeline.model.precision import Precision
from arena_pipeline.planning import memory
from arena_pipeline.research.pretrain.loss import CROSS_ENTROPY, Total, sigmoid_loss, softmax_loss
from arena_pipeline.research.pretrain.patches import Batch, PatchSteps, single_threaded
from arena_pipeline.research.pretrain.processes import ALONE, Processes
from arena_pipeline.research.pretrain.settings import PretrainSettings

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_STEPS = 100
GRADIENT_NORM = 12.0

STEPS_PER_LOSS_CHECK = 10  # on a GPU: to read a loss is to wait for the device

Loss = Callable[[Tensor, Batch, Total], Tensor]


def batch_loss(preset: FoundationPreset, settings: PretrainSettings) -> Loss:
    """The loss (logits, batch, total) for the foundation's head; `total` makes a count of these patches that of the whole batch."""
    cross_entropy = CROSS_ENTROPY[settings.loss]
    if preset.head == "sigmoid":
        return lambda logits, batch, total: sigmoid_loss(logits, batch.targets, batch.annotated, cross_entropy != "none", total)
    return lambda logits, batch, total: softmax_loss(logits, batch.targets, cross_entropy, total)


class Pretraining:
    """The state of a run: network, optimizer, averaged weights and the number of steps done."""

    def __init__(self, network: nn.Module, settings: PretrainSettings, processes: Processes = ALONE) -> None:
        processes.copy_from_first_(parameter.detach() for parameter in network.parameters())
        self.network = network
        self.settings = settings
        self.processes = processes
        self.device, self.dtype = (parameter := next(network.parameters())).device, parameter.dtype
        self.precision = Precision.of(settings.precision, self.device)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.averaged = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        self.micro_batch = FittingBatch(settings.batch_size)
        self.done = 0

    def step(self, batch: Batch, loss: Loss) -> Tensor:
        """One step of AdamW; returns the whole batch's loss before it, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate_factor(self.done, self.settings)
        here = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        if self.processes.size == 1:
            part = self.micro_batch.run(lambda size: self._accumulate(here, loss, size))
        else:  # no retry with fewer patches at once: alone, it would wait for the other processes for ever
            part = self._accumulate(here, loss, self.micro_batch.size)
        self.processes.sum_(parameter.grad for parameter in self.network.parameters() if parameter.grad is not None)  # the parts add up
        self.precision.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        self.done += 1
        self._average_()
        return self.processes.total(part)

    def _accumulate(self, batch: Batch, loss: Loss, size: int) -> Tensor:
        """Adds up the gradients of the batch, `size` patches at a time; counts over the whole batch are taken first. Returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = [Batch(*tensors) for tensors in zip(*(tensor.split(size) for tensor in batch), strict=True)]
        losses, totals = list[Tensor](), list[Tensor]()
        for part in parts:
            with self.precision.autocast():
                logits = self.network(part.images.to(self.dtype, memory_format=torch.channels_last_3d))
            logits = logits.float() if self.precision.half else logits
            if len(parts) > 1 and not totals:
                totals = self._totals(parts, loss, logits.detach())
            value = loss(logits, part, _known_totals(totals) if totals else self.processes.total)
            self.precision.scaler.scale(value).backward()
            losses.append(value.detach())
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _totals(self, parts: Sequence[Batch], loss: Loss, like: Tensor) -> list[Tensor]:
        """The totals over all parts of all processes, in the order in which the loss asks for them; they do not depend on the logits."""
        counts = []
        for part in parts:
            asked = list[Tensor]()
            loss(like.new_zeros(1).expand(len(part.images), *like.shape[1:]), part, lambda count, asked=asked: (asked.append(count), count)[1])  # type: ignore[misc]
            counts.append(asked)
        return [self.processes.total(torch.stack(each).sum(0)) for each in zip(*counts, strict=True)]

    @torch.no_grad()
    def _average_(self) -> None:
        # over the first steps the decay grows to the one asked for, so that the initial weights do not stay in the average
        decay = min(self.settings.averaging, self.done / (10 + self.done))
        for name, parameter in self.network.named_parameters():
            self.averaged[name].lerp_(parameter.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        states = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "scaler": self.precision.scaler.state_dict()}
        return states | {"averaged": self.averaged, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):  # missing or empty after a run in bf16 or fp32: a new scaler then
            self.precision.scaler.load_state_dict(state["scaler"])
        self.averaged = state["averaged"]
        self.done = state["done"]

    def averaged_state(self) -> dict[str, Tensor]:
        """The network's state dict with the averaged parameters, on the CPU."""
        return {name: tensor.cpu() for name, tensor in {**self.network.state_dict(), **self.averaged}.items()}


def _known_totals(totals: Sequence[Tensor]) -> Total:
    """Gives the known totals one after the other, whatever is counted."""
    counted = iter(totals)
    return lambda count: next(counted)


def rate_factor(step: int, settings: PretrainSettings) -> float:
    """The factor on the learning rate: a linear warm-up, then a cosine to 0; or, with a cooldown, 1 and at the end a line to 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.cooldown_steps is not None:
        return min(1.0, (settings.steps - step) / max(1, settings.cooldown_steps))
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return (1 + math.cos(math.pi * progress)) / 2


def pretrain(preset: FoundationPreset, run: Pretraining, steps: PatchSteps, folder: Path, workers: int) -> None:
    """Trains to the settings' last step, from the checkpoint in `folder` if there is one; logs a row per step to training_log.csv.

    Raises:
        ArenaError: the loss is NaN or infinite, or the checkpoint is damaged.
    """
    settings, checkpoint = run.settings, folder / CHECKPOINT
    if checkpoint.is_file():
        _resume_(run, checkpoint)
        logger.info("continues at step %d of %d", run.done, settings.steps)
    loader = DataLoader(
        Subset(steps, range(run.done, settings.steps)),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=(4 if workers == 1 else 2) if workers else None,
        pin_memory=run.device.type == "cuda",
        worker_init_fn=single_threaded,
    )
    loss, pending = batch_loss(preset, settings), list[Tensor]()
    fitting = memory.training_patches_that_fit(preset, this_machine(str(run.device)), half=run.precision.half is not None)
    run.micro_batch.size = max(1, min(fitting, len(steps.places)))
    logger.info("%d of %d patches of a step at once", run.micro_batch.size, len(steps.places))
    bar = tqdm(total=settings.steps, initial=run.done, desc=preset.name, unit="step", disable=None if run.processes.is_first else True)
    write = step_log(folder / "training_log.csv", run)
    with bar:
        for batch in loader:
            pending.append(run.step(batch, loss))
            bar.update()
            saved = run.done % CHECKPOINT_STEPS == 0 or run.done == settings.steps
            if saved or len(pending) == STEPS_PER_LOSS_CHECK or run.device.type == "cpu":
                values = torch.stack(pending).tolist()
                _check_finite(preset, run.done - len(values) + 1, values)
                write(values)
                bar.set_postfix(loss=f"{values[-1]:.3f}")
                pending.clear()
            if saved:
                _save(run, checkpoint)
    run.processes.wait()


def _check_finite(preset: FoundationPreset, first: int, values: Sequence[float]) -> None:
    for step, value in enumerate(values, start=first):
        if not math.isfinite(value):
            raise ArenaError(f"foundation {preset.name}: the loss of step {step} is {value}; start again with a lower --learning_rate")


def _resume_(run: Pretraining, checkpoint: Path) -> None:
    try:
        run.load_state_dict(torch.load(checkpoint, map_location=run.device, weights_only=True))
    except (*DAMAGED, pickle.UnpicklingError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ArenaError(f"{checkpoint}: can't be continued from ({reason}); delete it to start from the first step, or restore it") from None


def _save(run: Pretraining, checkpoint: Path) -> None:
    if run.processes.is_first:
        with replace_when_done(checkpoint) as temporary:
            torch.save(run.state_dict(), temporary)


def step_log(path: Path, run: Pretraining) -> Callable[[Sequence[float]], None]:
    """A function that logs the losses of the last steps, in the first process alone. Rows after the checkpoint are removed: they come again."""
    if not run.processes.is_first:
        return lambda _: None
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    write_text(path, "".join(["step,loss\n", *rows[1 : run.done + 1]]))

    def write(values: Sequence[float]) -> None:
        with full_disk_as_no_space(path), path.open("a", newline="", encoding="utf-8") as file:  # so a checkpoint's rows precede it
            csv.writer(file).writerows([run.done - len(values) + number, f"{value:.5f}"] for number, value in enumerate(values, start=1))

    return write
