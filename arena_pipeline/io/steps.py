"""Jobs in steps: while the network works on one, the one before is finished and then the next begun. Two are in memory at most.

    class Predict(InSteps[Path, int]):
        def steps(self, path):                 # a generator, which says where it goes on
            yield MemoryNeeded(estimate(path))         # read ahead where there is room for two
            volume = read(path)
            yield Turn.NETWORK                 # one job after the other, on the main thread
            labels = network(volume)
            yield Turn.END                     # one job after the other, beside the network
            return write(labels)

Each job's results, errors and what it writes at its end come in the order of the jobs, as if they were done one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum
from functools import partial
from traceback import clear_frames
from typing import Generic, TypeVar

from arena_pipeline.machine import free_memory_bytes

Job = TypeVar("Job")
Result = TypeVar("Result")


class Turn(Enum):
    """Where a job goes on."""

    NETWORK = "when the network is free"
    END = "when the jobs before have ended"


@dataclass(frozen=True)
class MemoryNeeded:
    """A job goes on beside the one before where there is memory for both, else when that has ended. `memory_bytes`: at most, of all its steps."""

    memory_bytes: int


Steps = Generator[Turn | MemoryNeeded, None, Result]


class InSteps(ABC, Generic[Job, Result]):
    """A function whose jobs may overlap; called, it does one from beginning to end."""

    @abstractmethod
    def steps(self, job: Job) -> Steps[Result]: ...

    def __call__(self, job: Job) -> Result:
        return run_through(self.steps(job))


def run_through(steps: Steps[Result]) -> Result:
    """Does all steps in this thread, without a break."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def overlapped(jobs: Iterable[tuple[str, Steps[Result]]], at_network: Callable[[str], object]) -> Iterator[Callable[[], Result]]:
    """Functions that give each job's result or raise its error, in order. `at_network` is called with the name of the job that gets the network.

    Where a consumer stops, or at an interruption, the steps that threads are doing are waited for, and unfinished jobs are closed.
    """
    started = list[_Started[Result]]()
    waiting = iter(jobs)

    def start(before: _Started[Result] | None, beside: _Started[Result] | None) -> _Started[Result] | None:
        if (following := next(waiting, None)) is None:
            return None
        started.append(one := _Started(*following))
        one.done = threads.submit(_after, before, partial(one.begin, 0 if beside is None else beside.memory_bytes))
        return one

    threads = ThreadPoolExecutor(2, thread_name_prefix="arena-beside")
    try:
        job, before = start(None, None), None
        while job is not None:
            job.done.result()
            if isinstance(job.turn, MemoryNeeded):
                if before is not None:
                    before.done.result()
                job.go_on()
            following = start(before, job)
            at_network(job.name)
            if job.turn is Turn.NETWORK:
                job.go_on()
            job.done = threads.submit(_after, before, job.end)
            if before is not None:
                yield _ended(before, started)
            job, before = following, job
        if before is not None:
            yield _ended(before, started)
    finally:
        threads.shutdown(cancel_futures=True)
        for one in started:
            one.context.run(one.steps.close)


def _after(before: _Started[Result] | None, step: Callable[[], None]) -> None:
    if before is not None:
        before.done.result()
    step()


def _ended(job: _Started[Result], started: list[_Started[Result]]) -> Callable[[], Result]:
    job.done.result()
    started.remove(job)
    return job.result


class _Started(Generic[Result]):
    """A job that is at some step: `turn`, None at its end. `done`: the last thing that a thread was given to do with it."""

    done: Future[None]

    def __init__(self, name: str, steps: Steps[Result]) -> None:
        self.name, self.steps, self.memory_bytes = name, steps, 0
        self.context = copy_context()  # of all its steps, whatever thread does them: a lock that one takes, another gives back
        self.turn: Turn | MemoryNeeded | None = None
        self._value: Result
        self._error: Exception | None = None

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._value

    def go_on(self) -> None:
        try:
            self.turn = self.context.run(next, self.steps)
        except StopIteration as end:
            self.turn, self._value = None, end.value
        except Exception as error:  # noqa: BLE001  raised where the result is taken
            self.turn, self._error = None, error
            _clear_variables(error)

    def begin(self, beside_bytes: int) -> None:
        """Works until the job needs the network, or to a MemoryNeeded for which there is no room beside the other job's `beside_bytes`."""
        self.go_on()
        if isinstance(self.turn, MemoryNeeded):
            self.memory_bytes = self.turn.memory_bytes
            if not beside_bytes or beside_bytes + self.memory_bytes <= free_memory_bytes():
                self.go_on()

    def end(self) -> None:
        while self.turn is not None:
            self.go_on()


def _clear_variables(error: BaseException | None) -> None:
    """An error holds the volumes of all functions that it came through; they would be in memory beside two others."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__
