"""arena_adapt: every fold of every task of a dataset, each saved as an adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.checkpoint import Checkpoints, read_checkpoint
from arena_pipeline.adapt.loop import Adaptation, Epoch, History
from arena_pipeline.adapt.prepare import prepare_
from arena_pipeline.adapt.report import TrainingLog, plot_progress
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import SupportSetError
from arena_pipeline.io.atomic import remove_unfinished, write_text
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.lock import all_locked, locked
from arena_pipeline.io.space import require_space
from arena_pipeline.model.adapter import TENSORS, Adapter, AdapterRecord, discard_adapter, write_adapter
from arena_pipeline.model.allocator import keep_freed_memory, release_freed_memory
from arena_pipeline.model.device import pick_device
from arena_pipeline.model.network import to_device
from arena_pipeline.model.recompute import recompute_activations_
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.planning import Plans
from arena_pipeline.predict.models import in_words, of_other_plans
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.records import RunRecord, note, stage, versions
from arena_pipeline.settings import MethodName
from arena_pipeline.stages.adaptation_jobs import Job, Planned, check_support, read_planned
from arena_pipeline.stages.model_package import require_own
from arena_pipeline.words import counted
from arena_pipeline.workspace import CHECKPOINT, PROGRESS, TRAINING_LOG, Workspace

logger = logging.getLogger(__name__)

DEFAULT_FOLDS = (0, 1, 2)
SECONDS_BETWEEN_LINES = 60  # on the progress of a fold, where there is no terminal to draw a bar on
ADAPTER_BYTES = 4  # on the disk, per trained number
CHECKPOINT_BYTES = 2 * 3 * 4  # weights and AdamW's two moments, and while a new one is written there are two


def adapt_dataset(
    dataset_id: int,
    shots: int,
    workspace: Workspace,
    *,
    folds: Sequence[int] = DEFAULT_FOLDS,
    structures: Sequence[str] | None = None,
    foundation: str | None = None,
    method: MethodName | None = None,
    rank: int | None = None,
    max_epochs: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    continue_unfinished: bool = False,
) -> Path:
    """Adapts every fold of every task (of `structures`, where given) and returns the model folder.

    A fold that is there, finished and made with the same plans, settings and support set is kept unless `overwrite`. One that was
    interrupted starts anew, or with `continue_unfinished` goes on from its last finished epoch, to the same bits (on a CPU).

    Raises:
        ArenaError: no plans, an unknown structure, too few cases, a missing foundation, another command at work on one of the folds, a
            checkpoint that is damaged or of other plans or settings, no room for all folds; no adapter is touched then. Or a support case
            that was preprocessed from other files while its fold was adapted; the folds before it are whole.
    """
    keep_freed_memory()
    target = pick_device(device)
    note("device", str(target))
    planned = read_planned(dataset_id, workspace, foundation)
    jobs = planned.jobs(shots, folds, structures, {"method": method, "rank": rank, "max_epochs": max_epochs})
    model = workspace.model(jobs[0].plans.dataset_name, jobs[0].preset.name, jobs[0].settings.method, shots)
    to_do = [job for job in jobs if overwrite or not _is_kept(job)]
    # weights that do not fit are told before anything is written
    _require_space_for_all(to_do, load_foundation_network(jobs[0].preset, jobs[0].weights))
    with all_locked([job.folder for job in to_do]):
        for job in to_do:
            _check_checkpoint(job, continue_unfinished)
        describe_model(planned, model)
        for job in to_do:
            with stage(f"adapt {job.task.name} fold {job.fold}"):
                run_job(job, target, continue_unfinished=continue_unfinished)
    return model


def _is_kept(job: Job) -> bool:
    if not job.is_done():
        return False
    (job.folder / CHECKPOINT).unlink(missing_ok=True)  # of a run that was killed just after its last step
    logger.info("%s, fold %d: already adapted with these plans and settings, kept (--overwrite adapts it again)", job.task.name, job.fold)
    return True


def _check_checkpoint(job: Job, continue_unfinished: bool) -> None:
    """Refuses a checkpoint that can't be continued before the first fold starts."""
    path = job.folder / CHECKPOINT
    if path.is_file() and continue_unfinished:
        read_checkpoint(path, job.checkpoint_identity())
    elif path.is_file():
        logger.warning("%s, fold %d: an unfinished adaptation is there and starts anew; --continue goes on with it", job.task.name, job.fold)


def _require_space_for_all(jobs: Sequence[Job], network: nn.Module) -> None:
    """Tells now what would be told hours later, when all but the last folds are adapted; a single one is checked in its turn."""
    if len(jobs) < 2:
        return
    alike = {_trained_alike(job): job for job in jobs}  # a hundred structures are of two or three kinds
    numbers = {
        kind: prepare_(deepcopy(network), job.preset, job.task, job.settings, torch.Generator(), job.shots).parameter_count
        for kind, job in alike.items()
    }
    replaced = sum(path.stat().st_size for job in jobs if (path := job.folder / TENSORS).is_file())
    needed = ADAPTER_BYTES * sum(numbers[_trained_alike(job)] for job in jobs) + CHECKPOINT_BYTES * max(numbers.values()) - replaced
    require_space(jobs[0].folder.parent.parent, needed, f"adapting {counted(len(jobs), 'fold')}")


def _trained_alike(job: Job) -> tuple[object, ...]:
    """What the number of trained parameters depends on, among the jobs of one command."""
    return job.task.head, job.task.activation, job.task.out_channels, job.task.train_decoder


def describe_model(planned: Planned, model: Path) -> None:
    """Makes a model folder, with the plans and the dataset's description as they are now; AdapterError for one that was installed."""
    require_own(model)
    name, path = planned.plans.dataset_name, model / "plans.json"
    text = planned.workspace.plans(name, planned.preset.name).read_text(encoding="utf-8")
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        _keep_older_plans(path, planned.plans)
    write_text(path, text)
    DatasetJson.read(planned.workspace.raw_dataset(name) / "dataset.json").write(model / "dataset.json")


def _keep_older_plans(path: Path, plans: Plans) -> None:
    """Where adapters in the folder need the plans in `path` that `plans` are about to replace: says so, and keeps those beside them."""
    others = of_other_plans(path.parent, plans)
    if not others:
        return
    kept = path.with_name(f"plans_{file_sha256(path)[:12]}.json")
    write_text(kept, path.read_text(encoding="utf-8"))
    logger.warning(
        "%s: adapters of other plans lie there and will no longer be used, or are replaced: %s. Moving the folder away before adapting keeps them "
        "usable. Their plans are kept in %s: in a copy of the folder, renamed to plans.json, they make those usable that were not replaced",
        *(path.parent, in_words(others), kept.name),
    )


def run_job(job: Job, device: torch.device, progress: bool = True, continue_unfinished: bool = False) -> None:
    """Adapts one fold of one task and writes its folder.

    Args:
        progress: with a bar of its own.
        continue_unfinished: from its checkpoint, where there is one.
    """
    with locked(job.folder):
        for path in remove_unfinished(job.folder):
            logger.debug("removed %s, left by a run that was killed", path)
        release_freed_memory()  # what an earlier job left behind is not this one's peak
        with RunRecord("adapt", {}) as measured:
            started, identity = job.checkpoint_identity(), job.identity()  # before the cases are opened: they may be others at the end
            adaptation = _prepared(job, device)
            checkpoints = Checkpoints(job.folder, started, adaptation)
            if continue_unfinished and checkpoints.resume_():
                logger.info("%s, fold %d: goes on after %s", job.task.name, job.fold, counted(len(adaptation.epochs), "epoch"))
            discard_adapter(job.folder)  # an older one must not stand beside the new run's log, but stays while the new run can't start
            history = _run(job, adaptation, checkpoints, progress)
        _refuse_changed_support(job, started["support_volumes"], checkpoints)
        record = _record(job, identity, adaptation.trainable, history, measured)
        record = record.model_copy(update={"seconds": round(checkpoints.seconds, 3)})
        write_adapter(job.folder, Adapter(record, adaptation.trainable.tensors()))
        checkpoints.remove()
    logger.info(
        "%s, fold %d: %s after %s, loss %.3f",
        *(job.task.name, job.fold, history.stop_reason, counted(len(history.epochs), "epoch"), history.epochs[-1].loss),
    )


def _prepared(job: Job, device: torch.device) -> Adaptation:
    """Everything ready for the first epoch."""
    logger.info("%s, fold %d: support %s", job.task.name, job.fold, ", ".join(job.support_ids))
    check_support(job)  # again: hours may have gone by over other folds
    seeds = np.random.SeedSequence(job.fold)
    network = to_device(load_foundation_network(job.preset, job.weights), device)
    generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
    trainable = prepare_(network, job.preset, job.task, job.settings, generator, len(job.support_ids))
    network.to(device)
    if job.settings.recompute_activations:
        recompute_activations_(network)
    require_space(job.folder, (CHECKPOINT_BYTES + ADAPTER_BYTES) * trainable.parameter_count, f"adapting {job.task.name}")
    labels = list(job.task.structures.values())
    support = [SupportVolume.open(StoredCase.open(job.cases, identifier), labels) for identifier in job.support_ids]
    return Adaptation(network, trainable, support, job.settings, job.plans.scheme.patch_size_voxels, np.random.default_rng(seeds))


def _run(job: Job, adaptation: Adaptation, checkpoints: Checkpoints, progress: bool) -> History:
    name, done, told = f"{job.task.name}, fold {job.fold}", len(adaptation.epochs), time.monotonic()
    with (
        TrainingLog(job.folder / TRAINING_LOG, adaptation.epochs) as log,
        tqdm(total=job.settings.max_epochs, initial=done, desc=name, unit="epoch", disable=None if progress else True) as bar,
    ):

        def on_epoch(epoch: Epoch) -> None:
            nonlocal told
            checkpoints.keep()
            log.add(epoch)
            bar.set_postfix(loss=f"{epoch.loss:.3f}", rank=sum(epoch.effective_rank.values()))
            bar.update()
            if progress and bar.disable and time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                logger.info("%s: epoch %d of %d, loss %.3f", name, epoch.epoch + 1, job.settings.max_epochs, epoch.loss)

        try:
            history = adaptation.run(on_epoch)
        except BaseException:  # Ctrl-C, SIGTERM and faults alike lose no finished epoch
            checkpoints.flush()
            if adaptation.epochs:
                logger.info("%s: stopped after %s; run it again with --continue to go on from there", name, counted(len(adaptation.epochs), "epoch"))
            raise
    title = f"{job.plans.dataset_name}: {job.task.name}, fold {job.fold}, {counted(job.shots, 'shot')}"
    plot_progress(job.folder / PROGRESS, history.epochs, job.settings.stop_smoothing, title)
    return history


def _refuse_changed_support(job: Job, volumes: dict[str, Any], checkpoints: Checkpoints) -> None:
    """Removes the checkpoint and raises SupportSetError where a case is stored from other files than `volumes`, those at the start, says.

    A case that is not there at the moment, as while it is preprocessed again, may come back the same: the next run will see.
    """
    changed = [name for name, files in job.support_volumes().items() if files not in (None, volumes[name])]
    if changed:
        checkpoints.remove()
        raise SupportSetError(
            f"{job.task.name}, fold {job.fold}: {', '.join(changed)} in {job.cases} was preprocessed again, from other files, while this fold was "
            f"adapted to what was there before, so no adapter is written; run it again"
        )


def _record(job: Job, identity: dict[str, Any], trainable: Trainable, history: History, measured: RunRecord) -> AdapterRecord:
    return AdapterRecord(
        **identity,
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
        seconds=round(measured.total.seconds, 3),
        peak_memory_mib=round(measured.total.peak_bytes / 2**20, 1),
        versions=versions(),
        licence=job.preset.licence,
    )
