"""Worker processes that may die: each has one case at a time, so that the error can name it, and a new one takes its place."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from arena_pipeline.errors import ArenaError, WorkerDied
from arena_pipeline.io.outcome import Line, fault_of, outcome, value_or_error

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

SECONDS_TO_END = 10.0  # for a worker that was asked to end; then it is killed
LIKELY_CAUSES = {
    "SIGKILL": "the system ends a process so when memory runs out",
    "SIGTERM": "another program ended it",
    "SIGSEGV": "a library crashed, or a file on a failing disk could not be read",
    "SIGBUS": "a library crashed, or a disk or /dev/shm is full",
    "SIGABRT": "a library gave up, often for want of memory",
}

_is_worker = False


def in_worker() -> bool:
    """Whether this process does jobs for a command, which has the terminal and the log."""
    return _is_worker


def become_worker(settings: Mapping[str, str]) -> None:
    """Makes `in_worker` true for the rest of this process, which gets `settings` (environment variables, such as its share of the cores)."""
    global _is_worker
    _is_worker = True
    os.environ.update(settings)
    if "torch" in sys.modules and "OMP_NUM_THREADS" in settings:  # it came with the function, or with the caller's own script
        sys.modules["torch"].set_num_threads(int(settings["OMP_NUM_THREADS"]))


class _Worker:
    """One spawned process. `case` is what it works on; None while it starts. `settings`: environment variables of its own."""

    def __init__(self, function: Callable[[Any], Any], trace: Path, settings: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.case: str | None = None
        self.trace, self.settings = trace, settings
        self.process = context.Process(target=_work, args=(theirs, trace, settings), daemon=True)
        self.process.start()
        theirs.close()  # the worker has the only one: when it dies, this end reads an end of file
        with suppress(BrokenPipeError, ConnectionResetError):  # it has just died: reading from it will tell
            self.connection.send(function)

    def give(self, case: str, job: object) -> None:
        self.case = case
        with suppress(BrokenPipeError, ConnectionResetError):  # it has just died: reading from it will tell
            self.connection.send(job)

    def dismiss(self) -> None:
        """Lets an idle worker go, and ends a busy one."""
        self.connection.close()
        if self.case is not None:
            self.process.terminate()

    def wait_until_ended(self) -> None:
        """Waits until a dismissed worker has ended."""
        self.process.join(SECONDS_TO_END)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()

    def exit_code(self) -> int | None:
        """Of a worker whose connection has ended."""
        self.process.join(SECONDS_TO_END)
        return self.process.exitcode


class Pool(Generic[Job, Result]):
    """Runs `function` over `jobs` (by case) in as many processes as there are `settings` (environment variables of each); see `results`."""

    def __init__(self, function: Callable[[Job], Result], jobs: Mapping[str, Job], settings: Sequence[Mapping[str, str]], stage: str) -> None:
        self._function, self._settings, self._stage = function, settings[: len(jobs)], stage
        self._waiting = deque(jobs.items())
        self._workers: list[_Worker] = []
        self._started = 0
        self.lost = False  # a worker was ended in the middle of its work, and may have left half a file

    def results(self) -> Iterator[tuple[str, Result | ArenaError]]:
        """(case, result) as they get done; an ArenaError where the case failed, or its worker died.

        Raises:
            WorkerDied: a worker ended before it could start.
        """
        with tempfile.TemporaryDirectory(prefix="arena_workers_", ignore_cleanup_errors=True) as folder:
            try:
                for settings in self._settings:
                    self._start(Path(folder), settings)
                while self._workers:
                    for connection in wait([worker.connection for worker in self._workers]):
                        worker = next(one for one in self._workers if one.connection is connection)
                        yield from self._answer(worker, Path(folder))
            finally:
                self.lost = self.lost or any(worker.case is not None for worker in self._workers)
                for worker in self._workers:
                    worker.dismiss()
                for worker in self._workers:
                    worker.wait_until_ended()

    def _start(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._started += 1
        self._workers.append(_Worker(self._function, folder / f"{self._started}.txt", settings))

    def _answer(self, worker: _Worker, folder: Path) -> Iterator[tuple[str, Result | ArenaError]]:
        """What `worker` has to say: a result, its readiness or its death; it gets the next case."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            self.lost = True
            if worker.case is None:
                raise self._not_started(worker.exit_code()) from None
            if self._waiting:
                self._start(folder, worker.settings)
            yield worker.case, self._died(worker, worker.case)
            return
        if isinstance(message, Line):
            message.log()
            return
        case, worker.case = worker.case, None
        if self._waiting:
            worker.give(*self._waiting.popleft())
        if case is not None:
            yield case, value_or_error(case, self._stage, message)
        if worker.case is None:
            self._workers.remove(worker)
            worker.dismiss()
            worker.wait_until_ended()

    def _died(self, worker: _Worker, case: str) -> WorkerDied:
        code = worker.exit_code()
        trace = worker.trace.read_text(encoding="utf-8", errors="replace") if worker.trace.is_file() else ""
        if trace:
            logger.error("%s: %s, where its worker process was:\n%s", case, self._stage, trace)
        fewer = f"with fewer workers than {len(self._settings)} (-np; with 0 it runs in the command's own process)"
        mend = fewer if len(self._settings) > 1 else "with other programs closed, or on a larger machine"
        return WorkerDied(
            f"its worker process died in {self._stage} ({exit_words(code)}){'; its traceback is in the log' if trace else ''}",
            case=case,
            advice=f"run again {mend}. What is finished is kept",
        )

    def _not_started(self, code: int | None) -> WorkerDied:
        advice = "run again with -np 0, which needs none (a script of your own needs its calls under: if __name__ == '__main__')"
        return WorkerDied(f"{self._stage}: a worker process ended before it could start ({exit_words(code)})", advice=advice)


@contextmanager
def loader_death_as_worker_died(stage: str) -> Iterator[None]:
    """Turns what torch's DataLoader raises when one of its processes dies into WorkerDied."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerDied(
            f"{stage}: a process that reads the data died ({' '.join(str(error).split())}), most likely because memory ran out",
            advice="run again with fewer workers (-np; 0: none). It goes on where it was last saved",
        ) from error


def exit_words(code: int | None) -> str:
    """An exit code with its likely cause: exit -9, SIGKILL: the system ends a process so when memory runs out."""
    if code is None:
        return "no exit code"
    try:
        name = signal.Signals(-code if code < 0 else code - 128).name  # 128 + n: what a shell, and our own workers, make of signal n
    except ValueError:
        return f"exit {code}"
    return f"exit {code}, {name}: {LIKELY_CAUSES.get(name, 'a signal ended it')}"


def _work(connection: Connection, trace: Path, settings: Mapping[str, str]) -> None:
    """A worker's life: one case after the other, until there are no more or the command is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the command decides
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_the_command, daemon=True).start()
    become_worker(settings)  # before torch is loaded, which the function's arrival may do
    with open(trace, "w", encoding="utf-8") as file:
        faulthandler.enable(file)
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            work = connection.recv()
            connection.send(None)
            while True:
                _answer_one(work, connection.recv(), connection)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # so that half-written files are removed on the way out


def _leave_with_the_command() -> None:
    """Ends this worker with its command: one that was killed can't dismiss its workers, and what they hold must be free for the next command."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer_one(function: Callable[[Any], Any], job: object, connection: Connection) -> None:
    sending = threading.Lock()  # any thread of the job may log

    def send(message: object) -> None:
        with sending:
            connection.send(message)

    def send_line(line: Line) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the command is gone, and so will this process be
            send(line)

    result = outcome(function, job, send_line)
    try:
        send(result)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:  # what pickle raises for a result that can't be sent
        send(fault_of(error))
