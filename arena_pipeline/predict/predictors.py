"""What predicts: an adapted model's folds, or a foundation as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from arena_pipeline.errors import FoundationError, UnknownStructure
from arena_pipeline.foundations import FoundationPreset, Scheme, choose_foundation, load_preset, weights_file
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.machine import usable_cores
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import RECORD, AdapterRecord, read_adapter, read_adapter_record
from arena_pipeline.model.model_folder import AdaptedModel
from arena_pipeline.planning import InferencePlan
from arena_pipeline.planning.memory import window_bytes
from arena_pipeline.predict.case import CaseSettings, Network, Task
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

CASES_NAMED = 10


@dataclass(frozen=True, eq=False)
class Setup:
    """All that prediction needs but the volumes.

    Attributes:
        labels: structure -> integer in the written segmentations.
        keep_largest: structure -> whether only its largest component stays.
        source: in words, for labels.json.
        support_ids: structure -> the cases that its adapters were adapted on; for labels.json.
        window_bytes: main memory that the network takes for one window; 0 where it runs elsewhere.
    """

    tasks: tuple[Task, ...]
    settings: CaseSettings
    labels: dict[str, int]
    keep_largest: dict[str, bool]
    source: dict[str, str]
    window_bytes: int = 0
    support_ids: dict[str, tuple[str, ...]] = field(default_factory=dict)


def adapted_setup(model: AdaptedModel, structures: Sequence[str] | None, workspace: Workspace, device: torch.device) -> Setup:
    """The folds of every task of `model`, on one network in memory; of a multi-class task only `structures` are written."""
    preset = load_preset(model.foundation, workspace.foundations)
    network = AdaptedNetwork(preset, weights_file(preset, workspace.installed_foundation(preset.name)), device)
    tasks = tuple(adapted_task(task.record, tuple(task.folds.values()), network, structures) for task in model.tasks)
    folds = {
        f"folds of {task.record.task}": " ".join(f"{fold}:{file_sha256(place / RECORD)[:12]}" for fold, place in task.folds.items())
        for task in model.tasks
    }
    source = {"model": str(model.path.resolve()), "foundation": preset.name, "licence": preset.licence} | folds
    keep = {name: flag for task in model.tasks for name, flag in model.keep_largest.items() if name in task.record.structures}
    settings = case_settings(model.scheme, model.inference, model.export_workers, device)
    return Setup(tasks, settings, _labels(tasks), keep, source, _window_bytes(preset, device), _support_ids(model))


def _support_ids(model: AdaptedModel) -> dict[str, tuple[str, ...]]:
    """Structure -> the cases of all its folds' support sets, sorted."""
    found: dict[str, tuple[str, ...]] = {}
    for task in model.tasks:
        cases = sorted({case for folder in task.folds.values() for case in read_adapter_record(folder).support_ids})
        found |= {structure: tuple(cases) for structure in task.record.structures}
    return found


def warn_of_support_cases(cases: Iterable[str], support_ids: dict[str, tuple[str, ...]]) -> None:
    """Says aloud which of the cases the model was adapted on: their segmentations look better than those of other scans will."""
    adapted_on = {case for ids in support_ids.values() for case in ids}
    if seen := [case for case in cases if case in adapted_on]:
        names = ", ".join(seen[:CASES_NAMED]) + (f" and {len(seen) - CASES_NAMED} more" if len(seen) > CASES_NAMED else "")
        logger.warning("the model was adapted on %s: do not judge it by their segmentations (arena_evaluate leaves them out of its means)", names)


def adapted_task(record: AdapterRecord, folds: Sequence[Path], network: AdaptedNetwork, structures: Sequence[str] | None = None) -> Task:
    """The task of these adapters, whose folders are `folds`; of a multi-class task only `structures` are written, where given."""
    first = 1 if record.activation == "softmax" else 0
    channels = {name: channel for channel, name in enumerate(record.structures, start=first)}
    written = {name: label for name, label in record.structures.items() if structures is None or name in structures}
    others = {name: channel for name, channel in channels.items() if name not in written}
    networks = tuple(_ready(network, folder) for folder in folds)
    return Task(record.task, written, channels, record.activation, networks, others)


def _ready(network: AdaptedNetwork, folder: Path) -> Callable[[], Network]:
    return lambda: network.select(read_adapter(folder))


def zero_shot_setup(
    structures: Sequence[str], workspace: Workspace, foundation: str | None, dataset: DatasetJson | None, device: torch.device
) -> Setup:
    """The pre-trained head as it is.

    With a softmax head every channel takes part in the argmax, and `structures` are written; with a sigmoid head only
    their channels are computed. Integers are `dataset`'s where one is given, else 1, 2, ... in the order asked for.

    Raises:
        FoundationError: the foundation has no head that could be used without adapting.
        UnknownStructure: it was not pre-trained on one of them, or the dataset has no such label.
    """
    structures = list(dict.fromkeys(structures))
    name, reason = (foundation, "named") if foundation is not None else choose_foundation(workspace.foundations)
    preset = load_preset(name, workspace.foundations)
    logger.info("zero-shot with foundation %s (%s)", name, reason)
    check_zero_shot(preset, structures)
    if dataset is not None:
        dataset.require_structures(list(structures))
    numbers = dataset.structures if dataset is not None else {one: number for number, one in enumerate(structures, start=1)}
    network = AdaptedNetwork(preset, weights_file(preset, workspace.installed_foundation(name)), device)
    task = zero_shot_task(preset, {one: numbers[one] for one in structures}, network)
    source = {"model": "zero-shot", "foundation": name, "licence": preset.licence}
    inference = InferencePlan(overlap=preset.scheme.overlap, window_batch=1)
    return Setup((task,), case_settings(preset.scheme, inference, 1, device), _labels((task,)), {}, source, _window_bytes(preset, device))


def check_zero_shot(preset: FoundationPreset, structures: Sequence[str]) -> None:
    """Raises what `zero_shot_setup` does for a foundation that can't predict these structures as it is."""
    if preset.head == "none":
        raise FoundationError(
            f"foundation {preset.name} has no linear head of its own, so it can't predict without adaptation; "
            f"adapt it (arena_adapt -d NUMBER -shots 5 -foundation {preset.name}), or name another -foundation"
        )
    unknown = [one for one in structures if one not in preset.structures]
    if unknown:
        raise UnknownStructure(
            f"foundation {preset.name} was not pre-trained on {', '.join(unknown)}, so zero-shot can't find it; "
            f"it knows: {', '.join(preset.structures)}. A new structure needs labelled scans and arena_adapt"
        )


def zero_shot_task(preset: FoundationPreset, labels: dict[str, int], network: AdaptedNetwork) -> Task:
    """The pre-trained head's channels of `labels` (structure -> integer)."""
    if preset.head == "softmax":
        others = {name: channel for name, channel in preset.structures.items() if name not in labels}
        return Task("zero_shot", labels, dict(preset.structures), "softmax", (lambda: network.select(None),), others)
    rows = [preset.structures[name] for name in labels]
    channels = {name: number for number, name in enumerate(labels)}
    return Task("zero_shot", labels, channels, "sigmoid", (lambda: _only(network.select(None), rows),))


def _only(network: Network, rows: list[int]) -> Network:
    """The network with these output channels alone: 29 maps of a whole body do not fit everywhere."""

    def run(patches: Tensor) -> Tensor:
        return network(patches)[:, rows]

    return run


def _window_bytes(preset: FoundationPreset, device: torch.device) -> int:
    return window_bytes(preset) if device.type == "cpu" else 0


def _labels(tasks: Sequence[Task]) -> dict[str, int]:
    return dict(sorted((item for task in tasks for item in task.structures.items()), key=lambda item: item[1]))


def case_settings(scheme: Scheme, inference: InferencePlan, workers: int, device: torch.device) -> CaseSettings:
    """`workers`: threads of the export, no more than the cores that may be used now."""
    threads = min(workers, usable_cores())
    return CaseSettings(scheme, device, inference.overlap, inference.window_batch, inference.threshold, threads)
