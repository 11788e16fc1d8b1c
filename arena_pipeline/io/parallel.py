"""One function over many cases, in processes of their own, with a progress bar that names the case."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from arena_pipeline.errors import ArenaError

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")


class _Kept(logging.Handler):
    """Keeps what a worker logs, so that it reaches the log of the process that has the terminal and the log file."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.levelno, record.getMessage()))


def map_cases(
    function: Callable[[Job], Result], jobs: Mapping[str, Job], workers: int, description: str
) -> Iterator[tuple[str, Result | ArenaError]]:
    """Yields (case, result) as the cases get done; a case that fails with an ArenaError yields that instead.

    Args:
        function: importable by name (it is sent to other processes).
        jobs: by case identifier.
        workers: processes; 1 works in this one.
        description: in front of the progress bar.

    Raises:
        ArenaError: a worker was ended from outside, usually for want of memory.
    """
    with tqdm(total=len(jobs), desc=description, unit="case", disable=None) as bar:
        done = _in_this_process(function, jobs, bar) if workers == 1 or len(jobs) < 2 else _in_processes(function, jobs, workers)
        for case, result in done:
            bar.set_postfix_str(case, refresh=False)
            bar.update()
            yield case, result


def _in_this_process(function: Callable[[Job], Result], jobs: Mapping[str, Job], bar: tqdm) -> Iterator[tuple[str, Result | ArenaError]]:
    for case, job in jobs.items():
        bar.set_postfix_str(case)
        try:
            yield case, function(job)
        except ArenaError as error:
            yield case, error


def _in_processes(function: Callable[[Job], Result], jobs: Mapping[str, Job], workers: int) -> Iterator[tuple[str, Result | ArenaError]]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context)
    try:
        futures = {pool.submit(_call, function, job): case for case, job in jobs.items()}
        for future in as_completed(futures):
            result, lines = future.result()
            for name, level, message in lines:
                logging.getLogger(name).log(level, "%s", message)
            yield futures[future], result
    except BrokenProcessPool:
        raise ArenaError(
            f"a worker process was ended from outside, usually for want of memory; run again with fewer workers than {workers} "
            f"(a script of your own needs its calls under: if __name__ == '__main__')"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _call(function: Callable[[Job], Result], job: Job) -> tuple[Result | ArenaError, list[tuple[str, int, str]]]:
    """Runs in a worker."""
    kept = _Kept()
    root = logging.getLogger()
    root.addHandler(kept)
    root.setLevel(logging.INFO)
    try:
        return function(job), kept.lines
    except ArenaError as error:
        return error, kept.lines
    finally:
        root.removeHandler(kept)
