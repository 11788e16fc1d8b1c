"""One fold of one task: from its job to an adapter in its folder."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.checkpoint import Checkpoints, json_values
from arena_pipeline.adapt.job import FoldJob, check_support
from arena_pipeline.adapt.loop import Adaptation, Epoch
from arena_pipeline.adapt.prepare import prepare_, recompute_activations_
from arena_pipeline.adapt.report import plot_progress, training_log
from arena_pipeline.adapt.watch import LOWER_RATES, attempt_seed, attempt_settings, not_learned, support_dice, why_not_learned
from arena_pipeline.errors import LossNotFinite, NotLearned, SupportSetError
from arena_pipeline.io.atomic import remove_unfinished
from arena_pipeline.io.labels import UNLABELLED, count_labels
from arena_pipeline.io.lock import LEASE_SECONDS, locked
from arena_pipeline.io.space import require_space
from arena_pipeline.io.workers import in_worker
from arena_pipeline.machine import this_machine
from arena_pipeline.model.adapter import Adapter, AdapterRecord, discard_adapter, write_adapter
from arena_pipeline.model.allocator import release_freed_memory
from arena_pipeline.model.attempts import MOST_ATTEMPTS, Attempt, discard_failed_attempts, write_failed_attempts
from arena_pipeline.model.device import to_device
from arena_pipeline.model.expected import discard_expected
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.planning.fitting import fit_adaptation
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.records import RunRecord, versions
from arena_pipeline.words import duration, pluralize
from arena_pipeline.workspace import PROGRESS, TRAINING_LOG

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60  # on the progress of a fold, where there is no terminal to draw a bar on
ADAPTER_BYTES = 4  # on the disk, per trained number
CHECKPOINT_BYTES = 2 * 3 * 4  # weights and AdamW's two moments, and while a new one is written there are two


def run_job(job: FoldJob, device: torch.device, progress: bool = True, continue_unfinished: bool = False) -> None:
    """Adapts one fold of one task and writes its folder; one that has not learned is started once more, from another seed at lower rates.

    Args:
        progress: with a bar of its own.
        continue_unfinished: from its checkpoint, where there is one.

    Raises:
        NotLearned: neither attempt has learned, now or in an earlier run; attempts.json says so and there is no adapter.
    """
    with locked(job.folder, patience_seconds=LEASE_SECONDS if in_worker() else 0):  # the worker that had it may have died
        for path in remove_unfinished(job.folder):
            logger.debug("removed %s, left by a run that was killed", path)
        failed = job.failed_attempts()
        if len(failed) < MOST_ATTEMPTS and not continue_unfinished:
            failed = ()
        while len(failed) < MOST_ATTEMPTS:
            attempt = _attempt(job, device, failed, progress, continue_unfinished)
            if attempt.fault is None:
                return
            failed = (*failed, attempt)
            write_failed_attempts(job.folder, json_values(job.checkpoint_identity()), failed)
            logger.warning("%s, fold %d: has not learned: %s", job.task.name, job.fold, attempt.fault)
    faults = "; ".join(str(one.fault) for one in failed)
    raise NotLearned(
        f"{job.task.name}, fold {job.fold}: failed, has not learned in {pluralize(len(failed), 'attempt')}: {faults}",
        advice=f"check the annotations of its support set ({', '.join(job.support_ids)}), or lower the rates in plans.json; --overwrite tries again",
    )


def _attempt(job: FoldJob, device: torch.device, failed: tuple[Attempt, ...], progress: bool, continue_unfinished: bool) -> Attempt:
    """One start of the adaptation after those that `failed`; writes the adapter if it learned."""
    release_freed_memory()  # what an earlier job left behind is not this one's peak
    with RunRecord("adapt", {}) as measured:
        started, identity = job.checkpoint_identity(), job.identity()  # before the cases are opened: they may have changed at the end
        adaptation = _prepared(job, device, len(failed))
        before = _dice_before(job, adaptation)
        identity |= {"support_volumes_ml": _support_volumes_ml(job)}
        checkpoints = Checkpoints(job.folder, started, adaptation)
        if continue_unfinished and checkpoints.resume_():
            logger.info("%s, fold %d: goes on after %s", job.task.name, job.fold, pluralize(len(adaptation.epochs), "epoch"))
        discard_expected(job.folder.parent)
        discard_adapter(job.folder)  # an older record must not stay beside the new run's log, but is kept until that has really started
        if not failed:
            discard_failed_attempts(job.folder)
        try:
            stop_reason = _run(job, adaptation, checkpoints, progress)
            attempt = _judged(job, adaptation, len(failed)).model_copy(update={"dice_before": before})
        except LossNotFinite as error:
            attempt = _attempt_record(job, adaptation, len(failed), {}, error.found)
    _refuse_changed_support(job, started["support_volumes"], checkpoints)
    if attempt.fault is None:
        facts = {"seconds": round(checkpoints.seconds, 3), "attempts": (*failed, attempt), "precision": adaptation.precision.name}
        record = _record(job, identity, adaptation, stop_reason, measured).model_copy(update=facts)
        _write(job, Adapter(record, adaptation.trainable.tensors()), attempt)
    checkpoints.remove()  # before attempts.json is written: the next attempt must not go on from a failed one
    if adaptation.epochs:
        _draw(job, adaptation)
    return attempt


def _write(job: FoldJob, adapter: Adapter, attempt: Attempt) -> None:
    write_adapter(job.folder, adapter)
    discard_failed_attempts(job.folder)
    record, dice = adapter.record, list(attempt.support_dice.values())
    in_words = f", Dice {sum(dice) / len(dice):.3f} on patches of its own support set" if dice else ""
    logger.info(
        "%s, fold %d: %s after %s, loss %.3f%s",
        *(job.task.name, job.fold, record.stop_reason, pluralize(record.epochs, "epoch"), record.final_loss, in_words),
    )
    if attempt.not_learned:  # the mean does not show it
        told = ", ".join(f"{name} (Dice {attempt.support_dice[name]:.3f} on its own support set)" for name in attempt.not_learned)
        logger.warning(
            "%s, fold %d: HAS NOT LEARNED %s; the adapter is kept for the other structures. Check the annotations of %s, adapt each structure alone "
            "(arena_plan with --objective binary), or try -method fft",
            *(job.task.name, job.fold, told, "these" if len(attempt.not_learned) > 1 else attempt.not_learned[0]),
        )


def _judged(job: FoldJob, adaptation: Adaptation, number: int) -> Attempt:
    if len(adaptation.epochs) < job.settings.judged_from_epochs:
        return _attempt_record(job, adaptation, number, {}, None)
    dice, of_everything = support_dice(adaptation)
    judged = (dice, of_everything, job.settings.least_support_dice)
    record = _attempt_record(job, adaptation, number, _shown(job, dice), why_not_learned(*judged))
    lacking = tuple(name for name, lacks in zip(job.task.structures, not_learned(*judged), strict=True) if lacks)
    return record.model_copy(update={"not_learned": lacking if record.fault is None else ()})


def _dice_before(job: FoldJob, adaptation: Adaptation) -> dict[str, float]:
    """Dice of the unadapted foundation, which an adaptation of a base structure starts from."""
    background_is_random = job.task.activation == "softmax" and job.preset.head == "sigmoid"  # see pretrained_head
    known = job.task.head == "pretrained" and job.settings.method != "scratch" and not background_is_random
    return _shown(job, support_dice(adaptation)[0]) if known and job.settings.max_epochs >= job.settings.judged_from_epochs else {}


def _shown(job: FoldJob, dice: np.ndarray) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(job.task.structures, dice, strict=True) if not np.isnan(value)}


def _attempt_record(job: FoldJob, adaptation: Adaptation, number: int, dice: dict[str, float], why: str | None) -> Attempt:
    settings, epochs = adaptation.settings, adaptation.epochs
    return Attempt(
        seed=attempt_seed(job.fold, number),
        learning_rate=settings.learning_rate,
        decoder_learning_rate=settings.decoder_learning_rate,
        new_head_learning_rate=settings.new_head_learning_rate,
        epochs=len(epochs),
        final_loss=epochs[-1].loss if epochs else None,
        support_dice=dice,
        fault=why,
    )


def _prepared(job: FoldJob, device: torch.device, number: int) -> Adaptation:
    """Everything ready for the first epoch of attempt `number`."""
    settings = attempt_settings(job.settings, number)
    if number:
        logger.warning("%s, fold %d: starts again from another seed, at %g of its rates", job.task.name, job.fold, LOWER_RATES**number)
    logger.info("%s, fold %d: support %s", job.task.name, job.fold, ", ".join(job.support_ids))
    check_support(job)  # again: hours may have gone by over other folds
    seeds = np.random.SeedSequence(attempt_seed(job.fold, number))
    network = to_device(load_foundation_network(job.preset, job.weights), device)
    generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
    trainable = prepare_(network, job.preset, job.task, settings, generator, len(job.support_ids))
    network.to(device)
    settings, why = fit_adaptation(settings, job.preset, this_machine(str(device)))  # not recorded: the numbers do not depend on it
    saves = settings.micro_batch is not None or settings.recompute_activations
    logger.log(logging.INFO if saves else logging.DEBUG, "%s, fold %d: %s", job.task.name, job.fold, why)
    if settings.recompute_activations:
        recompute_activations_(network, job.preset.architecture)
    require_space(job.folder, (CHECKPOINT_BYTES + ADAPTER_BYTES) * trainable.parameter_count, f"adapting {job.task.name}")
    labels = list(job.task.structures.values())
    support = [SupportVolume.open(StoredCase.open(job.cases, identifier), labels) for identifier in job.support_ids]
    return Adaptation(network, trainable, support, settings, job.plans.scheme.patch_size_voxels, np.random.default_rng(seeds))


def _run(job: FoldJob, adaptation: Adaptation, checkpoints: Checkpoints, progress: bool) -> str:
    name, done, begun = f"{job.task.name}, fold {job.fold}", len(adaptation.epochs), time.monotonic()
    last_line = begun
    with (
        training_log(job.folder / TRAINING_LOG, adaptation.epochs) as log,
        tqdm(total=job.settings.max_epochs, initial=done, desc=name, unit="epoch", disable=None if progress else True) as bar,
    ):

        def on_epoch(epoch: Epoch) -> None:
            nonlocal last_line
            checkpoints.keep()
            log(epoch)
            bar.set_postfix(loss=f"{epoch.loss:.3f}", rank=sum(epoch.effective_rank.values()))
            bar.update()
            last = epoch.epoch + 1 == job.settings.max_epochs  # a line of its own follows
            if progress and bar.disable and not last and time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                epochs, number = job.settings.max_epochs, epoch.epoch + 1
                left = duration((last_line - begun) / (number - done) * (epochs - number))
                logger.info("%s: epoch %d of %d, loss %.3f, about %s left", name, number, epochs, epoch.loss, left)

        try:
            return adaptation.run(on_epoch)
        except LossNotFinite:  # the attempt has failed: nothing to go on from
            raise
        except BaseException:  # Ctrl-C, SIGTERM and faults alike lose no finished epoch
            checkpoints.flush()
            if adaptation.epochs:
                finished = pluralize(len(adaptation.epochs), "epoch")
                logger.info("%s: stopped after %s; run it again with --continue to go on from there", name, finished)
            raise


def _draw(job: FoldJob, adaptation: Adaptation) -> None:
    """progress.png, when everything else is written: nothing that only draws may cost an adapter."""
    title = f"{job.plans.dataset_name}: {job.task.name}, fold {job.fold}, {pluralize(job.shots, 'shot')}"
    try:
        plot_progress(job.folder / PROGRESS, adaptation.epochs, job.settings.stop_smoothing, title)
    except Exception as error:  # noqa: BLE001, of matplotlib, its fonts or the folder: the other folds go on
        logger.warning("%s: not drawn: %s", job.folder / PROGRESS, error)


def _refuse_changed_support(job: FoldJob, volumes: dict[str, Any], checkpoints: Checkpoints) -> None:
    """Removes the checkpoint and raises SupportSetError where a case is no longer stored from the files in `volumes`, those at the start.

    A case that is missing at the moment, as while it is preprocessed again, may come back unchanged: the next run checks that.
    """
    changed = [name for name, files in job.support_volumes().items() if files not in (None, volumes[name])]
    if changed:
        checkpoints.remove()
        raise SupportSetError(
            f"{job.task.name}, fold {job.fold}: {', '.join(changed)} preprocessed again from other files while this fold was being adapted",
            file=job.cases,
            advice="no adapter is written, run the command again",
        )


def _record(job: FoldJob, identity: dict[str, Any], adaptation: Adaptation, stop_reason: str, measured: RunRecord) -> AdapterRecord:
    trainable, epochs = adaptation.trainable, adaptation.epochs
    return AdapterRecord(
        **identity,
        plans_sha256=job.plans_sha256,
        inference=job.plans.inference,
        dataset_labels=job.plans.labels,
        keep_largest=job.task.keep_largest,
        effective_rank=trainable.effective_rank(),
        trained_parameters=trainable.parameter_count,
        saved_parameters=sum(tensor.numel() for tensor in trainable.tensors().values()),
        epochs=len(epochs),
        stop_reason=stop_reason,
        final_loss=epochs[-1].loss,
        seconds=round(measured.total.seconds, 3),
        peak_memory_mib=round(measured.total.peak_bytes / 2**20, 1),
        versions=versions(),
        licence=job.preset.licence,
    )


def _support_volumes_ml(job: FoldJob) -> dict[str, tuple[float, ...]]:
    """Structure -> its volume in each support case that is annotated in full: what arena_predict compares the volumes that it finds with."""
    stored = [StoredCase.open(job.cases, case) for case in job.support_ids]
    found = [(count_labels(case.segmentation(), UNLABELLED + 1), case.grid.voxel_volume_ml) for case in stored]
    known = [(voxels, ml) for voxels, ml in found if not voxels[UNLABELLED]]  # the volume in a scan annotated in part is unknown
    return {name: tuple(round(float(voxels[label]) * ml, 3) for voxels, ml in known) for name, label in job.task.structures.items()}
