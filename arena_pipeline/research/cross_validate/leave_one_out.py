"""The runs of leave-one-out: K adaptations, each on all support scans but one, and scored on that one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from arena_pipeline.adapt.job import FoldJob, PlannedDataset
from arena_pipeline.errors import DatasetError, SupportSetError
from arena_pipeline.fingerprint import Fingerprint
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.splits import leave_out
from arena_pipeline.planning import TaskPlan
from arena_pipeline.planning.models import FEWEST_SCANS
from arena_pipeline.planning.tasks import without_scans
from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.queries import Query
from arena_pipeline.research.compare.runs import Run
from arena_pipeline.workspace import ComparisonFolder, fold_folder

SUPPORT_SET_FOLD = 0
"""The fold of arena_adapt that gives the support set; with exactly K annotated scans all folds have the same."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Builds the runs of a planned dataset; their files go below `folder`."""

    planned: PlannedDataset
    raw: RawDataset
    folder: ComparisonFolder
    device: str

    def runs(self, jobs: Sequence[FoldJob]) -> list[Run]:
        """For every job the runs without each of its scans, and zero-shot on the same scans where the foundation knows the structures.

        Args:
            jobs: each has a task, a method and a support set of K scans.

        Raises:
            SupportSetError: fewer than FEWEST_SCANS different scans: with two, one is left to adapt to and the interval spans everything.
            DatasetError: a scan has no segmentation any more.
        """
        found: dict[Path, Run] = {}
        for job in jobs:
            scans = list(dict.fromkeys(job.support_ids))  # a published list names a case twice: both must be left out
            if len(scans) < FEWEST_SCANS:
                few = f"{job.task.name}: {len(scans)} different scans, and leave-one-out needs {FEWEST_SCANS}"
                raise SupportSetError(few, advice="ask for more -shots, or annotate more")
            queries = [self._query(job.task, scan) for scan in scans]
            tasks = [without_scans(job.task, [scan], self._fingerprint) for scan in scans]
            runs = [
                self._without(replace(job, task=task), left_out, query) for left_out, (task, query) in enumerate(zip(tasks, queries, strict=True))
            ]
            if self.planned.preset.segments(job.task.structures):
                # one zero-shot run per distinct task; mostly a single one, since tasks differ only where one scan decides on the post-processing
                distinct = [task for place, task in enumerate(tasks) if task not in tasks[:place]]
                their_queries = [[query for query, own in zip(queries, tasks, strict=True) if own == task] for task in distinct]
                numbered = enumerate(zip(distinct, their_queries, strict=True))
                runs = [*(self._run(task, f"{ZERO_SHOT}_0shots", fold, own, None) for fold, (task, own) in numbered), *runs]
            for run in runs:
                found.setdefault(run.record, run)
        return list(found.values())

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        return Fingerprint.read(self.planned.workspace.fingerprint(self.planned.plans.dataset_name))

    def _without(self, job: FoldJob, left_out: int, query: Query) -> Run:
        """The run that adapts to all scans of `job` but the one of `query`, and is scored on that."""
        support = leave_out(job.support_ids, left_out, len(set(job.support_ids)))
        name = f"{job.settings.method}_{job.shots}shots"
        own = fold_folder(self.folder.model(name), job.task.name, left_out)
        return self._run(job.task, name, left_out, [query], replace(job, fold=left_out, shots=len(support), support_ids=support, folder=own))

    def _run(self, task: TaskPlan, name: str, fold: int, queries: Sequence[Query], job: FoldJob | None) -> Run:
        return Run(
            name=name,
            planned=self.planned,
            task=task,
            fold=fold,
            job=job,
            default_rank=True,
            queries=tuple(queries),
            query_files={query.case: query.files(self.planned.cases) for query in queries},
            protocol="native",
            record=self.folder.finished_run(name, task.name, fold),
            predictions=self.folder.predictions(name, task.name, fold),
            device=self.device,
        )

    def _query(self, task: TaskPlan, scan: str) -> Query:
        case = self.raw.training.get(scan)
        if case is None or case.segmentation is None:
            raise DatasetError("planned as an annotated scan, and not there any more", case=scan, file=self.raw.folder, advice="run arena_plan again")
        structures = tuple(name for name in task.structures if self.raw.json.is_annotated(scan, name))
        return Query(scan, case.image, case.segmentation, structures, self.raw.json.ignore_label)
