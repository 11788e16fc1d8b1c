"""One case of a folder that any number of processes and machines predict into: claimed, predicted, written down, given back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from arena_pipeline.errors import AdapterError, ArenaError, DatasetError, FolderInUse, FoundationError, ImageError, NoSpace
from arena_pipeline.io.atomic import remove_unfinished, short_name
from arena_pipeline.io.images import ImageSource
from arena_pipeline.io.lock import LOCK, OWNER, locked
from arena_pipeline.io.steps import InSteps, Steps, Turn
from arena_pipeline.machine import usable_cores
from arena_pipeline.model.out_of_memory import out_of_memory_as_arena_error
from arena_pipeline.predict.job import PredictionJob, predict_file
from arena_pipeline.predict.journal import Journal
from arena_pipeline.predict.outputs import is_complete, remove_left_unfinished
from arena_pipeline.predict.review import ReviewLine

OF_ALL_CASES = (NoSpace, FoundationError, AdapterError)
"""Errors that are not about one case: all others would have them too."""


@dataclass(frozen=True)
class CaseToPredict:
    """One case to predict; crosses to a worker process. `patience_seconds`: how long to wait for a process that has claimed it."""

    case: str
    source: ImageSource
    output: Path
    patience_seconds: float = 0


@dataclass(frozen=True)
class CaseDone:
    """What came of a task: predicted now, found finished, or claimed by another process that is still at it."""

    state: Literal["written", "kept", "elsewhere"]
    review: tuple[ReviewLine, ...] = ()


@dataclass(frozen=True, eq=False)
class SharedPrediction(InSteps[CaseToPredict, CaseDone]):
    """Predicts the cases of one folder, perhaps beside other processes that do the same. `keep`: finished ones of earlier runs stay."""

    job: PredictionJob
    journal: Journal
    keep: bool

    def steps(self, task: CaseToPredict) -> Steps[CaseDone]:
        """Claims the case and predicts it, unless that is done.

        Raises:
            ArenaError: the case can't be predicted (the journal then says so), or no case can.
        """
        part = f"_case_{short_name(task.case)}"
        left = (self.journal.folder / LOCK.format(part)).exists()
        try:
            with locked(self.journal.folder, part, task.patience_seconds):
                if (done := self._already(task)) is not None:
                    return done
                if left:  # by a process that has died
                    remove_left_unfinished(self.job.folder, [task.case])
                    remove_unfinished(self.journal.folder, [OWNER.format(part)])
                return (yield from self._predict(task))
        except FolderInUse:
            return CaseDone("elsewhere")

    @cached_property
    def _job_here(self) -> PredictionJob:
        """With as many threads as this process has a share of the cores."""
        setup = self.job.setup
        settings = replace(setup.settings, workers=min(setup.settings.workers, usable_cores()))
        return replace(self.job, setup=replace(setup, settings=settings))

    def _already(self, task: CaseToPredict) -> CaseDone | None:
        entry = self.journal.entries().get(task.case)
        if entry is not None and not entry.earlier:
            if entry.failed is not None:
                raise DatasetError(entry.failed)
            return CaseDone("written" if entry.command == self.journal.name else "kept", tuple(entry.review_lines))
        if not self.keep:
            return None
        others = self.job.others(task.case, task.source)
        if entry is not None and entry.is_still(self.job.folder, (task.output, *others)):
            return CaseDone("kept", tuple(entry.review_lines))
        if not is_complete(task.case, task.source, task.output, others):
            return None
        self.journal.add(task.case, 0, (task.output, *others))
        return CaseDone("kept")

    def _predict(self, task: CaseToPredict) -> Steps[CaseDone]:
        began = time.monotonic()
        try:
            with out_of_memory_as_arena_error(f"the prediction of {task.case}"):
                review = yield from predict_file(task.case, task.source, task.output, self._job_here)
        except OF_ALL_CASES:
            raise
        except (ArenaError, OSError) as error:
            named = _named(task.case, error)
            yield Turn.END  # the journal has the cases in their order
            self.journal.add(task.case, time.monotonic() - began, failed=str(named))
            raise named from None
        written = (task.output, *self.job.others(task.case, task.source))
        self.journal.add(task.case, time.monotonic() - began, written, review)
        return CaseDone("written", tuple(review))


def _named(case: str, error: ArenaError | OSError) -> ArenaError:
    """The error with the case it is about, which not all that raise it know."""
    if isinstance(error, OSError):
        return ImageError(
            f"{error.strerror or error}", case=case, file=error.filename, advice="check the path, its name, and who may read and write there"
        )
    return error.located(case=case)
