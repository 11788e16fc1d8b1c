"""The Dice to expect of a model whose folds leave scans out: every fold on those that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from arena_pipeline.adapt.job import FoldJob, PlannedDataset
from arena_pipeline.errors import DatasetError
from arena_pipeline.evaluate.held_out import native_case_scores, planned_settings, read_reference, segment_stored
from arena_pipeline.fingerprint import Fingerprint
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import read_adapter_record
from arena_pipeline.model.expected import EXPECTED, ExpectedDice, write_expected
from arena_pipeline.planning.tasks import without_scans
from arena_pipeline.predict.case import PredictionTask
from arena_pipeline.predict.predictors import adapted_task, zero_shot_task
from arena_pipeline.preprocess.store import StoredCase

Dice = dict[str, float]


def expect_dice(planned: PlannedDataset, jobs: Sequence[FoldJob], device: torch.device) -> None:
    """Writes expected_dice.json for every task all of whose folds are among `jobs`, finished, and leave scans out; one that is there stays."""
    network: AdaptedNetwork | None = None
    for name in dict.fromkeys(job.task.name for job in jobs):
        members = [job for job in jobs if job.task.name == name and job.left_out and job.is_recorded()]
        if not members or len(members) < planned.plans.leaving_out(members[0].task, members[0].shots) or _expected(members[0]).is_file():
            continue
        network = network or AdaptedNetwork(planned.preset, planned.weights, device)
        raw = RawDataset.open(planned.workspace.raw_dataset(planned.plans.dataset_name))
        fingerprint = Fingerprint.read(planned.workspace.fingerprint(planned.plans.dataset_name))
        task = members[0].task
        own, before = list[Dice](), list[Dice]()
        for member in members:
            job = replace(member, task=without_scans(task, member.left_out, fingerprint))
            own += _left_out_dice(job, raw, adapted_task(read_adapter_record(job.folder), (job.folder,), network), device)
            if task.kind == "base" and planned.preset.head != "none":
                before += _left_out_dice(job, raw, zero_shot_task(planned.preset, task.structures, network), device)
        write_expected(
            members[0].folder.parent,
            [ExpectedDice.of(one, members[0].settings.method, [d[one] for d in own], [d[one] for d in before] or None) for one in task.structures],
        )


def _expected(job: FoldJob) -> Path:
    return job.folder.parent / EXPECTED


def _left_out_dice(job: FoldJob, raw: RawDataset, task: PredictionTask, device: torch.device) -> list[Dice]:
    """Structure -> Dice for each scan that the fold goes without; NaN where it has none or is not annotated."""
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
