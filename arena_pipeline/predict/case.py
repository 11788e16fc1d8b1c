"""One volume end to end: preprocess once, run every task's folds over it, take each structure to the native grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import special

from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Image
from arena_pipeline.model.out_of_memory import FittingBatch
from arena_pipeline.predict.export import RunningMaximum, restore_probability
from arena_pipeline.predict.fold_agreement import FoldDecisions
from arena_pipeline.predict.memory import require_memory, working_parts
from arena_pipeline.predict.uncertainty import Uncertainty, boundary_entropy
from arena_pipeline.predict.windows import Activation, Network, Windows, mean_over_networks
from arena_pipeline.preprocess.body import fill_slices
from arena_pipeline.preprocess.case import preprocess_image
from arena_pipeline.preprocess.grid import GridMap

logger = logging.getLogger(__name__)

BACKGROUND = "background"
ChannelSink = Callable[[str, np.ndarray], None]


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
    def out_channels(self) -> int:
        """Of the networks, the background of a softmax among them."""
        return len(self.channels) + (self.activation == "softmax")

    @property
    def structures_by_channel(self) -> dict[str, int]:
        """The written structures -> channel, in order of their labels."""
        return {name: self.channels[name] for name in sorted(self.structures, key=lambda one: self.structures[one])}


LEAST_PROBABILITY, MOST_PROBABILITY = np.float32(1e-30), np.float32(1 - 2**-24)  # whose logits are taken


@dataclass(frozen=True)
class CaseSettings:
    """How a volume is predicted.

    Attributes:
        scheme: the foundation's preprocessing.
        overlap: share of the patch that neighbouring windows have in common.
        window_batch: windows run at once.
        threshold: what a structure of independent (sigmoid) tasks must exceed.
        workers: threads of the preprocessing and of the export.
        fitting: the windows that the device has room for.
    """

    scheme: Scheme
    device: torch.device
    overlap: float = 0.25
    window_batch: int = 1
    threshold: float = 0.5
    workers: int = 1
    fitting: FittingBatch = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fitting", FittingBatch(self.window_batch))

    def windows(self, activation: Activation) -> Windows:
        """How the windows run. All share `fitting`, so that what the device can't do is tried once."""
        return Windows(self.scheme.patch_size_voxels, self.overlap, activation, self.fitting, self.device, even=self.scheme.nnunet is not None)


@dataclass(frozen=True, eq=False)
class Extras:
    """Who wants more than the segmentation. Each is called with a channel's name and an array that may be kept.

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
    """The segmentation of one CT (in HU); see `predict_volume`."""
    volume, grid = preprocess_image(image, settings.scheme, settings.workers)
    return Prediction(predict_volume(volume, grid, tasks, settings, extras), grid)


def predict_volume(volume: np.ndarray, grid: GridMap, tasks: Sequence[Task], settings: CaseSettings, extras: Extras = Extras()) -> np.ndarray:
    """The segmentation, on the CT's own grid, of a volume preprocessed by `settings.scheme`.

    Either one softmax task, whose background competes, or any number of sigmoid tasks, merged by the highest probability
    above the threshold. All tasks share the preprocessed volume; a task's probabilities are freed before the next.
    """
    if len(tasks) != 1 and any(task.activation == "softmax" for task in tasks):
        raise ValueError("a softmax task can't be merged with others")
    last = max(label for task in tasks for label in task.structures.values())
    highest = last + sum(len(task.competitors) for task in tasks)
    dtype = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    maximum: RunningMaximum | None = None
    outside = ~fill_slices(volume > 0) if settings.scheme.outside_body == "set_aside" else None
    in_order = sorted(tasks, key=lambda one: min(one.structures.values()))
    for task in in_order:
        require_memory(working_parts(volume.shape, grid.native_shape, settings.scheme.patch_size_voxels, task.out_channels, bool(extras.probability)))
        probabilities = _mean_over_folds(task, volume, settings, extras)
        _set_aside_(probabilities, outside, task.activation)
        by_logits = settings.scheme.nnunet is not None  # nnU-Net interpolates logits on the way back
        if by_logits:
            _to_logits_(probabilities, task.activation, settings.threshold)
        if maximum is None:
            rival = probabilities[0] if task.activation == "softmax" else 0.0 if by_logits else settings.threshold
            maximum = RunningMaximum(grid, rival, settings.workers, dtype)
        for label, channel in _in_label_order(task, last):
            maximum.add(label, probabilities[channel])
        if task is in_order[-1]:
            maximum.finish()
        if by_logits:
            _to_probabilities_(probabilities, task.activation, settings.threshold)
        _hand_out(task, probabilities, grid, settings.threshold, extras)
        del probabilities
    if maximum is None:
        raise ValueError("no task to predict")
    segmentation = maximum.segmentation
    if highest > last:
        segmentation[segmentation > last] = 0
    return segmentation


def _to_logits_(probabilities: np.ndarray, activation: Activation, threshold: float) -> None:
    """In place. Of a softmax the logarithms, which differ from the logits of a voxel by one number; else logits, 0 at the threshold."""
    if activation == "softmax":
        np.log(np.maximum(probabilities, LEAST_PROBABILITY, out=probabilities), out=probabilities)
    else:
        special.logit(np.clip(probabilities, LEAST_PROBABILITY, MOST_PROBABILITY, out=probabilities), out=probabilities)
        probabilities -= np.float32(special.logit(threshold))


def _to_probabilities_(logits: np.ndarray, activation: Activation, threshold: float) -> None:
    """The way back, in place."""
    if activation == "softmax":
        np.exp(logits, out=logits)
    else:
        logits += np.float32(special.logit(threshold))
        special.expit(logits, out=logits)


def _mean_over_folds(task: Task, volume: np.ndarray, settings: CaseSettings, extras: Extras) -> np.ndarray:
    windows = settings.windows(task.activation)
    if (extras.fold_dice is None and extras.uncertainty is None) or len(task.networks) == 1:
        return mean_over_networks(_folds(task), volume, windows)
    decisions = FoldDecisions(volume.shape, task.structures_by_channel, task.activation, settings.threshold)
    probabilities = mean_over_networks(_folds(task), volume, windows, decisions.add)
    if extras.fold_dice is not None:
        extras.fold_dice(decisions.mean_pairwise_dice())
    if extras.uncertainty is not None:
        for name in task.structures_by_channel:
            extras.uncertainty.add_disagreement(decisions.disagreement(name))
    return probabilities


def _set_aside_(probabilities: np.ndarray, outside: np.ndarray | None, activation: Activation) -> None:
    """Nothing but background `outside` the body: (x, y, z) boolean, None where the scheme keeps what is there."""
    if outside is None:
        return
    probabilities[:, outside] = 0
    if activation == "softmax":
        probabilities[0, outside] = 1


def _hand_out(task: Task, probabilities: np.ndarray, grid: GridMap, threshold: float, extras: Extras) -> None:
    if extras.probability is not None:
        if task.activation == "softmax":
            extras.probability(BACKGROUND, restore_probability(probabilities[0], grid, outside=1.0))
        for name, channel in {**task.structures_by_channel, **task.competitors}.items():
            extras.probability(name, restore_probability(probabilities[channel], grid))
    if extras.mask is None and extras.boundary_entropy is None and extras.uncertainty is None:
        return
    winner = _winner(probabilities) if task.activation == "softmax" else None
    for name, channel in task.structures_by_channel.items():
        mask = probabilities[channel] > threshold if winner is None else winner == channel
        if extras.mask is not None:
            extras.mask(name, mask)
        if extras.boundary_entropy is not None:
            extras.boundary_entropy(name, boundary_entropy(probabilities[channel], mask))
        if extras.uncertainty is not None:
            extras.uncertainty.add_probability(probabilities[channel])


def _winner(probabilities: np.ndarray) -> np.ndarray:
    """The channel with the highest probability, (x, y, z) uint16; plane by plane, since numpy copies what it takes the argmax of."""
    winner = np.empty(probabilities.shape[1:], np.uint16)
    for x in range(len(winner)):
        winner[x] = probabilities[:, x].argmax(axis=0)
    return winner


def _folds(task: Task) -> Iterator[Network]:
    """Each fold's network, ready when it is asked for; the one before is no longer."""
    for number, make_ready in enumerate(task.networks):
        logger.debug("%s: network %d of %d", task.name, number + 1, len(task.networks))
        yield make_ready()


def _in_label_order(task: Task, last: int) -> Iterator[tuple[int, int]]:
    """(label, channel), ascending; competitors get the labels after `last`, so that they are easily taken out."""
    for name, channel in task.structures_by_channel.items():
        yield task.structures[name], channel
    for number, channel in enumerate(task.competitors.values(), start=1):
        yield last + number, channel
