"""arena_adapt: every fold of every task of a dataset, each saved as an adapter."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from tqdm import tqdm

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loop import Epoch, History, adapt
from arena_pipeline.adapt.report import TrainingLog, plot_progress
from arena_pipeline.adapt.trainable import Trainable, prepare_
from arena_pipeline.errors import AdapterError, PlansError, SupportSetError
from arena_pipeline.foundations import FoundationPreset, load_preset, weights_file
from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.io.splits import draw_support_set
from arena_pipeline.model.adapter import Adapter, AdapterRecord, read_adapter, write_adapter
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.device import pick_device
from arena_pipeline.model.network import to_device
from arena_pipeline.model.weights import load_foundation_network, sha256
from arena_pipeline.planning import Plans, TaskPlan
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.records import note, stage, versions
from arena_pipeline.settings import AdaptationSettings
from arena_pipeline.stages.selection import planned_foundation
from arena_pipeline.workspace import Workspace, fold_folder

logger = logging.getLogger(__name__)

DEFAULT_FOLDS = (0, 1, 2)


@dataclass(frozen=True)
class Job:
    """One fold of one task: all that its adaptation depends on."""

    plans: Plans
    plans_sha256: str
    preset: FoundationPreset
    weights: Path
    cases: Path
    task: TaskPlan
    fold: int
    shots: int
    support_ids: tuple[str, ...]
    settings: AdaptationSettings
    folder: Path


def adapt_dataset(
    dataset_id: int,
    shots: int,
    workspace: Workspace,
    *,
    folds: Sequence[int] = DEFAULT_FOLDS,
    structures: Sequence[str] | None = None,
    foundation: str | None = None,
    rank: int | None = None,
    max_epochs: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Adapts every fold of every task (of `structures`, where given) and returns the model folder.

    A fold that is there, finished and made with the same plans, settings and support set is kept unless `overwrite`.

    Raises:
        ArenaError: no plans, an unknown structure, too few cases, a missing foundation; nothing is written then.
    """
    keep_freed_memory()
    target = pick_device(device)
    note("device", str(target))
    jobs = _jobs(dataset_id, shots, workspace, folds, structures, foundation, {"rank": rank, "max_epochs": max_epochs})
    load_foundation_network(jobs[0].preset, jobs[0].weights)  # weights that do not fit are told before anything is written
    model = workspace.model(jobs[0].plans.dataset_name, jobs[0].preset.name, jobs[0].settings.method, shots)
    model.mkdir(parents=True, exist_ok=True)
    write_text(model / "plans.json", workspace.plans(jobs[0].plans.dataset_name, jobs[0].preset.name).read_text(encoding="utf-8"))
    DatasetJson.read(workspace.raw_dataset(jobs[0].plans.dataset_name) / "dataset.json").write(model / "dataset.json")
    for job in jobs:
        if not overwrite and _is_done(job):
            logger.info("%s, fold %d: already adapted with these plans and settings, kept (--overwrite adapts it again)", job.task.name, job.fold)
            continue
        with stage(f"adapt {job.task.name} fold {job.fold}"):
            _run(job, target)
    return model


def _jobs(
    dataset_id: int,
    shots: int,
    workspace: Workspace,
    folds: Sequence[int],
    structures: Sequence[str] | None,
    foundation: str | None,
    changes: dict[str, int | None],
) -> list[Job]:
    """Every fold to adapt, checked before the first one starts."""
    name = workspace.dataset_name(dataset_id)
    preset = load_preset(planned_foundation(workspace, name, foundation))
    path = workspace.plans(name, preset.name)
    plans = Plans.read(path)
    weights = weights_file(preset, workspace.installed_foundation(preset.name))
    if sha256(weights) != plans.foundation_sha256:
        raise PlansError(
            f"{path}: made for other weights of {preset.name} than {weights} holds; "
            f"run arena_plan_and_preprocess -d {dataset_id} -foundation {preset.name} again"
        )
    settings = _changed(plans.adaptation, changes)
    model = workspace.model(name, preset.name, settings.method, shots)
    tasks, cases = _tasks(plans, structures, shots), workspace.cases(name, preset.name)
    plans_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    jobs = []
    for task in tasks:
        for fold in folds:
            support_ids = draw_support_set(task.candidates, shots, fold)
            jobs.append(
                Job(plans, plans_sha256, preset, weights, cases, task, fold, shots, support_ids, settings, fold_folder(model, task.name, fold))
            )
    for identifier in sorted({case for job in jobs for case in job.support_ids}):
        StoredCase.open(cases, identifier)  # a case that is not preprocessed is told now, not hours later
    return jobs


def _changed(settings: AdaptationSettings, changes: dict[str, int | None]) -> AdaptationSettings:
    """The planned settings with those given on the command line."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return AdaptationSettings.model_validate(settings.model_dump() | given)
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]} {fault['input']}: {fault['msg']}" for fault in error.errors())
        raise PlansError(f"impossible settings: {faults}") from None


def _tasks(plans: Plans, structures: Sequence[str] | None, shots: int) -> list[TaskPlan]:
    """The tasks asked for; without a choice, those of the plans that have enough cases."""
    if structures:
        return [plans.task(name) for name in structures]
    possible = [task for task in plans.tasks if task.max_shots >= shots]
    for task in plans.tasks:
        if task not in possible:
            logger.warning("%s: left out, %d shots asked for and %d possible", task.name, shots, task.max_shots)
    if not possible:
        most = max((task.max_shots for task in plans.tasks), default=0)
        raise SupportSetError(
            f"{plans.dataset_name}: no task has {shots} usable training cases, the most is {most}; lower -shots or add annotated cases"
        )
    return possible


def _is_done(job: Job) -> bool:
    try:
        record = read_adapter(job.folder).record  # the tensors too: a damaged adapter is not a finished one
    except AdapterError:
        return False
    return (record.foundation_sha256, record.settings, record.support_ids, record.scheme) == (
        job.plans.foundation_sha256,
        job.settings,
        job.support_ids,
        job.plans.scheme,
    )


def _run(job: Job, device: torch.device) -> None:
    started = time.perf_counter()
    logger.info("%s, fold %d: support %s", job.task.name, job.fold, ", ".join(job.support_ids))
    seeds = np.random.SeedSequence(job.fold)
    network = to_device(load_foundation_network(job.preset, job.weights), device)
    generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
    trainable = prepare_(network, job.preset, job.task, job.settings, generator)
    network.to(device)
    labels = list(job.task.structures.values())
    support = [SupportVolume.open(StoredCase.open(job.cases, identifier), labels) for identifier in job.support_ids]
    with (
        TrainingLog(job.folder / "training_log.csv") as log,
        tqdm(total=job.settings.max_epochs, desc=f"{job.task.name} fold {job.fold}", unit="epoch") as bar,
    ):

        def on_epoch(epoch: Epoch) -> None:
            log.add(epoch)
            bar.set_postfix(loss=f"{epoch.loss:.3f}", rank=sum(epoch.effective_rank.values()))
            bar.update()

        history = adapt(network, trainable, support, job.settings, job.preset.scheme.patch_size_voxels, np.random.default_rng(seeds), on_epoch)
    title = f"{job.plans.dataset_name}: {job.task.name}, fold {job.fold}, {job.shots} shots"
    plot_progress(job.folder / "progress.png", history.epochs, job.settings.stop_smoothing, title)
    adapter = Adapter(_record(job, trainable, history, time.perf_counter() - started), trainable.tensors())
    write_adapter(job.folder, adapter)
    logger.info(
        "%s, fold %d: %s after %d epochs, loss %.3f", job.task.name, job.fold, history.stop_reason, len(history.epochs), history.epochs[-1].loss
    )


def _record(job: Job, trainable: Trainable, history: History, seconds: float) -> AdapterRecord:
    task = job.task
    return AdapterRecord(
        dataset_name=job.plans.dataset_name,
        foundation=job.preset.name,
        foundation_sha256=job.plans.foundation_sha256,
        plans_sha256=job.plans_sha256,
        scheme=job.plans.scheme,
        inference=job.plans.inference,
        task=task.name,
        structures=task.structures,
        dataset_labels=job.plans.labels,
        activation=task.activation,
        kind=task.kind,
        train_decoder=task.train_decoder,
        head=task.head,
        keep_largest=task.keep_largest,
        fold=job.fold,
        shots=job.shots,
        support_ids=job.support_ids,
        settings=job.settings,
        effective_rank=trainable.effective_rank(),
        trained_parameters=trainable.parameter_count,
        saved_parameters=sum(tensor.numel() for tensor in trainable.tensors().values()),
        epochs=len(history.epochs),
        stop_reason=history.stop_reason,
        final_loss=history.epochs[-1].loss,
        seconds=round(seconds, 3),
        versions=versions(),
        licence=job.preset.licence,
    )
