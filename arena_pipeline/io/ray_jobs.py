"""Lists of jobs on a Ray cluster: Ray places, restarts and retries the workers; here is only what a job asks for and how its errors read.

A worker is an actor: it gets the function once and keeps what that has loaded over all its jobs. One that dies, or whose node does, is started
again where there is room, and its job is done again from what the job itself has saved.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from arena_pipeline.errors import ArenaError, MissingPackage, WorkerDied
from arena_pipeline.io.atomic import remove_unfinished
from arena_pipeline.io.outcome import Line, outcome, value_or_error
from arena_pipeline.io.workers import become_worker
from arena_pipeline.machine import usable_cores
from arena_pipeline.words import memory_size

if TYPE_CHECKING:
    from arena_pipeline.io.parallel import Needs

logger = logging.getLogger(__name__)

PORT = 6379
REPEATS = 3
"""How often a job is done again after its worker died. Not more often: a job that takes a machine's whole memory would kill every worker."""
STORE_BYTES = 100 * 2**20  # of a cluster started here: jobs and results are a few kilobytes, volumes go through files


def require_ray() -> None:
    """Raises MissingPackage where Ray is not installed."""
    if find_spec("ray") is None:
        raise MissingPackage("--engine ray needs the package ray", advice="pip install 'arena-pipeline[ray]'")


def connect(address: str | None) -> bool:
    """Joins the cluster whose head is `address` (or $RAY_ADDRESS), or starts one of this machine alone; False where this process is in one already.

    Raises:
        ArenaError: no cluster answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a job without a GPU does not hide them
    import ray

    if ray.is_initialized():
        return False
    where = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if not where:
        ray.init("local", num_cpus=usable_cores(), object_store_memory=STORE_BYTES, include_dashboard=False, **quiet)
        return True
    where = where if ":" in where or where == "auto" else f"{where}:{PORT}"
    try:
        ray.init(where, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ArenaError(f"no Ray cluster answers at {where} ({reason})", advice="start one (docs/scale.md), or leave out --address") from None
    return True


def disconnect() -> None:
    """Leaves the cluster, and ends one that was started here."""
    import ray

    ray.shutdown()


class _Actor:
    """Lives in a process of its own, on whatever node."""

    def __init__(self, function: Callable[[Any], Any], cores: int) -> None:
        import ray

        become_worker({"OMP_NUM_THREADS": str(min(cores, usable_cores()))})  # Ray leaves a node's own OMP_NUM_THREADS to each of its workers
        self.function = function
        self.replaces_dead = ray.get_runtime_context().was_current_actor_reconstructed

    def work(self, name: str, job: object) -> tuple[object, list[Line]]:
        """The result and the lines that it logged, which therefore arrive at its end."""
        lines = list[Line]()
        if self.replaces_dead:
            self.replaces_dead = False
            lines.append(Line(__name__, logging.WARNING, f"{name}: done again: the worker or the node that had it has died"))
        return outcome(self.function, job, lines.append), lines


def ray_results(function: Callable[[Any], Any], jobs: Mapping[str, Any], needs: Needs) -> Iterator[tuple[str, Any]]:
    """As `map_jobs`, in the cluster that this process is connected to."""
    import ray

    request, places = _request(needs)
    worker = ray.remote(max_restarts=-1, max_task_retries=REPEATS, **request)(_Actor)
    waiting, running = deque(jobs.items()), dict[Any, tuple[str, Any]]()

    def give(actor: Any) -> None:
        if waiting:  # else the actor ends with its handle, and leaves room for one that is to be started again
            name, job = waiting.popleft()
            running[actor.work.remote(name, job)] = (name, actor)

    shared = ray.put(function)
    try:
        for _ in range(min(places, len(jobs))):
            give(worker.remote(shared, request["num_cpus"]))
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            name = running[ready][0]
            give(running.pop(ready)[1])  # no variable here: it would keep an idle actor alive
            try:
                result, lines = ray.get(ready)
                for line in lines:
                    line.log()
                yield name, value_or_error(name, needs.stage, result)
            except ray.exceptions.RayError as error:
                yield name, _died(name, needs.stage, error)
    finally:
        for _, actor in running.values():
            ray.kill(actor)
        for folder in needs.folders:
            remove_unfinished(folder)


def _request(needs: Needs) -> tuple[dict[str, int | None], int]:
    """What an actor asks Ray for, and how many of them the nodes that are there have room for.

    Raises:
        ArenaError: none of them has enough.
    """
    nodes = _nodes()
    if needs.device not in ("auto", "cpu", "cuda"):
        raise ArenaError(f"device {needs.device}: on a cluster Ray gives out the GPUs", advice="use -device cuda, auto or cpu")
    with_gpu = nodes_with_gpu() if needs.device != "cpu" else []
    gpus = 1 if with_gpu or needs.device == "cuda" else 0
    nodes = [node for node in (with_gpu if gpus else nodes) if node.get("CPU", 0) >= 1]  # a head started with no cores does none of the work
    cores = needs.cores or max(1, int(min((node["CPU"] // max(1, node.get("GPU", 0) * gpus) for node in nodes), default=1)))
    if needs.workers and not gpus:
        cores = min(cores, max(1, int(sum(node["CPU"] for node in nodes)) // needs.workers))
    request = {"num_cpus": cores, "num_gpus": gpus, "memory": needs.memory_bytes or None}
    limits = {"CPU": cores, "GPU": gpus, "memory": needs.memory_bytes}
    places = sum(int(min(node.get(name, 0) // amount for name, amount in limits.items() if amount)) for node in nodes)
    if not places:
        wanted = f"{cores} core(s), {memory_size(needs.memory_bytes)} of memory{' and a GPU' if gpus else ''}"
        raise ArenaError(f"{needs.stage}: no node of the Ray cluster has what a job takes: {wanted}", advice="start it with larger nodes")
    return request, min(places, needs.workers or places)


def _nodes() -> list[dict[str, float]]:
    """What each node that is there has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def nodes_with_gpu() -> list[dict[str, float]]:
    """Likewise, of those that have a GPU."""
    return [node for node in _nodes() if node.get("GPU", 0) >= 1]


def _died(name: str, stage: str, error: Exception) -> WorkerDied:
    reason = " ".join(str(error).split())
    logger.debug("%s: %s", name, reason)
    return WorkerDied(
        f"its worker died in {stage}, {REPEATS + 1} times ({type(error).__name__}: {reason[:300]}); most likely memory ran out",
        case=name,
        advice="run again with fewer workers (-np). What is finished is kept",
    )
