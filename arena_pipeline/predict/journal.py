"""What the commands that predict into one folder say to each other: who has done which case, in how many seconds.

OUT/journal/NAME.run.jsonl                 a command: the cases that it was given, what it writes of each, since when
OUT/journal/NAME.at.HOST-PID.cases.jsonl   one of its processes: a line per case that it has done; nobody else writes there
OUT/journal/earlier.cases.jsonl            what commands before the present run have written
OUT/journal/.in_use_CASE.lock              the claim on a case, locked by the operating system while its owner lives

A command that finds others at work joins their run: what they have done is done. One that finds none begins a run.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.filestate import SourceFile
from arena_pipeline.io.lines import add_line, as_line, read_lines
from arena_pipeline.io.lock import is_held, remove_lock_files, shared_part
from arena_pipeline.predict.review import ReviewLine

JOURNAL_FOLDER = "journal"
RUN, CASES = ".run.jsonl", ".cases.jsonl"
EARLIER = f"earlier{CASES}"


@dataclass(frozen=True)
class Entry:
    """A case that is done.

    Attributes:
        failed: why it can't be predicted, in words; None: it is predicted.
        seconds: from when it was claimed, waiting for the network included.
        by: process and host.
        ended: seconds since 1970.
        files: name -> size, times and checksum of what was written.
        earlier: of a command before the present run. `command`: its name.
    """

    case: str
    failed: str | None
    seconds: float
    by: str
    ended: float
    files: dict[str, dict[str, Any]]
    review: list[dict[str, Any]]
    earlier: bool = False
    command: str = ""

    @property
    def review_lines(self) -> list[ReviewLine]:
        return [ReviewLine(**entry) for entry in self.review]

    def is_still(self, folder: Path, paths: Sequence[Path]) -> bool:
        """Whether it wrote all of `paths`, and they are as they were."""
        names = {str(path.relative_to(folder)): path for path in paths}
        there = names.keys() <= self.files.keys() and all(path.is_file() for path in paths)
        return there and all(SourceFile(**self.files[name]).is_still(path) for name, path in names.items())


@dataclass(frozen=True)
class Command:
    """One that predicts, or has predicted, into the folder.

    Attributes:
        cases: that it was given; the same ones may be given to several.
        outputs: option -> whether that is written of each case besides its segmentation; None: where it can be.
        keep: whether finished cases of earlier runs stay.
        alive: whether it is at work now.
    """

    name: str
    cases: frozenset[str]
    outputs: dict[str, bool | None]
    keep: bool
    began: float
    alive: bool


@dataclass
class Journal:
    """The journal of `output`, for the command called `name`. Crosses to worker processes, which write files of their own."""

    output: Path
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
    _entries: dict[str, Entry] = field(default_factory=dict, repr=False)
    _read: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        return self.output / JOURNAL_FOLDER

    def __reduce__(self) -> tuple[Any, ...]:
        return Journal, (self.output, self.name)

    def entries(self) -> dict[str, Entry]:
        """Case -> how it was done, as all processes have written it until now."""
        for path in sorted(self.folder.glob(f"*{CASES}"), key=lambda one: (one.name != EARLIER, one.name)):
            found, self._read[path.name] = read_lines(path, self._read.get(path.name, 0))
            for entry in found:
                self._entries[entry["case"]] = Entry(**entry, earlier=path.name == EARLIER, command=path.name.partition(".at.")[0])
        return self._entries

    def commands(self) -> list[Command]:
        """Those of the present run, in the order of their start."""
        found = []
        for path in self.folder.glob(f"*{RUN}"):
            for facts in read_lines(path)[0]:
                name = path.name.removesuffix(RUN)
                alive = is_held(self.output, shared_part(name))
                found.append(Command(name, frozenset(facts["cases"]), facts["outputs"], facts["keep"], facts["began"], alive))
        return sorted(found, key=lambda one: one.began)

    def begin_run(self, keep: bool) -> None:
        """Ends the run of earlier commands: with `keep` the cases that they predicted are remembered; all else is removed."""
        kept = [entry for entry in self.entries().values() if entry.failed is None] if keep else []
        if kept:
            write_text(self.folder / EARLIER, "".join(as_line(_facts(entry)) for entry in kept))
        self.tidy()
        for path in [*self.folder.glob(f"*{RUN}"), *self.folder.glob(f"*{CASES}")]:
            if not kept or path.name != EARLIER:
                path.unlink(missing_ok=True)
        self._entries.clear()
        self._read.clear()

    def join(self, cases: Sequence[str], outputs: Mapping[str, bool | None], keep: bool) -> None:
        """Makes this command one of the run."""
        add_line(self.folder / f"{self.name}{RUN}", {"cases": list(cases), "outputs": dict(outputs), "keep": keep, "began": time.time()})

    def tidy(self) -> None:
        """Removes what commands that were killed have left in the folder to show that they were at work."""
        for command in self.commands():
            if not command.alive:
                remove_lock_files(self.output, shared_part(command.name))

    def add(self, case: str, seconds: float, written: Sequence[Path] = (), review: Sequence[ReviewLine] = (), failed: str | None = None) -> None:
        """A case is done; the files are there."""
        who, where = f"{socket.gethostname()}-{os.getpid()}", f"process {os.getpid()} on {socket.gethostname()}"
        files = {str(path.relative_to(self.output)): SourceFile.of(path).model_dump() for path in written}
        entry = Entry(case, failed, round(seconds, 3), where, time.time(), files, [asdict(one) for one in review])
        add_line(self.folder / f"{self.name}.at.{who}{CASES}", _facts(entry))


@dataclass(frozen=True)
class Progress:
    """How far the prediction into a folder is.

    Attributes:
        total: cases that the run's commands were given, each counted once.
        earlier: of these, predicted by runs before.
        by: process -> how many cases it has done, and in how many seconds each on average.
        cases_per_hour: of all together, since the first of the commands that are at work began; None where none is, or has done a case yet.
    """

    total: int
    predicted: int
    failed: int
    earlier: int
    commands: list[Command]
    by: dict[str, tuple[int, float]]
    cases_per_hour: float | None

    @property
    def left(self) -> int:
        return max(0, self.total - self.predicted - self.failed - self.earlier)

    @property
    def hours_left(self) -> float | None:
        return self.left / self.cases_per_hour if self.cases_per_hour else None


def progress(output: Path) -> Progress | None:
    """None for a folder without a journal."""
    journal = Journal(output)
    commands = journal.commands()
    if not commands:
        return None
    given = frozenset[str]().union(*(one.cases for one in commands))
    entries = [entry for case, entry in journal.entries().items() if case in given]
    now = [entry for entry in entries if not entry.earlier]
    by: dict[str, list[Entry]] = {}
    for entry in now:
        by.setdefault(entry.by, []).append(entry)
    began = min((one.began for one in commands if one.alive), default=None)
    since = [entry for entry in now if began is not None and entry.ended >= began]
    return Progress(
        total=len(given),
        predicted=sum(entry.failed is None for entry in now),
        failed=sum(entry.failed is not None for entry in now),
        earlier=len(entries) - len(now),
        commands=commands,
        by={who: (len(own), _seconds_at_work(own) / len(own)) for who, own in sorted(by.items())},
        cases_per_hour=len(since) * 3600 / (time.time() - began) if began is not None and since else None,
    )


def _seconds_at_work(entries: Sequence[Entry]) -> float:
    """From the first case's beginning to the last one's end: cases overlap, so their own seconds add up to more."""
    return max(entry.ended for entry in entries) - min(entry.ended - entry.seconds for entry in entries)


def _facts(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name not in ("earlier", "command")}
