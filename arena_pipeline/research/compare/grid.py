"""Which runs a comparison has: method x shots x task x fold, and the rank sweep; those asked for and those found finished."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from arena_pipeline.adapt.job import FoldJob, PlannedDataset
from arena_pipeline.adapt.methods import METHODS, PUBLISHED_DECODER_RATE, PUBLISHED_RATE
from arena_pipeline.errors import ArenaError, PlansError
from arena_pipeline.evaluate.scores import Protocol
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.planning import TaskPlan
from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.queries import Query, queries_of
from arena_pipeline.research.compare.runs import FinishedRun, Run
from arena_pipeline.research.compare.tables import REFERENCE
from arena_pipeline.settings import AdaptationSettings
from arena_pipeline.workspace import ComparisonFolder, fold_folder

logger = logging.getLogger(__name__)

ALL_METHODS = (ZERO_SHOT, *METHODS)
SWEPT_METHODS = ("lora", REFERENCE)
"""The methods of the paper's figure on the initial rank."""


def installed_methods() -> tuple[str, ...]:
    """All methods but those that need a package that is not installed; these are logged."""
    lacking = {name: method.package for name, method in METHODS.items() if method.package is not None and find_spec(method.package) is None}
    for name, package in lacking.items():
        logger.warning("%s is left out: it needs the package %s; pip install 'arena-pipeline[baselines]'", name, package)
    return tuple(name for name in ALL_METHODS if name not in lacking)


@dataclass(frozen=True)
class ComparisonRequest:
    """What the command asked for; `rank` and `max_epochs` change the planned settings where they are not None."""

    shots: tuple[int, ...]
    methods: tuple[str, ...]
    structures: tuple[str, ...] | None
    folds: tuple[int, ...]
    ranks: tuple[int, ...]
    rank: int | None
    max_epochs: int | None
    most_queries: int | None
    protocol: Protocol
    device: str

    def __post_init__(self) -> None:
        """Raises PlansError for an unknown method."""
        if unknown := [name for name in self.methods if name not in ALL_METHODS]:
            raise PlansError(f"unknown method {', '.join(unknown)}", advice=f"known: {', '.join(ALL_METHODS)}")


@dataclass
class RunGrid:
    """Builds the runs of one comparison."""

    planned: PlannedDataset
    request: ComparisonRequest
    folder: ComparisonFolder
    raw: RawDataset
    _settings: dict[tuple[str, int | None], AdaptationSettings] = field(default_factory=dict)
    _queries: dict[str, tuple[Query, ...]] = field(default_factory=dict)
    _query_files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def jobs(self) -> list[FoldJob]:
        """A job for every support set of every task, with the method of the plans.

        Raises:
            ArenaError: there is no such task or support set.
        """
        return [job for shots in self.request.shots for job in self._jobs(shots, self.request.folds, self.request.structures)]

    def query_cases(self) -> list[str]:
        """The cases that have to be preprocessed before `runs` is asked for. DatasetError where a task has no query."""
        return sorted({query.case for job in self.jobs for query in self._queries_of(job.task)})

    @cached_property
    def runs(self) -> list[Run]:
        """The runs asked for, in the order in which they are made: a fold of all methods before the next fold."""
        found: dict[Path, Run] = {}
        jobs = self.jobs
        for job in sorted(jobs, key=lambda one: self.request.folds.index(one.fold)):
            for method in self.request.methods:
                if (run := self._zero_shot(job.task) if method == ZERO_SHOT else self._run(job, method, None)) is not None:
                    found.setdefault(run.record, run)
        for job in jobs:
            for method in [name for name in SWEPT_METHODS if name in self.request.methods]:
                for rank in self.request.ranks:
                    run = self._run(job, method, rank)
                    found.setdefault(run.record, run)
        return list(found.values())

    def finished_elsewhere(self) -> list[Run]:
        """Finished runs of earlier commands (other methods, structures, folds or shots), made as this command would make them."""
        asked, found, others = {run.record for run in self.runs}, [], 0
        for path in sorted(self.folder.finished_runs()):
            if path in asked:
                continue
            run = self._run_of(path)
            if run is not None and run.record == path and run.finished() is not None:
                found.append(run)
            else:
                others += 1
        if others:
            logger.info(
                "%d finished runs in %s were made with other plans, settings or queries and are left out of the tables", others, self.folder.root
            )
        return found

    def notes(self) -> list[str]:
        """What a reader of the tables must know: tasks without a zero-shot row, queries left out, and rates that are not the published ones."""
        found, preset, most = [], self.planned.preset, self.request.most_queries
        unknown = list(dict.fromkeys(job.task.name for job in self.jobs if not preset.segments(job.task.structures)))
        if unknown and ZERO_SHOT in self.request.methods:
            reason = "has no head of its own" if preset.head == "none" else "was not pre-trained on it"
            found.append(f"No zero-shot row for {', '.join(unknown)}: {preset.name} {reason}.")
        if most is not None and any(len(queries_of(job.task, self.raw, None)) > most for job in self.jobs):
            found.append(f"Only the first {most} query cases of each task were used.")
        rates = self.planned.plans.adaptation
        if (rates.learning_rate, rates.decoder_learning_rate) != (PUBLISHED_RATE, PUBLISHED_DECODER_RATE):
            found.append(
                f"The plans' rates ({rates.learning_rate:g}, decoder {rates.decoder_learning_rate:g}) are not the published ones, and were chosen "
                f"for ARENA; those of the other methods follow from them by the published ratios and were not tuned."
            )
        return found

    def _jobs(self, shots: int, folds: Sequence[int], structures: Sequence[str] | None) -> list[FoldJob]:
        return self.planned.jobs(shots, folds, structures, {"max_epochs": self.request.max_epochs})

    def _run(self, job: FoldJob, method: str, rank: int | None) -> Run:
        """The run of `method` on the task and support set of `job`; `rank`: None for the method's default, whose adapter other commands use too."""
        settings, plans = self._method_settings(method, rank), self.planned.plans
        default = settings == self._method_settings(method, None)
        name = f"{method}_{job.shots}shots" if default else f"{method}_rank{rank}_{job.shots}shots"
        model = self.planned.workspace.model(plans.dataset_name, self.planned.preset.name, method, job.shots) if default else self.folder.model(name)
        own = replace(job, settings=settings, folder=fold_folder(model, job.task.name, job.fold))
        kept = default and (method == REFERENCE or job.fold == self.request.folds[0])
        return self._build(name, job.task, own, default, kept)

    def _zero_shot(self, task: TaskPlan) -> Run | None:
        return self._build(f"{ZERO_SHOT}_0shots", task, None, True, True) if self.planned.preset.segments(task.structures) else None

    def _build(self, name: str, task: TaskPlan, job: FoldJob | None, default_rank: bool, kept: bool) -> Run:
        queries, fold = self._queries_of(task), 0 if job is None else job.fold
        if task.name not in self._query_files:
            self._query_files[task.name] = {query.case: query.files(self.planned.cases) for query in queries}
        return Run(
            name=name,
            planned=self.planned,
            task=task,
            fold=fold,
            job=job,
            default_rank=default_rank,
            queries=queries,
            query_files=self._query_files[task.name],
            protocol=self.request.protocol,
            record=self.folder.finished_run(name, task.name, fold),
            predictions=self.folder.predictions(name, task.name, fold) if kept else None,
            device=self.request.device,
        )

    def _queries_of(self, task: TaskPlan) -> tuple[Query, ...]:
        if task.name not in self._queries:
            self._queries[task.name] = queries_of(task, self.raw, self.request.most_queries)
        return self._queries[task.name]

    def _method_settings(self, method: str, rank: int | None) -> AdaptationSettings:
        if (method, rank) not in self._settings:
            changes: dict[str, Any] = {"method": method, "rank": self.request.rank if rank is None else rank, "max_epochs": self.request.max_epochs}
            self._settings[method, rank] = self.planned.settings(changes)
        return self._settings[method, rank]

    def _run_of(self, path: Path) -> Run | None:
        """Builds from the plans the run that a record belongs to; None where that is impossible."""
        finished = FinishedRun.read_if_valid(path)
        if finished is None:
            return None
        method, task, settings = (finished.identity.get(name) for name in ("method", "task", "settings"))
        try:
            if method == ZERO_SHOT:
                return self._zero_shot(self.planned.plans.task(str(task)))
            if method not in METHODS or not isinstance(settings, dict):
                return None
            job = self._jobs(finished.identity["shots"], [finished.identity["fold"]], [str(task)])[0]
            return self._run(job, method, settings.get("rank") if "_rank" in path.parent.parent.name else None)
        except ArenaError as error:
            logger.debug("%s: %s", path, error)
            return None
