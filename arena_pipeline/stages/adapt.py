"""arena_adapt: every fold of every task of a dataset, each saved as an adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loop import Epoch, History, adapt
from arena_pipeline.adapt.report import TrainingLog, plot_progress
from arena_pipeline.adapt.trainable import Trainable, prepare_
from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.model.adapter import Adapter, AdapterRecord, discard_adapter, write_adapter
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.device import pick_device
from arena_pipeline.model.network import to_device
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.records import note, stage, versions
from arena_pipeline.stages.adaptation_jobs import Job, list_jobs
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

DEFAULT_FOLDS = (0, 1, 2)


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
    jobs = list_jobs(dataset_id, shots, workspace, folds, structures, foundation, {"rank": rank, "max_epochs": max_epochs})
    load_foundation_network(jobs[0].preset, jobs[0].weights)  # weights that do not fit are told before anything is written
    model = workspace.model(jobs[0].plans.dataset_name, jobs[0].preset.name, jobs[0].settings.method, shots)
    model.mkdir(parents=True, exist_ok=True)
    write_text(model / "plans.json", workspace.plans(jobs[0].plans.dataset_name, jobs[0].preset.name).read_text(encoding="utf-8"))
    DatasetJson.read(workspace.raw_dataset(jobs[0].plans.dataset_name) / "dataset.json").write(model / "dataset.json")
    for job in jobs:
        if not overwrite and job.is_done():
            logger.info("%s, fold %d: already adapted with these plans and settings, kept (--overwrite adapts it again)", job.task.name, job.fold)
            continue
        with stage(f"adapt {job.task.name} fold {job.fold}"):
            _run(job, target)
    return model


def _run(job: Job, device: torch.device) -> None:
    started = time.perf_counter()
    discard_adapter(job.folder)  # an older one must not stand beside the new run's log
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
        tqdm(total=job.settings.max_epochs, desc=f"{job.task.name} fold {job.fold}", unit="epoch", disable=None) as bar,
    ):

        def on_epoch(epoch: Epoch) -> None:
            log.add(epoch)
            bar.set_postfix(loss=f"{epoch.loss:.3f}", rank=sum(epoch.effective_rank.values()))
            bar.update()

        history = adapt(network, trainable, support, job.settings, job.plans.scheme.patch_size_voxels, np.random.default_rng(seeds), on_epoch)
    title = f"{job.plans.dataset_name}: {job.task.name}, fold {job.fold}, {job.shots} shots"
    plot_progress(job.folder / "progress.png", history.epochs, job.settings.stop_smoothing, title)
    adapter = Adapter(_record(job, trainable, history, time.perf_counter() - started), trainable.tensors())
    write_adapter(job.folder, adapter)
    logger.info(
        "%s, fold %d: %s after %d epochs, loss %.3f", job.task.name, job.fold, history.stop_reason, len(history.epochs), history.epochs[-1].loss
    )


def _record(job: Job, trainable: Trainable, history: History, seconds: float) -> AdapterRecord:
    return AdapterRecord(
        **job.identity(),
        plans_sha256=job.plans_sha256,
        inference=job.plans.inference,
        dataset_labels=job.plans.labels,
        keep_largest=job.task.keep_largest,
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
