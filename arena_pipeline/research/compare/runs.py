"""One run of a comparison: adapt one method to one support set, predict the queries, score them, write it all down once."""

from __future__ import annotations

import logging
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from pydantic_core import to_jsonable_python

from arena_pipeline.adapt.checkpoint import read_fold_checkpoint
from arena_pipeline.adapt.job import FoldJob, PlannedDataset
from arena_pipeline.adapt.run import run_job
from arena_pipeline.errors import AdapterError, NotLearned
from arena_pipeline.evaluate.held_out import native_case_scores, planned_settings, read_reference, segment_stored
from arena_pipeline.evaluate.metrics import Status
from arena_pipeline.evaluate.scores import Protocol, published_score
from arena_pipeline.io.filestate import WrittenFile
from arena_pipeline.io.images import write_segmentation
from arena_pipeline.io.json_files import StoredModel
from arena_pipeline.io.labels import UNLABELLED
from arena_pipeline.io.workers import in_worker
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import AdapterRecord, read_adapter_record
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.device import pick_device
from arena_pipeline.planning import TaskPlan
from arena_pipeline.predict.case import CaseSettings, PredictionTask, Sinks
from arena_pipeline.predict.predictors import adapted_task, zero_shot_task
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.queries import Query
from arena_pipeline.settings import Frozen
from arena_pipeline.workspace import CHECKPOINT

logger = logging.getLogger(__name__)

MEASURES = ("Dice", "NSD_1mm", "NSD_2mm", "HD95_mm")
ADAPTER_FACTS = {"epochs", "stop_reason", "final_loss", "seconds", "peak_memory_mib", "trained_parameters", "effective_rank"}
FAILED = "fit failed"
"""The status in runs.csv of queries that have no score because the fit did not learn."""


class CaseScore(Frozen):
    """One structure of one query; a measure that does not exist is None."""

    case: str
    structure: str
    status: Status
    measures: dict[str, float | None]


class FinishedRun(StoredModel):
    """The record of a run.

    Attributes:
        identity: all that its scores depend on; a run whose identity differs has to be made again.
        adapter: facts of adapter.json; empty for zero-shot; of a fit that failed only that it did.
        scores: empty for a fit that failed.
        predictions: the segmentations that were kept, by file name; empty where none were, and in older records.
    """

    identity: dict[str, Any]
    adapter: dict[str, Any]
    predict_seconds: float
    scores: tuple[CaseScore, ...]
    predictions: dict[str, WrittenFile] = Field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run to do; it is sent to a worker process.

    Attributes:
        name: that of its folders: method, shots and, in the rank sweep, rank.
        job: its adaptation; None for zero-shot.
        default_rank: False for runs that only the rank sweep needs.
        query_files: checksums and structures, to tell whether the queries are still the same.
        record: the file that is written last, and makes the run finished.
        predictions: where its segmentations are kept; None: not kept.
    """

    name: str
    planned: PlannedDataset
    task: TaskPlan
    fold: int
    job: FoldJob | None
    default_rank: bool
    queries: tuple[Query, ...]
    query_files: dict[str, Any]
    protocol: Protocol
    record: Path
    predictions: Path | None
    device: str

    @property
    def method(self) -> str:
        return ZERO_SHOT if self.job is None else self.job.settings.method

    @property
    def shots(self) -> int:
        return 0 if self.job is None else self.job.shots

    def identity(self) -> dict[str, Any]:
        """All that its scores depend on, in types that JSON has."""
        own: dict[str, Any] = {"task": self.task.name, "foundation_sha256": self.planned.plans.foundation_sha256, "scheme": self.planned.plans.scheme}
        if self.job is not None:
            own = self.job.identity()
        evaluation = {
            "protocol": self.protocol,
            "inference": self.planned.plans.inference,
            "keep_largest": self.task.keep_largest,
            "queries": self.query_files,
        }
        plain: dict[str, Any] = to_jsonable_python({"method": self.method} | own | evaluation)
        return plain

    def finished(self) -> FinishedRun | None:
        """Its record, if there is a valid one of this identity."""
        found = FinishedRun.read_if_valid(self.record)
        return found if found is not None and found.identity == self.identity() else None

    def is_whole(self) -> bool:
        """Whether it is finished and the segmentations that it keeps are undamaged."""
        found = self.finished()
        if found is None:
            return False
        damaged = self.damaged(found)
        if damaged:
            logger.info("%s %s fold %d: made again: %s damaged or gone", self.name, self.task.name, self.fold, ", ".join(damaged))
        return not damaged

    def damaged(self, found: FinishedRun) -> list[str]:
        """Names of the segmentations in `predictions` that are gone or were changed; the scores are valid without them."""
        folder = self.predictions
        return [] if folder is None else [name for name, file in found.predictions.items() if not file.is_still(folder / name, self.record)]


def execute(run: Run) -> None:
    """Adapts (unless that is done), predicts, scores and writes the run's record, which makes it finished. Runs in worker processes."""
    identity = run.identity()  # taken now: if a support case is preprocessed again meanwhile, the record must not fit
    if in_worker():  # a worker process is ours; that of a caller of the Python API is not
        keep_freed_memory()
    device = pick_device(run.device)
    adapter: AdapterRecord | None = None
    if run.job is not None:
        if not run.job.is_done():
            try:
                run_job(run.job, device, progress=False, continue_unfinished=_can_go_on(run.job))
            except NotLearned as error:
                _write_failed(run, identity, error)
                return
        adapter = read_adapter_record(run.job.folder)
    if run.predictions is not None:
        run.record.unlink(missing_ok=True)  # a run without its segmentations is not finished
        shutil.rmtree(run.predictions, ignore_errors=True)  # those of an earlier run must not stand among this one's
    started = time.perf_counter()
    task = _task(run, adapter, device)
    settings = planned_settings(run.planned.preset, run.planned.plans, task, device)
    scores = [score for query in run.queries for score in _scored(run, query, task, settings)]
    seconds = (time.perf_counter() - started) / len(run.queries)
    facts = {} if adapter is None else adapter.model_dump(mode="json", include=ADAPTER_FACTS)
    kept = {} if run.predictions is None else {path.name: WrittenFile.of(path) for path in sorted(run.predictions.iterdir())}
    finished = FinishedRun(identity=identity, adapter=facts, predict_seconds=round(seconds, 3), scores=tuple(scores), predictions=kept)
    finished.write(run.record)


def _write_failed(run: Run, identity: dict[str, Any], error: NotLearned) -> None:
    """A fit that failed is a result of the method: counted in the tables, not made again by the next command."""
    logger.warning("%s %s fold %d: failed, counted as such: %s", run.name, run.task.name, run.fold, error)
    if run.predictions is not None:
        shutil.rmtree(run.predictions, ignore_errors=True)
    facts = {"failed": True, "stop_reason": "has not learned"}
    FinishedRun(identity=identity, adapter=facts, predict_seconds=0, scores=()).write(run.record)


def _can_go_on(job: FoldJob) -> bool:
    """Whether there is a checkpoint, or a failed attempt, of exactly this run; one of earlier plans is not wanted any more, and no error."""
    path = job.folder / CHECKPOINT
    if not path.is_file():
        return bool(job.failed_attempts())
    try:
        read_fold_checkpoint(path, job.checkpoint_identity())
    except AdapterError as error:
        logger.info("%s: adapted from the start (%s)", job.folder, error.without_advice)
        return False
    return True


def _task(run: Run, adapter: AdapterRecord | None, device: torch.device) -> PredictionTask:
    network = AdaptedNetwork(run.planned.preset, run.planned.weights, device, run.planned.weights_state)
    if adapter is None or run.job is None:
        return zero_shot_task(run.planned.preset, run.task.structures, network)
    return adapted_task(adapter, (run.job.folder,), network)


def _scored(run: Run, query: Query, task: PredictionTask, settings: CaseSettings) -> list[CaseScore]:
    stored, masks = StoredCase.open(run.planned.cases, query.case), dict[str, np.ndarray]()
    sinks = Sinks(mask=masks.__setitem__) if run.protocol == "published" else Sinks()
    segmentation = segment_stored(settings, run.task, stored, task, sinks)
    reference = read_reference(query.reference, query.image)
    if run.predictions is not None:
        write_segmentation(run.predictions / f"{query.case}.nii.gz", segmentation, reference.geometry, run.task.structures)
    if run.protocol == "published":
        labels = {name: label for name, label in run.task.structures.items() if name in query.structures}
        truth, reduce = stored.segmentation(), run.task.activation == "sigmoid"
        found = {name: published_score(truth == label, masks[name], truth == UNLABELLED, reduce) for name, label in labels.items()}
    else:
        found = native_case_scores(reference, segmentation, run.task, query.structures, query.ignore_label)
    return [CaseScore(case=query.case, structure=name, status=status, measures=_plain(values)) for name, (status, values) in found.items()]


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(values[name]) else float(values[name]) for name in MEASURES if name in values}


def row_values(run: Run, finished: FinishedRun, folder: str) -> list[dict[str, object]]:
    """The rows of runs.csv; `folder`: the text of its last column, where the adapter is."""
    settings, ranks = None if run.job is None else run.job.settings, finished.adapter.get("effective_rank", {})
    of_run: dict[str, object] = {
        "method": run.method,
        "rank": settings.rank if settings is not None and ranks else None,
        "default_rank": run.default_rank,
        "shots": run.shots,
        "kind": run.task.kind,
        "task": run.task.name,
        "fold": run.fold,
        "failed": bool(finished.adapter.get("failed")),
        "predict_seconds": finished.predict_seconds,
        "folder": folder,
    }
    costs = {name: finished.adapter.get(name, 0 if run.job is None else None) for name in ADAPTER_FACTS - {"effective_rank", "final_loss"}}
    if run.job is None:
        costs |= {"stop_reason": "not adapted", "peak_memory_mib": None}
    total = {"effective_rank": sum(ranks.values()), "allocated_rank": len(ranks) * settings.rank} if settings is not None and ranks else {}
    of_run |= costs | total | {"final_loss": finished.adapter.get("final_loss")}
    scored = [{"structure": score.structure, "case": score.case, "status": score.status} | score.measures for score in finished.scores]
    if of_run["failed"]:
        scored = [{"structure": name, "case": query.case, "status": FAILED} for query in run.queries for name in query.structures]
    return [of_run | dict.fromkeys(MEASURES) | score for score in scored]
