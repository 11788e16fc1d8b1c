"""One volume end to end: preprocess once, run every task's folds over it, take each structure to the native grid."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from arena_pipeline.foundations import Scheme
from arena_pipeline.io.label_names import BACKGROUND
from arena_pipeline.io.steps import Steps, Turn, run_through
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.out_of_memory import FittingBatch
from arena_pipeline.model.precision import Precision
from arena_pipeline.predict.export import RunningMaximum, restore_probability
from arena_pipeline.predict.fold_agreement import FoldDecisions
from arena_pipeline.predict.logits import to_logits_, to_probabilities_
from arena_pipeline.predict.memory import require_memory, working_parts
from arena_pipeline.predict.uncertainty import Uncertainty, boundary_entropy
from arena_pipeline.predict.windows import Activation, Box, Bundle, Network, Windows, means_over_bundles
from arena_pipeline.preprocess.body import fill_slices
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.records import stage
from arena_pipeline.settings import PrecisionName

logger = logging.getLogger(__name__)

BACKGROUND_CHANNEL: dict[Activation, int] = {"softmax": 0, "margin": 1}
ChannelSink = Callable[[str, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class PredictionTask:
    """What one kind of network predicts.

    Attributes:
        structures: structure -> integer in the written segmentation.
        channels: structure -> output channel; the background of a softmax is channel 0.
        networks: one per fold: each call makes that fold's network ready, (batch, 1, x, y, z) -> logits.
        competitors: structure -> output channel of those that take part in the argmax but are not written.
        shared: the one network behind all of them, which takes one adapter after the other.
        rivals: the channels that follow the structure's where the activation is a margin, the background's first.
    """

    name: str
    structures: dict[str, int]
    channels: dict[str, int]
    activation: Activation
    networks: tuple[Callable[[], Network], ...]
    competitors: dict[str, int] = field(default_factory=dict)
    shared: AdaptedNetwork | None = None
    rivals: int = 0

    @property
    def out_channels(self) -> int:
        """Of the networks, the background of a softmax among them."""
        return len(self.channels) + (self.activation == "softmax") + self.rivals

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
        workers: threads of the preprocessing and of the export.
        precision: of the networks.
        tasks_at_once, networks_at_once: how many share a window; more are faster, since what they share is computed once, and take more memory.
        fitting: the windows that the device has room for.
    """

    scheme: Scheme
    device: torch.device
    overlap: float = 0.25
    window_batch: int = 1
    threshold: float = 0.5
    workers: int = 1
    precision: PrecisionName = "auto"
    tasks_at_once: int = 1
    networks_at_once: int = 1
    fitting: FittingBatch = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fitting", FittingBatch(self.window_batch))

    @property
    def as_nnunet(self) -> bool:
        """Whether windows, the mean over folds and the way back are nnU-Net's: logits are averaged and interpolated, not probabilities."""
        return self.scheme.nnunet is not None

    def together(self, window_batch: int, tasks: int, networks: int) -> CaseSettings:
        """The settings for so many at once; with the same number of windows, what was learned of the device's room is kept."""
        changed = replace(self, window_batch=window_batch, tasks_at_once=tasks, networks_at_once=networks)
        if window_batch == self.window_batch:
            object.__setattr__(changed, "fitting", self.fitting)
        return changed

    def windows(self, activation: Activation) -> Windows:
        """How the windows run. All share `fitting`, so that what the device can't do is tried once."""
        precision = Precision.of(self.precision, self.device)
        return Windows(self.scheme.patch_size_voxels, self.overlap, activation, self.fitting, self.device, self.as_nnunet, precision)


@dataclass(frozen=True, eq=False)
class Sinks:
    """Functions that receive more than the segmentation. Each is called with a channel's name and an array that may be kept.

    Attributes:
        probability: gets every channel's probabilities, float32 on the native grid.
        mask: gets every structure's own decision before any merging, boolean on the preprocessed grid.
        fold_dice: gets, of each task with several folds, structure -> mean Dice between them on the preprocessed grid.
        boundary_entropy: gets every structure's mean entropy at its surface there.
        uncertainty: is filled.
    """

    probability: ChannelSink | None = None
    mask: ChannelSink | None = None
    fold_dice: Callable[[dict[str, float]], None] | None = None
    boundary_entropy: Callable[[str, float], None] | None = None
    uncertainty: Uncertainty | None = None


def predict_volume(volume: np.ndarray, grid: GridMap, tasks: Sequence[PredictionTask], settings: CaseSettings, sinks: Sinks = Sinks()) -> np.ndarray:
    """The segmentation, on the CT's own grid, of a volume preprocessed by `settings.scheme`.

    Either one softmax task, whose background competes, or any number of sigmoid tasks, merged by the highest probability
    above the threshold. All tasks share the preprocessed volume; only the probabilities of `tasks_at_once` tasks are in memory at a time.
    """
    return run_through(volume_steps(volume, grid, tasks, settings, sinks))


def volume_steps(
    volume: np.ndarray, grid: GridMap, tasks: Sequence[PredictionTask], settings: CaseSettings, sinks: Sinks = Sinks()
) -> Steps[np.ndarray]:
    """`predict_volume`, which says when it needs no network any more."""
    if len(tasks) != 1 and any(task.activation == "softmax" for task in tasks):
        raise ValueError("a softmax task can't be merged with others")
    last = max(label for task in tasks for label in task.structures.values())
    highest = last + sum(len(task.competitors) for task in tasks)
    dtype = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    maximum: RunningMaximum | None = None
    outside = ~fill_slices(volume > 0) if settings.scheme.outside_body == "set_aside" else None
    in_order = sorted(tasks, key=lambda one: min(one.structures.values()))
    for tasks_here in _groups(in_order, settings.tasks_at_once):
        channels, keeps = sum(task.out_channels for task in tasks_here), bool(sinks.probability)
        require_memory(working_parts(volume.shape, grid.native_shape, settings.scheme.patch_size_voxels, channels, keeps))
        with stage("predict"):
            means = _means_over_folds(tasks_here, volume, outside, settings, sinks)
        if tasks_here[-1] is in_order[-1]:
            yield Turn.END
        for task in tasks_here:
            mean = means.pop(0)
            with stage("export"):
                if maximum is None:
                    maximum = RunningMaximum(grid, _rival(task, mean, settings), settings.workers, dtype)
                for label, channel in _in_label_order(task, last):
                    maximum.add(label, mean[channel], list(mean[1:]) if task.activation == "margin" else ())
                if task is in_order[-1]:
                    maximum.finish()
                _hand_out(task, mean, grid, settings, sinks)
            del mean
    if maximum is None:
        raise ValueError("no task to predict")
    segmentation = maximum.segmentation
    if highest > last:
        segmentation[segmentation > last] = 0
    return segmentation


def _rival(task: PredictionTask, mean: np.ndarray, settings: CaseSettings) -> np.ndarray | float:
    """What a structure must exceed, in what is interpolated."""
    return mean[0] if task.activation == "softmax" else 0.0 if settings.as_nnunet else settings.threshold


def _groups(tasks: Sequence[PredictionTask], at_once: int) -> Iterator[list[PredictionTask]]:
    """Neighbours of one activation and equally many channels, `at_once` at most."""
    for _, alike in itertools.groupby(tasks, key=lambda task: (task.activation, task.out_channels)):
        group = list(alike)
        yield from (group[first : first + at_once] for first in range(0, len(group), at_once))


def _means_over_folds(
    tasks: Sequence[PredictionTask], volume: np.ndarray, outside: np.ndarray | None, settings: CaseSettings, sinks: Sinks
) -> list[np.ndarray]:
    """Each task's mean, (channels, x, y, z), of what `settings` average; nothing but background `outside` the body, where every fold agrees on it."""
    windows = settings.windows(tasks[0].activation)
    wanted = sinks.fold_dice is not None or sinks.uncertainty is not None
    several = [number for number, task in enumerate(tasks) if len(task.networks) > 1 and wanted]
    decisions = {n: FoldDecisions(volume.shape, tasks[n].structures_by_channel, tasks[n].activation, settings.threshold) for n in several}

    def watch(task: int, fold: int, box: Box, probabilities: np.ndarray) -> None:
        if outside is not None:
            _set_aside_(probabilities, outside[box], tasks[task].activation)
        if task in decisions:
            decisions[task].add(fold, box, probabilities)
        if settings.as_nnunet:
            to_logits_(probabilities, tasks[task].activation, settings.threshold)

    means = means_over_bundles(_bundles(tasks, settings.networks_at_once), volume, windows, watch)
    for number, found in decisions.items():
        if sinks.fold_dice is not None:
            sinks.fold_dice(found.mean_pairwise_dice())
        if sinks.uncertainty is not None:
            for name in tasks[number].structures_by_channel:
                sinks.uncertainty.add_disagreement(found.disagreement(name))
    return means


def _bundles(tasks: Sequence[PredictionTask], at_once: int) -> Iterator[Bundle]:
    """The networks of all tasks, fold by fold, `at_once` at most in each bundle."""
    networks = [(number, make_ready) for number, task in enumerate(tasks) for make_ready in task.networks]
    shared = tasks[0].shared
    at_once = at_once if shared is None else min(at_once, shared.most_ready)
    window = nullcontext if shared is None else shared.window
    for first in range(0, len(networks), at_once):
        numbers, makers = zip(*networks[first : first + at_once], strict=True)
        logger.debug("%s: networks %d to %d of %d", tasks[0].name, first + 1, first + len(makers), len(networks))
        yield Bundle(makers[0]() if len(makers) == 1 else _beside_each_other(makers, window), numbers)


def _beside_each_other(makers: Sequence[Callable[[], Network]], window: Callable[[], AbstractContextManager[None]]) -> Network:
    def run(patches: Tensor) -> Tensor:
        with window():
            return torch.cat([make_ready()(patches).float() for make_ready in makers], dim=1)

    return run


def _set_aside_(probabilities: np.ndarray, outside: np.ndarray, activation: Activation) -> None:
    """Nothing but background `outside` the body, (x, y, z) boolean."""
    probabilities[:, outside] = 0
    if activation != "sigmoid":
        probabilities[BACKGROUND_CHANNEL[activation], outside] = 1


def _hand_out(task: PredictionTask, probabilities: np.ndarray, grid: GridMap, settings: CaseSettings, sinks: Sinks) -> None:
    """Gives the sinks what they want of one task. `probabilities` are those of `_means_over_folds`; logits are changed in place."""
    if settings.as_nnunet:
        to_probabilities_(probabilities, task.activation, settings.threshold)
    if sinks.probability is not None:
        if task.activation == "softmax":
            sinks.probability(BACKGROUND, restore_probability(probabilities[0], grid, outside=1.0))
        for name, channel in {**task.structures_by_channel, **task.competitors}.items():
            sinks.probability(name, restore_probability(probabilities[channel], grid))
    if sinks.mask is None and sinks.boundary_entropy is None and sinks.uncertainty is None:
        return
    winner = _winner(probabilities) if task.activation == "softmax" else None
    for name, channel in task.structures_by_channel.items():
        mask = probabilities[channel] > settings.threshold if winner is None else winner == channel
        if sinks.mask is not None:
            sinks.mask(name, mask)
        if sinks.boundary_entropy is not None:
            sinks.boundary_entropy(name, boundary_entropy(probabilities[channel], mask))
        if sinks.uncertainty is not None:
            sinks.uncertainty.add_probability(probabilities[channel])


def _winner(probabilities: np.ndarray) -> np.ndarray:
    """The channel with the highest probability, (x, y, z) uint16; plane by plane, since numpy copies what it takes the argmax of."""
    winner = np.empty(probabilities.shape[1:], np.uint16)
    for x in range(len(winner)):
        winner[x] = probabilities[:, x].argmax(axis=0)
    return winner


def _in_label_order(task: PredictionTask, last: int) -> Iterator[tuple[int, int]]:
    """(label, channel), ascending; competitors get the labels after `last`, so that they are easily taken out."""
    for name, channel in task.structures_by_channel.items():
        yield task.structures[name], channel
    for number, channel in enumerate(task.competitors.values(), start=1):
        yield last + number, channel
