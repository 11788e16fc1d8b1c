"""Makes many runs, as many at once as cores and memory allow."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from arena_pipeline.adapt.job import PlannedDataset
from arena_pipeline.errors import ArenaError, WorkerDied
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.records import stage
from arena_pipeline.research.compare.runs import Run, execute
from arena_pipeline.stages.adapt import adaptation_needs, describe_model

logger = logging.getLogger(__name__)

CORES_PER_RUN = 2
"""A run gains from a second core; a third and a fourth are better given to another run."""


def execute_all(todo: Sequence[Run], needs: Needs) -> list[ArenaError]:
    """Makes the runs; returns what went wrong, each with its run's name."""
    if not todo:
        return []
    load_foundation_network(todo[0].planned.preset, todo[0].planned.weights)  # weights that do not fit are refused before anything is written
    for model in sorted({run.job.folder.parent.parent for run in todo if run.job is not None}):
        describe_model(todo[0].planned, model)
    named = {f"{run.name} {run.task.name} fold {run.fold}": run for run in todo}
    failed = []
    with stage("runs"):
        for name, error in map_jobs(execute, named, needs):
            if error is not None:
                logger.error("%s: %s", name, error)
                failed.append(_named(error, name))
    return failed


def _named(error: ArenaError, run: str) -> ArenaError:
    """The error with its run's name in front; that of a worker that died has the name already, as its case."""
    if isinstance(error, WorkerDied):
        return error
    return type(error)(f"{run}: {error.without_advice}", advice=error.advice)


def run_needs(command: str, workers: int | None, planned: PlannedDataset, device: str) -> Needs:
    """An accelerator takes one run at a time, a computer one for every two cores, as far as its memory allows."""
    return adaptation_needs(command, workers, planned, device, cores=CORES_PER_RUN, unit="run")
