"""One function over many cases, in processes of their own or in this one, with a progress bar that names the case."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from arena_pipeline.errors import ArenaError
from arena_pipeline.io.atomic import remove_unfinished
from arena_pipeline.io.workers import Pool, out_of_memory

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_cases(
    function: Callable[[Job], Result],
    jobs: Mapping[str, Job],
    workers: int,
    description: str,
    unit: str = "case",
    folders: Sequence[Path] = (),
    short_of_memory: bool = False,
) -> Iterator[tuple[str, Result | ArenaError]]:
    """Yields (case, result) as the cases get done; a case that fails with an ArenaError, or whose worker dies, yields that error instead.

    Args:
        function: importable by name (it is sent to other processes).
        jobs: by case identifier.
        workers: processes; 0 and 1 work in this one, and so does a single job.
        description: in front of the progress bar, and the name of the stage in errors.
        folders: where `function` writes, and nobody else meanwhile: what a worker that died has left half-written there is removed.
        short_of_memory: even one worker, or a single job, gets a process of its own, whose death for want of memory does not take the command along.

    Raises:
        WorkerDied: a worker ended before it could start.
    """
    with tqdm(total=len(jobs), desc=description, unit=unit, disable=None) as bar:
        alone = workers == 0 or (min(workers, len(jobs)) < 2 and not short_of_memory)
        done = _in_this_process(function, jobs, bar, description) if alone else _in_processes(Pool(function, jobs, workers, description), folders)
        for case, result in done:
            bar.set_postfix_str(case, refresh=False)
            bar.update()
            yield case, result


def _in_processes(pool: Pool[Job, Result], folders: Sequence[Path]) -> Iterator[tuple[str, Result | ArenaError]]:
    try:
        yield from pool.results()
    finally:
        if pool.lost:
            for folder in folders:
                remove_unfinished(folder)


def _in_this_process(
    function: Callable[[Job], Result], jobs: Mapping[str, Job], bar: tqdm, description: str
) -> Iterator[tuple[str, Result | ArenaError]]:
    for case, job in jobs.items():
        bar.set_postfix_str(case)
        try:
            yield case, function(job)
        except ArenaError as error:
            yield case, error
        except MemoryError:
            yield case, out_of_memory(case, description)
        except Exception:
            logger.error("%s: a fault of this program in %s", case, description)
            raise
