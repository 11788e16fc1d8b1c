"""One function over many independent jobs, on this machine's processes and GPUs or on a cluster's, with a progress bar that names the job.

    for case, result in map_jobs(score_case, {"s0001": ..., "s0002": ...}, Needs("evaluate", memory_bytes=2**31)):

A function that keeps what is slow to load (partial(predict, network), a callable object) is sent to each worker once, and stays there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from tqdm import tqdm

from arena_pipeline.errors import ArenaError
from arena_pipeline.io.atomic import remove_unfinished
from arena_pipeline.io.outcome import memory_error
from arena_pipeline.io.steps import InSteps, overlapped
from arena_pipeline.io.workers import Pool
from arena_pipeline.machine import accelerators, limit_workers, usable_cores, workers_for

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")
Results = Iterator[tuple[str, Result | ArenaError]]
EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class Needs:
    """The resources of each job of a list, and the name of the list.

    Attributes:
        stage: in front of the progress bar, and in errors.
        workers: jobs at once, as asked for; 0 and 1: one after the other in this process; None: as many as there is room for.
        default_workers: jobs at once where `workers` is None; None: as many as the machine's GPUs, or else its cores and memory, take.
        memory_bytes: main memory of a job.
        cores: of a job; 0: all that a machine has.
        device: where the jobs' networks run (auto, cpu, cuda, cuda:1, mps); a GPU takes one job at a time.
        unit: what a job is called.
        folders: where only the jobs write; half-written files of workers that died are removed there.
    """

    stage: str
    workers: int | None = None
    default_workers: int | None = None
    memory_bytes: int = 0
    cores: int = 1
    device: str = "cpu"
    unit: str = "case"
    folders: Sequence[Path] = ()


_engine: ContextVar[EngineName] = ContextVar("arena_engine", default="local")


@contextmanager
def engine(name: EngineName = "local", address: str | None = None) -> Iterator[None]:
    """What does the jobs inside the block: the processes of this machine, or Ray (`address`: its head; None: started here).

    Raises:
        MissingPackage: Ray is not installed.
        ArenaError: there is no cluster at `address`.
    """
    with ExitStack() as stack:
        if name == "ray":
            from arena_pipeline.io import ray_jobs  # an extra

            ray_jobs.require_ray()
            if ray_jobs.connect(address):
                stack.callback(ray_jobs.disconnect)
        token = _engine.set(name)
        stack.callback(_engine.reset, token)
        yield


def map_jobs(function: Callable[[Job], Result], jobs: Mapping[str, Job], needs: Needs) -> Results[Result]:
    """Yields (name, result) as the jobs get done; one that fails with an ArenaError, or whose worker dies, yields that error instead.

    Args:
        function: importable by name (it is sent to other processes).
        jobs: by name, such as the case's identifier.

    Raises:
        WorkerDied: a worker ended before it could start.
        ArenaError: no machine of the cluster has what a job needs.
    """
    if not jobs:
        return
    with tqdm(total=len(jobs), desc=needs.stage, unit=needs.unit, disable=None) as bar:
        if _engine.get() == "ray" and needs.workers != 0:
            from arena_pipeline.io.ray_jobs import ray_results

            done = ray_results(function, jobs, needs)
        else:
            done = _on_this_machine(function, jobs, needs, bar)
        for job, result in done:
            bar.set_postfix_str(job, refresh=False)
            bar.update()
            yield job, result


def on_gpus_of_cluster(device: str) -> bool:
    """Whether the jobs of a command called with `device` will run on GPUs that Ray gives out; its own machine need not have one."""
    if _engine.get() != "ray" or device not in ("auto", "cuda"):
        return False
    from arena_pipeline.io.ray_jobs import nodes_with_gpu

    return bool(nodes_with_gpu())


def runs_in_this_process(needs: Needs, jobs: int) -> bool:
    """Whether `map_jobs` would do so many jobs in this process."""
    return _engine.get() == "local" and workers_on_this_machine(needs, jobs) == 0


def workers_on_this_machine(needs: Needs, jobs: int) -> int:
    """How many of so many jobs this machine does at once, each in a process of its own; 0: one after the other in this process."""
    if needs.workers is None and needs.default_workers is None:
        asked = len(accelerators(needs.device)) or min(workers_for(needs.memory_bytes), max(1, usable_cores() // (needs.cores or usable_cores())))
    else:
        asked = needs.default_workers if needs.workers is None else needs.workers  # type: ignore[assignment]
    affordable = limit_workers(asked, needs.memory_bytes, needs.stage) if asked > 1 else asked
    count, short_of_memory = min(affordable, jobs), affordable < asked  # then a separate process may die without ending the command
    return count if count > 1 or short_of_memory else 0


def _on_this_machine(function: Callable[[Job], Result], jobs: Mapping[str, Job], needs: Needs, bar: tqdm) -> Results[Result]:
    count = workers_on_this_machine(needs, len(jobs))
    if count == 0:
        return _in_this_process(function, jobs, bar, needs.stage)
    return _in_processes(Pool(function, jobs, _settings(needs, count), needs.stage), needs.folders)


def _settings(needs: Needs, count: int) -> list[dict[str, str]]:
    """The environment of each worker: its share of the cores and, of several GPUs, the one it sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [visible[int(gpu)] if visible[0] else gpu for gpu in accelerators(needs.device) if gpu.isdigit()]
    share = {"OMP_NUM_THREADS": str(max(1, usable_cores() // count))}
    return [share | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}) for number in range(count)]


def _in_processes(pool: Pool[Job, Result], folders: Sequence[Path]) -> Results[Result]:
    try:
        yield from pool.results()
    finally:
        if pool.lost:
            for folder in folders:
                remove_unfinished(folder)


def _in_this_process(function: Callable[[Job], Result], jobs: Mapping[str, Job], bar: tqdm, stage: str) -> Results[Result]:
    for name, outcome in zip(jobs, _outcomes(function, jobs, bar), strict=True):
        try:
            yield name, outcome()
        except ArenaError as error:
            yield name, error
        except MemoryError:
            yield name, memory_error(name, stage)
        except Exception:
            logger.error("%s: a fault of this program in %s", name, stage)
            raise


def _outcomes(function: Callable[[Job], Result], jobs: Mapping[str, Job], bar: tqdm) -> Iterator[Callable[[], Result]]:
    if isinstance(function, InSteps):
        yield from overlapped(((name, function.steps(job)) for name, job in jobs.items()), bar.set_postfix_str)
        return
    for name, job in jobs.items():
        bar.set_postfix_str(name)
        yield partial(function, job)
