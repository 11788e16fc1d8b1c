"""The Dice to expect of a model whose folds leave scans out: every fold on those that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from arena_pipeline.adapt.job import FoldJob, PlannedDataset
from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.evaluate.held_out import native_case_scores, planned_settings, read_reference, segment_stored
from arena_pipeline.fingerprint import Fingerprint
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import read_adapter_record
from arena_pipeline.model.device import device_of_jobs
from arena_pipeline.model.expected import EXPECTED, ExpectedDice, write_expected
from arena_pipeline.planning.tasks import without_scans
from arena_pipeline.predict.case import PredictionTask
from arena_pipeline.predict.predictors import adapted_task, zero_shot_task
from arena_pipeline.preprocess.store import StoredCase

Dice = dict[str, float]
FoldScores = tuple[list[Dice], list[Dice]]
"""For each scan that a fold leaves out: Dice by its adapter, and by the unadapted foundation (nothing for structures that are new to it)."""


def expect_dice(planned: PlannedDataset, jobs: Sequence[FoldJob], needs: Needs) -> None:
    """Writes expected_dice.json for every task whose folds leave scans out and are all finished and among `jobs`; one that is there stays.

    Args:
        needs: what scoring one fold takes; several are scored at once.

    Raises:
        ArenaError: a scan or an adapter can't be read, or a worker died; the tasks before it are written.
    """
    tasks = dict[str, list[FoldJob]]()
    for name in dict.fromkeys(job.task.name for job in jobs):
        members = [job for job in jobs if job.task.name == name and job.left_out and job.is_recorded()]
        if members and len(members) == planned.plans.leave_out_folds(members[0].task, members[0].shots) and not _expected(members[0]).is_file():
            tasks[name] = members
    if not tasks:
        return
    device = device_of_jobs(needs.device)
    raw = RawDataset.open(planned.workspace.raw_dataset(planned.plans.dataset_name))
    fingerprint = Fingerprint.read(planned.workspace.fingerprint(planned.plans.dataset_name))
    score = _OnLeftOut(raw, AdaptedNetwork(planned.preset, planned.weights, device, planned.weights_state), device)
    to_score = {job.name: replace(job, task=without_scans(job.task, job.left_out, fingerprint)) for members in tasks.values() for job in members}
    found = dict[str, FoldScores]()
    for name, scores in map_jobs(score, to_score, needs):
        if isinstance(scores, ArenaError):
            raise scores
        found[name] = scores
        members = tasks[to_score[name].task.name]
        if all(job.name in found for job in members):
            _write(members, [found[job.name] for job in members])


@dataclass(frozen=True)
class _OnLeftOut:
    """Scores a fold on the scans that it leaves out; a worker keeps the network from fold to fold."""

    raw: RawDataset
    network: AdaptedNetwork
    device: torch.device

    def __call__(self, job: FoldJob) -> FoldScores:
        own = _left_out_dice(job, self.raw, adapted_task(read_adapter_record(job.folder), (job.folder,), self.network), self.device)
        if job.task.kind != "base" or job.preset.head == "none":
            return own, []
        return own, _left_out_dice(job, self.raw, zero_shot_task(job.preset, job.task.structures, self.network), self.device)


def _write(members: Sequence[FoldJob], scores: Sequence[FoldScores]) -> None:
    own, before = ([dice for fold in scores for dice in fold[which]] for which in (0, 1))
    write_expected(
        members[0].folder.parent,
        [
            ExpectedDice.of(one, members[0].settings.method, [d[one] for d in own], [d[one] for d in before] or None)
            for one in members[0].task.structures
        ],
    )


def _expected(job: FoldJob) -> Path:
    return job.folder.parent / EXPECTED


def _left_out_dice(job: FoldJob, raw: RawDataset, task: PredictionTask, device: torch.device) -> list[Dice]:
    """Structure -> Dice for each scan that the fold leaves out; NaN where the structure is absent or not annotated."""
    found, settings = [], planned_settings(job.preset, job.plans, task, device)
    for name in job.left_out:
        case = raw.training.get(name)
        if case is None or case.segmentation is None:
            raise DatasetError("planned as an annotated scan, and not there any more", case=name, file=raw.folder, advice="run arena_plan again")
        segmentation = segment_stored(settings, job.task, StoredCase.open(job.cases, name), task)
        annotated = [one for one in job.task.structures if raw.json.is_annotated(name, one)]
        scores = native_case_scores(read_reference(case.segmentation, case.image), segmentation, job.task, annotated, raw.json.ignore_label)
        found.append({one: scores[one][1]["Dice"] if one in scores else math.nan for one in job.task.structures})
    return found
