"""The jobs of arena_adapt: every fold of every task, all checked before the first one starts."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arena_pipeline.adapt.checkpoint import json_values
from arena_pipeline.adapt.methods import method_settings
from arena_pipeline.errors import AdapterError, PlansError, SupportSetError
from arena_pipeline.foundations import FoundationPreset, load_preset, weights_file
from arena_pipeline.foundations.selection import planned_foundation
from arena_pipeline.io.filestate import SourceFile
from arena_pipeline.io.splits import draw_support_set, leave_out
from arena_pipeline.model.adapter import AdapterRecord, read_adapter, read_adapter_record
from arena_pipeline.model.attempts import Attempt, read_failed_attempts
from arena_pipeline.planning import Plans, TaskPlan
from arena_pipeline.preprocess.dataset import makes_same_cases, require_unchanged
from arena_pipeline.preprocess.store import StoredCase, read_case_record
from arena_pipeline.settings import AdaptationSettings
from arena_pipeline.workspace import Workspace, fold_folder, number_of

logger = logging.getLogger(__name__)

DEFAULT_FOLDS = (0, 1, 2)


@dataclass(frozen=True)
class FoldJob:
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

    @property
    def name(self) -> str:
        """The job's name among those of one command."""
        return f"{self.task.name} fold {self.fold}"

    @property
    def left_out(self) -> tuple[str, ...]:
        """The candidates that this fold leaves out, where the plans have folds leave scans out; else none."""
        return tuple(sorted(set(self.task.candidates) - set(self.support_ids))) if self.plans.leave_out_folds(self.task, self.shots) else ()

    def identity(self) -> dict[str, Any]:
        """The fields of adapter.json that are known before adapting; a finished adapter with the same ones need not be made again."""
        return {
            "dataset_name": self.plans.dataset_name,
            "foundation": self.preset.name,
            "foundation_sha256": self.plans.foundation_sha256,
            "scheme": self.plans.scheme,
            "task": self.task.name,
            "structures": self.task.structures,
            "activation": self.task.activation,
            "kind": self.task.kind,
            "train_decoder": self.task.train_decoder,
            "head": self.task.head,
            "fold": self.fold,
            "shots": self.shots,
            "support_ids": self.support_ids,
            "support_sha256": self.support_sha256(),
            "settings": self.settings.without_memory(),
        }

    def support_sha256(self) -> str:
        """SHA-256 over the checksums of the support set's CTs and segmentations: a corrected annotation makes another adapter."""
        return hashlib.sha256(json.dumps(list(self.support_volumes().values())).encode()).hexdigest()

    def support_volumes(self) -> dict[str, tuple[str, str | None] | None]:
        """Support case -> the checksums of the CT and segmentation that it was preprocessed from; None for one made in memory, or not there."""
        records = {name: read_case_record(self.cases, name) for name in self.support_ids}
        sources = {name: None if record is None else record.source for name, record in records.items()}
        return {
            name: None if source is None else (source.image.sha256, None if source.segmentation is None else source.segmentation.sha256)
            for name, source in sources.items()
        }

    def checkpoint_identity(self) -> dict[str, Any]:
        """All that an unfinished adaptation depends on: its checkpoint is of use only while all of this is the same."""
        named = {name: value for name, value in self.identity().items() if name != "support_sha256"}
        return named | {"support_volumes": self.support_volumes()}

    def is_done(self) -> bool:
        """Whether the fold's folder holds a whole adapter of this identity."""
        try:
            return self.fits(read_adapter(self.folder).record)  # the tensors too: a damaged adapter is not a finished one
        except AdapterError:
            return False

    def is_recorded(self) -> bool:
        """Whether the record in the fold's folder has this identity; the adapter's tensors are not read."""
        try:
            return self.fits(read_adapter_record(self.folder))
        except AdapterError:
            return False

    def failed_attempts(self) -> tuple[Attempt, ...]:
        """Failed attempts at exactly this adaptation; with MOST_ATTEMPTS of them the fold has been given up."""
        found = read_failed_attempts(self.folder, json_values(self.checkpoint_identity()))
        return () if found is None else found.attempts

    def fits(self, record: AdapterRecord) -> bool:
        """Whether the adapter of `record` is this job's. Records of version 0.1 have no checksum of the support set, and are taken for it."""
        known = {name: value for name, value in self.identity().items() if name != "support_sha256" or record.support_sha256 is not None}
        found = record.model_copy(update={"settings": record.settings.without_memory()})
        return all(getattr(found, name) == value for name, value in known.items())


@dataclass(frozen=True)
class PlannedDataset:
    """One dataset as it is planned for one foundation: what all its jobs share. `weights_state`: as the file was when the plans were read."""

    workspace: Workspace
    plans: Plans
    plans_sha256: str
    preset: FoundationPreset
    weights: Path
    weights_state: SourceFile
    cases: Path

    def settings(self, changes: dict[str, Any]) -> AdaptationSettings:
        """The planned settings with `changes` to some of them; None leaves one as planned.

        Raises:
            PlansError: an impossible value.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        method, rank = given.pop("method", None), given.pop("rank", None)  # decided together
        try:
            return method_settings(AdaptationSettings.model_validate(self.plans.adaptation.model_dump() | given), method, rank)
        except ValidationError as error:
            faults = "; ".join(f"{fault['loc'][0]} {fault['input']}: {fault['msg']}" for fault in error.errors())
            raise PlansError(f"impossible settings: {faults}") from None

    def jobs(
        self, shots: int, folds: Sequence[int] | None, structures: Sequence[str] | None, changes: dict[str, Any], whole: bool = False
    ) -> list[FoldJob]:
        """Every fold of every task (of `structures`, where given), checked before the first one starts.

        Args:
            folds: None: DEFAULT_FOLDS, or all where each leaves scans out.
            changes: to the planned settings.
            whole: full support sets of K, even if the plans ask for folds that leave scans out.
        """
        settings = self.settings(changes)
        model = self.workspace.model(self.plans.dataset_name, self.preset.name, settings.method, shots)
        same = (self.plans, self.plans_sha256, self.preset, self.weights, self.cases)
        jobs = [
            FoldJob(*same, task, fold, shots, support, settings, fold_folder(model, task.name, fold))
            for task in _tasks(self.plans, structures, shots)
            for fold, support in self._support_sets(task, shots, folds, whole).items()
        ]
        for job in jobs:
            _warn_of_absent(job, check_support(job))
        self._require_unchanged({case for job in jobs for case in job.support_ids})
        return jobs

    def _support_sets(self, task: TaskPlan, shots: int, folds: Sequence[int] | None, whole: bool) -> dict[int, tuple[str, ...]]:
        try:
            count = 0 if whole else self.plans.leave_out_folds(task, shots)
            if count:
                return {fold: leave_out(task.candidates, fold, count) for fold in (range(count) if folds is None else folds)}
            return {fold: draw_support_set(task.candidates, shots, fold) for fold in (DEFAULT_FOLDS if folds is None else folds)}
        except SupportSetError as error:
            raise SupportSetError(f"{task.name}: {error.found}", advice=error.advice) from None

    def _require_unchanged(self, cases: set[str]) -> None:
        """Raises DatasetError where a label was corrected after it was preprocessed: plans and stored cases are of the old one."""
        name, workspace = self.plans.dataset_name, self.workspace
        again = workspace.command("arena_plan_and_preprocess", "-d", number_of(name), "-foundation", self.preset.name)
        require_unchanged(workspace.raw_dataset(name), self.cases, sorted(cases), again)


def read_planned_dataset(dataset_id: int, workspace: Workspace, foundation: str | None) -> PlannedDataset:
    """The plans of a dataset and the weights they were made for.

    Raises:
        ArenaError: there are no plans, or the weights have changed since.
    """
    name = workspace.dataset_name(dataset_id)
    preset = load_preset(planned_foundation(workspace, name, foundation), workspace.foundations)
    path = workspace.plans(name, preset.name)
    plans = Plans.read(path, preset.architecture)
    weights = weights_file(preset, workspace.installed_foundation(preset.name))
    state = SourceFile.of(weights)
    if state.sha256 != plans.foundation_sha256:
        raise PlansError(
            f"made for other weights of {preset.name} than {weights} holds",
            file=path,
            advice=f"run {workspace.command('arena_plan_and_preprocess', '-d', dataset_id, '-foundation', preset.name)} again",
        )
    plans_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return PlannedDataset(workspace, plans, plans_sha256, preset, weights, state, workspace.cases(name, preset.name))


def check_support(job: FoldJob) -> set[int]:
    """The labels that occur in the support set.

    Raises:
        ArenaError: a case is not preprocessed, was made by another scheme, or is without the structure.
    """
    shown: set[int] = set()
    for identifier in job.support_ids:
        record = StoredCase.open(job.cases, identifier).record
        shown.update(record.labels)
        if record.source is not None and not makes_same_cases(record.source.scheme, job.plans.scheme):
            raise PlansError(
                "preprocessed by another scheme than the plans have now", case=identifier, advice=f"run arena_preprocess for {job.plans.dataset_name}"
            )
        if not set(job.task.structures.values()) & set(record.labels):
            spacing = " x ".join(f"{mm:g}" for mm in job.plans.scheme.spacing_mm)
            raise SupportSetError(
                f"no voxel of {', '.join(job.task.structures)} is left at {spacing} mm",
                case=identifier,
                advice=f"take the case out of the candidates of {job.task.name} in plans.json, or use a foundation with finer voxels",
            )
    return shown


def _warn_of_absent(job: FoldJob, shown: set[int]) -> None:
    if absent := [name for name, label in job.task.structures.items() if label not in shown]:
        logger.warning(
            "%s, fold %d: %s in none of the support cases (%s), so it can't be learned from them; more shots, or another fold with -f, may have it",
            *(job.task.name, job.fold, ", ".join(absent), ", ".join(job.support_ids)),
        )


def _tasks(plans: Plans, structures: Sequence[str] | None, shots: int) -> list[TaskPlan]:
    """The tasks asked for; without a choice, those of the plans that have enough cases."""
    if structures:
        return [plans.task(name) for name in structures]
    possible = [task for task in plans.tasks if task.max_shots >= shots]
    if too_few := [f"{task.name} ({task.max_shots})" for task in plans.tasks if task not in possible]:
        logger.warning("left out, since %d shots were asked for and fewer are possible: %s", shots, ", ".join(too_few))
    if not possible:
        most = max((task.max_shots for task in plans.tasks), default=0)
        raise SupportSetError(
            f"{plans.dataset_name}: no task has {shots} usable training cases, the most is {most}", advice="lower -shots or add annotated cases"
        )
    return possible
