"""What predicts: an adapted model's folds, or a foundation as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arena_pipeline.errors import FoundationError, UnknownStructure
from arena_pipeline.foundations import FoundationPreset, load_preset, weights_file
from arena_pipeline.foundations.selection import foundation_for_structures
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.machine import this_machine
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import RECORD, AdapterRecord, read_adapter_record
from arena_pipeline.model.model_folder import AdaptedModel
from arena_pipeline.model.task_head import decides_by_margin
from arena_pipeline.planning import InferencePlan, Plans
from arena_pipeline.planning.fitting import fit_windows
from arena_pipeline.planning.memory import window_bytes
from arena_pipeline.predict.case import CaseSettings, Network, PredictionTask
from arena_pipeline.words import names_to_choose
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Setup:
    """All that prediction needs but the volumes.

    Attributes:
        labels: structure -> integer in the written segmentations.
        keep_largest: structure -> whether only its largest component stays.
        source: in words, for labels.json.
        support_ids: structure -> the cases that its adapters were adapted on; for labels.json.
        support_volumes_ml: structure -> its volumes in their support sets; empty where the adapters don't say.
        window_bytes: main memory that the network takes for one window; 0 where it runs elsewhere.
    """

    tasks: tuple[PredictionTask, ...]
    settings: CaseSettings
    labels: dict[str, int]
    keep_largest: dict[str, bool]
    source: dict[str, str]
    window_bytes: int = 0
    support_ids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    support_volumes_ml: dict[str, tuple[float, ...]] = field(default_factory=dict)


def adapted_setup(
    model: AdaptedModel, structures: Sequence[str] | None, workspace: Workspace, device: torch.device, changes: Mapping[str, Any]
) -> Setup:
    """The folds of every task of `model`, on one network in memory; of a multi-class task only `structures` are written.

    Args:
        changes: of the planned inference; a None among them changes nothing.
    """
    preset = load_preset(model.foundation, workspace.foundations)
    network = AdaptedNetwork(preset, weights_file(preset, workspace.installed_foundation(preset.name)), device)
    tasks = tuple(adapted_task(task.record, tuple(task.folds.values()), network, structures) for task in model.tasks)
    folds = {
        f"folds of {task.record.task}": " ".join(f"{fold}:{file_sha256(place / RECORD)[:12]}" for fold, place in task.folds.items())
        for task in model.tasks
    }
    source = {"model": str(model.path.resolve()), "foundation": preset.name, "licence": preset.licence} | folds
    keep = {name: flag for task in model.tasks for name, flag in model.keep_largest.items() if name in task.record.structures}
    channels = max(task.out_channels for task in tasks)
    inference = _changed(model.inference, changes)
    settings = case_settings(preset.model_copy(update={"scheme": model.scheme}), inference, model.export_workers, device, channels)
    settings = replace(settings, tasks_at_once=len(tasks), networks_at_once=sum(len(task.networks) for task in tasks))
    support_ids, volumes = _support(model)
    return Setup(tasks, settings, _labels(tasks), keep, source, _window_bytes(preset, device), support_ids, volumes)


def _support(model: AdaptedModel) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[float, ...]]]:
    """Structure -> the cases of all its folds' support sets, sorted; and its volumes there, fold by fold."""
    cases, volumes = dict[str, tuple[str, ...]](), dict[str, tuple[float, ...]]()
    for task in model.tasks:
        records = [read_adapter_record(folder) for folder in task.folds.values()]
        for structure in task.record.structures:
            cases[structure] = tuple(sorted({case for record in records for case in record.support_ids}))
            volumes[structure] = tuple(volume for record in records for volume in record.support_volumes_ml.get(structure, ()))
    return cases, volumes


def adapted_task(record: AdapterRecord, folds: Sequence[Path], network: AdaptedNetwork, structures: Sequence[str] | None = None) -> PredictionTask:
    """The task of these adapters, whose folders are `folds`; of a multi-class task only `structures` are written, where given."""
    networks: tuple[Callable[[], Network], ...] = tuple(partial(network.select, folder) for folder in folds)
    first = 1 if record.activation == "softmax" else 0
    channels = {name: channel for channel, name in enumerate(record.structures, start=first)}
    written = {name: label for name, label in record.structures.items() if structures is None or name in structures}
    others = {name: channel for name, channel in channels.items() if name not in written}
    if decides_by_margin(network.preset, record.activation, record.head):
        return PredictionTask(record.task, written, channels, "margin", networks, others, network, network.preset.architecture.out_channels - 1)
    return PredictionTask(record.task, written, channels, record.activation, networks, others, network)


def zero_shot_setup(
    structures: Sequence[str],
    workspace: Workspace,
    foundation: str | None,
    dataset_name: str | None,
    device: torch.device,
    changes: Mapping[str, Any],
) -> Setup:
    """The pre-trained head as it is.

    With a softmax head every channel takes part in the argmax, and `structures` are written; with a sigmoid head only
    their channels are computed. Integers are the raw dataset's where one is given, else 1, 2, ... in the order asked for.
    Where that dataset is planned for the foundation, its plans say how windows overlap and of which structures only the
    largest component stays, as they do for an adapted model and in arena_compare; else all components stay.

    Raises:
        FoundationError: the foundation has no head that could be used without adapting.
        UnknownStructure: it was not pre-trained on one of them, or the dataset has no such label.
    """
    structures = list(dict.fromkeys(structures))
    name, reason = (foundation, "named") if foundation is not None else foundation_for_structures(workspace, structures)
    preset = load_preset(name, workspace.foundations)
    logger.info("zero-shot with foundation %s (%s)", name, reason)
    check_zero_shot(preset, structures)
    numbers = {one: number for number, one in enumerate(structures, start=1)}
    if dataset_name is not None:
        dataset = DatasetJson.read(workspace.raw_dataset(dataset_name) / "dataset.json")
        dataset.require_structures(list(structures))
        numbers = dataset.structures
    inference, keep = _planned(workspace, dataset_name, preset, structures)
    network = AdaptedNetwork(preset, weights_file(preset, workspace.installed_foundation(name)), device)
    task = zero_shot_task(preset, {one: numbers[one] for one in structures}, network)
    source = {"model": "zero-shot", "foundation": name, "licence": preset.licence}
    channels = len(preset.structures) + 1  # all of the head, whatever is taken from it
    settings = case_settings(preset, _changed(inference, changes), None, device, channels)
    return Setup((task,), settings, _labels((task,)), keep, source, _window_bytes(preset, device))


def _changed(inference: InferencePlan, changes: Mapping[str, Any]) -> InferencePlan:
    return inference.model_copy(update={name: value for name, value in changes.items() if value is not None})


def _planned(
    workspace: Workspace, dataset_name: str | None, preset: FoundationPreset, structures: Sequence[str]
) -> tuple[InferencePlan, dict[str, bool]]:
    """How a dataset's plans predict, where there are any: the windows, and structure -> whether only its largest component stays."""
    path = None if dataset_name is None else workspace.plans(dataset_name, preset.name)
    if path is None or not path.is_file():
        logger.info("zero-shot without a planned dataset (-d): all components of every structure stay")
        return InferencePlan(overlap=preset.scheme.overlap), {}
    plans = Plans.read(path)
    keep = {one: flag for task in plans.tasks for one, flag in task.keep_largest.items() if one in structures}
    logger.info("zero-shot as %s is planned: the largest component alone stays of %s", dataset_name, ", ".join(n for n in keep if keep[n]) or "none")
    return plans.inference, keep


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
            f"{names_to_choose(unknown, list(preset.structures), 'it knows', 30)}. A new structure needs labelled scans and arena_adapt"
        )


def zero_shot_task(preset: FoundationPreset, labels: dict[str, int], network: AdaptedNetwork) -> PredictionTask:
    """The pre-trained head's channels of `labels` (structure -> integer)."""
    if preset.head == "softmax":
        others = {name: channel for name, channel in preset.structures.items() if name not in labels}
        return PredictionTask("zero_shot", labels, dict(preset.structures), "softmax", (partial(network.select, None),), others)
    rows = [preset.structures[name] for name in labels]
    channels = {name: number for number, name in enumerate(labels)}
    return PredictionTask("zero_shot", labels, channels, "sigmoid", (partial(_only, network, rows),))


def _only(foundation: AdaptedNetwork, rows: list[int]) -> Network:
    """The network with these output channels alone: 29 maps of a whole body do not fit everywhere."""
    network = foundation.select(None)

    def run(patches: Tensor) -> Tensor:
        output: Tensor = network(patches)
        return output[:, rows]

    return run


def _window_bytes(preset: FoundationPreset, device: torch.device) -> int:
    return window_bytes(preset) if device.type == "cpu" else 0


def _labels(tasks: Sequence[PredictionTask]) -> dict[str, int]:
    return dict(sorted((item for task in tasks for item in task.structures.items()), key=lambda item: item[1]))


def case_settings(preset: FoundationPreset, inference: InferencePlan, workers: int | None, device: torch.device, out_channels: int) -> CaseSettings:
    """The settings on this machine. `workers`: threads of the export, no more than the cores that may be used now; None: as many."""
    here = device.type != "cuda" or torch.cuda.is_available()  # a cluster's head need not have the GPU that its nodes have
    machine = this_machine(str(device) if here else "cpu")
    windows, why = fit_windows(inference, preset, machine, out_channels)
    logger.debug("windows at once: %d (%s)", windows, why)
    threads = machine.cores if workers is None else min(workers, machine.cores)
    return CaseSettings(preset.scheme, device, inference.overlap, windows, inference.threshold, threads, inference.precision)
