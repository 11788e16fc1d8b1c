"""Where the log of a command goes: to the terminal, and to a file beside the record of the run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from arena_pipeline.errors import NoSpace
from arena_pipeline.io.atomic import write_json
from arena_pipeline.records import RunRecord

LOGGERS = ("arena_pipeline", "dataset_conversion", "py.warnings")


class LogFile(logging.Handler):
    """The log of a run. It appears with its first line, but never makes the workspace: until that exists, lines wait in memory."""

    def __init__(self, root: Path, path: Path) -> None:
        super().__init__(logging.DEBUG)
        self.root, self.path = root, path
        self._waiting: list[str] = []
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(self.format(record) + "\n")
        if self.root.is_dir():
            self._write()

    def _write(self) -> None:
        try:
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(self._waiting)
        except OSError:
            return  # a workspace that may be read but not written is good enough to predict from
        self._waiting.clear()

    def write_record(self, record: RunRecord, fault: BaseException | None) -> None:
        """Writes the record beside the log; `fault` is an exception on its way out of the program."""
        if not self.root.is_dir():
            return
        if fault is not None:
            trace = (type(fault), fault, fault.__traceback__)
            self.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, "fault in the program", (), trace))
        try:
            write_json(self.path.with_suffix(".json"), record.as_dict())
        except (OSError, NoSpace) as error:
            reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else error
            print(f"warning: the run's record could not be written to {self.path.parent} ({reason})", file=sys.stderr)


class _Terminal(logging.Handler):
    """Log lines on stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        tqdm.write(prefix + record.getMessage(), file=sys.stderr)


@contextmanager
def logging_to(log: LogFile | None, verbose: bool) -> Iterator[None]:
    """Sends this project's log to the terminal and to `log` inside the block."""
    terminal = _Terminal(logging.DEBUG if verbose else logging.INFO)
    handlers: list[logging.Handler] = [terminal] if log is None else [terminal, log]
    loggers = [logging.getLogger(name) for name in LOGGERS]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            for handler in handlers:
                logger.removeHandler(handler)
