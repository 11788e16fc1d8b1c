"""One volume end to end: preprocess once, run every task's folds over it, take each structure to the native grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Image
from arena_pipeline.predict.export import RunningMaximum, restore_probability
from arena_pipeline.predict.windows import Activation, sliding_window
from arena_pipeline.preprocess.case import preprocess_image
from arena_pipeline.preprocess.grid import GridMap

logger = logging.getLogger(__name__)

BACKGROUND = "background"
Network = Callable[[Tensor], Tensor]
Take = Callable[[str, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class Task:
    """What one kind of network predicts.

    Attributes:
        structures: structure -> integer in the written segmentation.
        channels: structure -> output channel; the background of a softmax is channel 0.
        networks: one per fold: each call makes that fold's network ready, (batch, 1, x, y, z) -> logits.
        competitors: structure -> output channel of those that take part in the argmax but are not written.
    """

    name: str
    structures: dict[str, int]
    channels: dict[str, int]
    activation: Activation
    networks: tuple[Callable[[], Network], ...]
    competitors: dict[str, int] = field(default_factory=dict)

    @property
    def structures_by_channel(self) -> dict[str, int]:
        """The written structures -> channel, in order of their labels."""
        return {name: self.channels[name] for name in sorted(self.structures, key=lambda one: self.structures[one])}


@dataclass(frozen=True)
class CaseSettings:
    """How a volume is predicted.

    Attributes:
        scheme: the foundation's preprocessing.
        overlap: share of the patch that neighbouring windows have in common.
        window_batch: windows run at once.
        threshold: what a structure of independent (sigmoid) tasks must exceed.
        workers: threads of the export.
    """

    scheme: Scheme
    device: torch.device
    overlap: float = 0.25
    window_batch: int = 1
    threshold: float = 0.5
    workers: int = 1


@dataclass(frozen=True, eq=False)
class Extras:
    """Who wants more than the segmentation. Each is called with a channel's name and an array that may be kept.

    Attributes:
        probability: gets every channel's probabilities, float32 on the native grid.
        mask: gets every structure's own decision before any merging, boolean on the preprocessed grid.
    """

    probability: Take | None = None
    mask: Take | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """`segmentation`: (x, y, z) uint8 or, with labels above 255, uint16, on the CT's own grid. `grid`: leads there."""

    segmentation: np.ndarray
    grid: GridMap


def mean_probabilities(maps: Iterable[np.ndarray]) -> np.ndarray:
    """The voxelwise mean of equally shaped float32 arrays, made one by one; at most two are held."""
    total: np.ndarray | None = None
    count = 0
    for probabilities in maps:
        count += 1
        if total is None:
            total = probabilities
        elif total.shape != probabilities.shape:
            raise ValueError(f"probabilities of shapes {total.shape} and {probabilities.shape} can't be averaged")
        else:
            total += probabilities
    if total is None:
        raise ValueError("no probabilities to average")
    if count > 1:
        total /= count
    return total


def predict_case(image: Image, tasks: Sequence[Task], settings: CaseSettings, extras: Extras = Extras()) -> Prediction:
    """The segmentation of one CT (in HU).

    Either one softmax task, whose background competes, or any number of sigmoid tasks, merged by the highest probability
    above the threshold. All tasks share the preprocessed volume; a task's probabilities are freed before the next.
    """
    if len(tasks) != 1 and any(task.activation == "softmax" for task in tasks):
        raise ValueError("a softmax task can't be merged with others")
    volume, grid = preprocess_image(image, settings.scheme)
    last = max(label for task in tasks for label in task.structures.values())
    highest = last + sum(len(task.competitors) for task in tasks)
    dtype = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    maximum: RunningMaximum | None = None
    for task in sorted(tasks, key=lambda one: min(one.structures.values())):
        probabilities = mean_probabilities(_folds(task, volume, settings))
        if maximum is None:
            rival = probabilities[0] if task.activation == "softmax" else settings.threshold
            maximum = RunningMaximum(grid, rival, settings.workers, dtype)
        for label, channel in _in_label_order(task, last):
            maximum.add(label, probabilities[channel])
        _hand_out(task, probabilities, grid, settings.threshold, extras)
        del probabilities
    if maximum is None:
        raise ValueError("no task to predict")
    segmentation = maximum.segmentation
    if highest > last:
        segmentation[segmentation > last] = 0
    return Prediction(segmentation, grid)


def _hand_out(task: Task, probabilities: np.ndarray, grid: GridMap, threshold: float, extras: Extras) -> None:
    if extras.probability is not None:
        if task.activation == "softmax":
            extras.probability(BACKGROUND, restore_probability(probabilities[0], grid, outside=1.0))
        for name, channel in {**task.structures_by_channel, **task.competitors}.items():
            extras.probability(name, restore_probability(probabilities[channel], grid))
    if extras.mask is not None:
        winner = probabilities.argmax(axis=0) if task.activation == "softmax" else None
        for name, channel in task.structures_by_channel.items():
            extras.mask(name, probabilities[channel] > threshold if winner is None else winner == channel)


def _folds(task: Task, volume: np.ndarray, settings: CaseSettings) -> Iterator[np.ndarray]:
    for number, make_ready in enumerate(task.networks):
        logger.debug("%s: network %d of %d", task.name, number + 1, len(task.networks))
        yield sliding_window(
            make_ready(), volume, settings.scheme.patch_size_voxels, settings.overlap, task.activation, settings.window_batch, settings.device
        )


def _in_label_order(task: Task, last: int) -> Iterator[tuple[int, int]]:
    """(label, channel), ascending; competitors get the labels after `last`, so that they are easily taken out."""
    for name, channel in task.structures_by_channel.items():
        yield task.structures[name], channel
    for number, channel in enumerate(task.competitors.values(), start=1):
        yield last + number, channel
