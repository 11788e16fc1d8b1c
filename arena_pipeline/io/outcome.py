"""The outcome of one job in a worker, and how the command's own process, which has the terminal and the log, reports it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from arena_pipeline.errors import ArenaError, WorkerDied

logger = logging.getLogger(__name__)


class Line(NamedTuple):
    """What a worker logs: the logger's name, the level, the text."""

    logger: str
    level: int
    text: str

    def log(self) -> None:
        """Here, in the process that has the terminal and the log file."""
        logging.getLogger(self.logger).log(self.level, "%s", self.text)


@dataclass(frozen=True)
class Fault:
    """An exception in a worker that is no ArenaError, in words: the exception itself may not survive the way to another process."""

    sentence: str
    traceback: str
    out_of_memory: bool


class _LogForwarder(logging.Handler):
    """Gives what a worker logs to `send_line`."""

    def __init__(self, send_line: Callable[[Line], object]) -> None:
        super().__init__(logging.INFO)
        self._send_line = send_line

    def emit(self, record: logging.LogRecord) -> None:
        self._send_line(Line(record.name, record.levelno, record.getMessage()))


def outcome(function: Callable[[Any], Any], job: object, send_line: Callable[[Line], object]) -> object:
    """In a worker: the function's result, its ArenaError or the Fault that it had. `send_line`: gets each line of the log when it is written."""
    forwarder = _LogForwarder(send_line)
    root = logging.getLogger()
    root.addHandler(forwarder)
    root.setLevel(logging.INFO)
    try:
        return function(job)
    except ArenaError as error:
        return error
    except Exception as error:  # noqa: BLE001  whatever it is, the command's own process reports it, with this traceback
        return fault_of(error)
    finally:
        root.removeHandler(forwarder)


def fault_of(error: Exception) -> Fault:
    """With the traceback, which does not cross to another process."""
    return Fault(f"{type(error).__name__}: {error}", traceback.format_exc(), isinstance(error, MemoryError))


def value_or_error(case: str, stage: str, result: Any) -> Any:
    """What a worker has sent (see `outcome`): a fault becomes an error."""
    if not isinstance(result, Fault):
        return result
    if result.out_of_memory:
        return memory_error(case, stage)
    logger.error("%s: %s\n%s", case, stage, result.traceback)
    found = f"{stage} failed with {result.sentence}, a fault of this program"
    return WorkerDied(found, case=case, advice="its traceback is in the log, please report it")


def memory_error(case: str, stage: str) -> ArenaError:
    """For a MemoryError: the system refused memory, and no process was ended."""
    advice = "run again with fewer workers (-np 1), close other programs, or use a larger machine"
    return ArenaError(f"memory ran out in {stage}", case=case, advice=advice)
