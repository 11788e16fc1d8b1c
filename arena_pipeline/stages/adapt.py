"""arena_adapt: every fold of every task of a dataset, each saved as an adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from arena_pipeline.adapt.checkpoint import read_fold_checkpoint
from arena_pipeline.adapt.job import FoldJob, PlannedDataset, read_planned_dataset
from arena_pipeline.adapt.prepare import prepare_
from arena_pipeline.adapt.run import ADAPTER_BYTES, CHECKPOINT_BYTES, run_job
from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError, NotLearned, WorkerDied
from arena_pipeline.evaluate.expect import expect_dice
from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.lock import all_locked
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.io.space import require_space
from arena_pipeline.io.workers import in_worker
from arena_pipeline.machine import this_machine
from arena_pipeline.model.adapter import TENSORS
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.attempts import MOST_ATTEMPTS, discard_failed_attempts
from arena_pipeline.model.device import device_of_jobs, pick_device
from arena_pipeline.model.model_folder import folds_in_words, of_other_plans
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.planning import Plans
from arena_pipeline.planning.fitting import fit_adaptation
from arena_pipeline.planning.memory import adaptation_bytes
from arena_pipeline.records import note, stage
from arena_pipeline.settings import MethodName, PrecisionName
from arena_pipeline.share.package import refuse_installed
from arena_pipeline.words import duration, pluralize
from arena_pipeline.workspace import CHECKPOINT, Workspace

logger = logging.getLogger(__name__)

COMMAND = "_command"
"""The lock of a fold's folder that the command holds for its whole run; another one is held by the process that adapts the fold."""


@plain_arguments
def adapt_dataset(
    dataset_id: int,
    shots: int,
    workspace: Workspace,
    *,
    folds: Sequence[int] | None = None,
    structures: Sequence[str] | None = None,
    foundation: str | None = None,
    method: MethodName | None = None,
    rank: int | None = None,
    max_epochs: int | None = None,
    device: str = "auto",
    precision: PrecisionName | None = None,
    overwrite: bool = False,
    continue_unfinished: bool = False,
    workers: int | None = None,
) -> Path:
    """Adapts every fold of every task (of `structures`, where given) and returns the model folder.

    A fold that is there, finished and made with the same plans, settings and support set is kept unless `overwrite`. One that was
    interrupted starts anew, or with `continue_unfinished` goes on from its last finished epoch, to the same bits (on a CPU).
    Where the folds leave scans out, expected_dice.json has the Dice on those scans.

    Args:
        folds: None: 0, 1, 2, or where the plans have folds leave scans out, all of these.
        workers: folds at once, each in a process of its own; 0 and 1: one after the other in this process; None: one per GPU.

    Raises:
        ArenaError: no plans, an unknown structure, too few cases, a missing foundation, another command at work on one of the folds, a
            checkpoint that is damaged or of other plans or settings, no room for all folds; no adapter is touched then. Or a support case
            that was preprocessed from other files while its fold was adapted; the folds before it are whole.
        NotLearned: after all folds were adapted, naming those that learned nothing, at their rates and at lower ones.
    """
    note("device", str(device_of_jobs(device)))
    planned = read_planned_dataset(dataset_id, workspace, foundation)
    changes = {"method": method, "rank": rank, "max_epochs": max_epochs, "precision": precision}
    jobs = planned.jobs(shots, folds, structures, changes)
    model = workspace.model(jobs[0].plans.dataset_name, jobs[0].preset.name, jobs[0].settings.method, shots)
    to_do = [job for job in jobs if overwrite or not _is_kept(job)]
    failed: list[ArenaError] = []
    # raises for weights that do not fit, before anything is written
    _require_space_for_all(to_do, load_foundation_network(jobs[0].preset, jobs[0].weights).to("meta"))
    with all_locked([job.folder for job in to_do], COMMAND):  # each fold itself is held by the process that adapts it
        with all_locked([job.folder for job in to_do]):
            for job in to_do:
                _check_checkpoint(job, continue_unfinished)
            describe_model(planned, model)
            for job in to_do:
                _remove_unfinished(job, continue_unfinished, overwrite)
        needs = adaptation_needs("adapt", workers, planned, device, cores=0, unit="fold")
        begun = time.monotonic()
        for done, (_, error) in enumerate(map_jobs(partial(_adapt, device=device), {job.name: job for job in to_do}, needs), start=1):
            if isinstance(error, NotLearned | WorkerDied):
                logger.error("%s", error)
                failed.append(error)
            elif error is not None:
                raise error
            if done < len(to_do):
                left = duration((time.monotonic() - begun) / done * (len(to_do) - done))
                logger.info("%d of %s done, about %s left", done, pluralize(len(to_do), "fold"), left)
        if any(job.left_out for job in jobs):
            with stage("left-out scans"):  # of all folds that are there: each may have had a command of its own
                all_folds = jobs if folds is None else planned.jobs(shots, None, structures, changes)
                expect_dice(planned, all_folds, replace(needs, stage="left-out scans"))
    if failed:
        raise _as_one(failed, len(jobs))
    return model


def adaptation_needs(command: str, workers: int | None, planned: PlannedDataset, device: str, *, cores: int, unit: str) -> Needs:
    """What one adaptation takes; an accelerator has its activations in its own memory."""
    patches = 0
    if device_of_jobs(device).type == "cpu":
        settings, _ = fit_adaptation(planned.plans.adaptation, planned.preset, this_machine())
        patches = settings.micro_batch or settings.patches_per_volume
    return Needs(command, workers, memory_bytes=adaptation_bytes(planned.preset, patches), cores=cores, device=device, unit=unit)


def _adapt(job: FoldJob, device: str) -> None:
    """One fold, in this process or a worker's."""
    if in_worker():  # it is ours alone; the process of a caller of the Python API is not
        keep_freed_memory()
    with stage(f"adapt {job.name}"):
        run_job(job, pick_device(device), progress=not in_worker(), continue_unfinished=True)


def _as_one(failed: Sequence[ArenaError], folds: int) -> ArenaError:
    if folds == 1:
        return failed[0]
    left_out = "they have no adapter, and predictions and averages go without them"
    return type(failed[0])(
        f"{len(failed)} of {pluralize(folds, 'fold')} failed, {left_out}: " + "; ".join(error.found for error in failed), advice=failed[0].advice
    )


def _is_kept(job: FoldJob) -> bool:
    if not job.is_done():
        return False
    (job.folder / CHECKPOINT).unlink(missing_ok=True)  # of a run that was killed just after its last step
    logger.info("%s, fold %d: already adapted with these plans and settings, kept (--overwrite adapts it again)", job.task.name, job.fold)
    return True


def _check_checkpoint(job: FoldJob, continue_unfinished: bool) -> None:
    """Refuses a checkpoint that can't be continued before the first fold starts."""
    path = job.folder / CHECKPOINT
    if path.is_file() and continue_unfinished:
        read_fold_checkpoint(path, job.checkpoint_identity())
    elif path.is_file():
        logger.warning("%s, fold %d: an unfinished adaptation is there and starts anew; --continue goes on with it", job.task.name, job.fold)


def _remove_unfinished(job: FoldJob, continue_unfinished: bool, overwrite: bool) -> None:
    """Removes unfinished work that the command does not continue. Later, a fold whose worker has died goes on from that worker's checkpoint."""
    if not continue_unfinished:
        (job.folder / CHECKPOINT).unlink(missing_ok=True)
    if overwrite or (not continue_unfinished and len(job.failed_attempts()) < MOST_ATTEMPTS):
        discard_failed_attempts(job.folder)


def _require_space_for_all(jobs: Sequence[FoldJob], network: nn.Module) -> None:
    """Raises NoSpace now, not hours later, where the disk has no room for the adapters of all jobs. A single job is checked when it starts.

    `network` is on the meta device, where a copy has shapes alone.
    """
    if len(jobs) < 2:
        return
    alike = {_trained_alike(job): job for job in jobs}  # a hundred structures are of two or three kinds
    numbers = {
        kind: prepare_(deepcopy(network), job.preset, job.task, job.settings, torch.Generator(), job.shots).parameter_count
        for kind, job in alike.items()
    }
    replaced = sum(path.stat().st_size for job in jobs if (path := job.folder / TENSORS).is_file())
    needed = ADAPTER_BYTES * sum(numbers[_trained_alike(job)] for job in jobs) + CHECKPOINT_BYTES * max(numbers.values()) - replaced
    require_space(jobs[0].folder.parent.parent, needed, f"adapting {pluralize(len(jobs), 'fold')}")


def _trained_alike(job: FoldJob) -> tuple[object, ...]:
    """What the number of trained parameters depends on, among the jobs of one command."""
    return job.task.head, job.task.activation, job.task.out_channels, job.task.train_decoder


def describe_model(planned: PlannedDataset, model: Path) -> None:
    """Makes a model folder, with the plans and the dataset's description as they are now; AdapterError for one that was installed."""
    refuse_installed(model)
    name, path = planned.plans.dataset_name, model / "plans.json"
    text = planned.workspace.plans(name, planned.preset.name).read_text(encoding="utf-8")
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        _keep_older_plans(path, planned.plans)
    write_text(path, text)
    DatasetJson.read(planned.workspace.raw_dataset(name) / "dataset.json").write(model / "dataset.json")


def _keep_older_plans(path: Path, plans: Plans) -> None:
    """Keeps the plans in `path` that `plans` are about to replace, edited there or planned earlier, and says which adapters need them."""
    kept = path.with_name(f"plans_{file_sha256(path)[:12]}.json")
    write_text(kept, path.read_text(encoding="utf-8"))
    others = of_other_plans(path.parent, plans)
    if not others:
        logger.warning("%s: replaced by the dataset's plans, which differ; it is kept as %s", path, kept.name)
        return
    logger.warning(
        "%s: these adapters belong to older plans and will be ignored or replaced: %s. To keep using those that are not replaced, copy the folder "
        "and rename %s to plans.json in the copy",
        *(path.parent, folds_in_words(others), kept.name),
    )
