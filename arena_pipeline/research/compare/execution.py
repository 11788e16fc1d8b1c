"""Many runs at once: as many as cores and memory take."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from arena_pipeline.adapt.job import PlannedDataset
from arena_pipeline.errors import ArenaError, WorkerDied
from arena_pipeline.io.parallel import map_cases
from arena_pipeline.machine import limit_workers, this_machine, usable_cores
from arena_pipeline.model.device import pick_device
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.planning import memory
from arena_pipeline.planning.fitting import fit_adaptation
from arena_pipeline.records import stage
from arena_pipeline.research.compare.runs import Run, execute
from arena_pipeline.stages.adapt import describe_model

logger = logging.getLogger(__name__)

CORES_PER_RUN = 2
"""A run gains from a second core; a third and fourth do more for another run."""


def execute_all(todo: Sequence[Run], workers: int, command: str = "compare") -> list[ArenaError]:
    """Makes the runs; returns what went wrong, each with its run's name. `command` stands before the progress bar."""
    if not todo:
        return []
    load_foundation_network(todo[0].planned.preset, todo[0].planned.weights)  # weights that do not fit are told before anything is written
    for model in sorted({run.job.folder.parent.parent for run in todo if run.job is not None}):
        describe_model(todo[0].planned, model)
    threads = max(1, usable_cores() // workers) if workers > 1 else None
    named = {f"{run.name} {run.task.name} fold {run.fold}": replace(run, threads=threads) for run in todo}
    failed = []
    with stage("runs"):
        for name, error in map_cases(execute, named, workers, command, "run"):
            if error is not None:
                logger.error("%s: %s", name, error)
                failed.append(_named(error, name))
    return failed


def _named(error: ArenaError, run: str) -> ArenaError:
    """The error with its run in front; that of a worker that died has it, as its case."""
    if isinstance(error, WorkerDied):
        return error
    return type(error)(f"{run}: {error.without_advice}", advice=error.advice)


def run_workers(asked: int | None, planned: PlannedDataset, runs: Sequence[Run], device: str) -> int:
    """Runs at once: an accelerator takes one, a computer one for every two cores, as far as the memory goes."""
    target = pick_device(device)
    settings, _ = fit_adaptation(planned.plans.adaptation, planned.preset, this_machine(str(target)))
    wanted = asked
    if wanted is None:
        wanted = 1 if target.type != "cpu" else max(1, usable_cores() // CORES_PER_RUN)
    bytes_each = memory.adaptation_bytes(planned.preset, settings.micro_batch or settings.patches_per_volume)
    return min(limit_workers(wanted, bytes_each, "compare"), len(runs))
