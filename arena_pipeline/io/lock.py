"""One command at a time writes a folder. The operating system's lock decides; it is free again however its owner ends, on whatever host.

FOLDER/.in_use.lock   locked by the operating system while the owner lives (filelock)
FOLDER/.in_use.txt    who that is: process, host, command and start; for people only
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from arena_pipeline.errors import FolderInUse
from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.space import require_writable

logger = logging.getLogger(__name__)

LOCK, OWNER = ".in_use{}.lock", ".in_use{}.txt"
NUMBERED = "_part_"
OWNER_READ_RETRIES, SECONDS_BETWEEN = 10, 0.1  # an owner writes its text within a moment of locking

_held: ContextVar[frozenset[Path]] = ContextVar("arena_held_locks", default=frozenset())


@contextmanager
def locked(folder: Path, part: str = "") -> Iterator[None]:
    """Holds `folder`, which is made where it is missing, for writing until the block ends. A block inside the block may hold it again.

    Args:
        part: of the folder's content, where several commands may share it, each with a part of its own. `numbered_part`s are parts of
            the whole: nobody has the whole folder, or a part of it by another division, while one of them is held.

    Raises:
        FolderInUse: another command holds it, here or on another host; at once, without waiting.
        NoSpace: it can't be written.
    """
    key = folder.resolve() / f".{part}"
    if key in _held.get():
        yield
        return
    require_writable(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _system_lock(folder, part):
            _refuse_overlap(folder, part)
            token = _held.set(_held.get() | {key})
            try:
                yield
            finally:
                _held.reset(token)
    finally:
        with suppress(OSError):  # something was written, as it should be
            for place in made:
                place.rmdir()


@contextmanager
def all_locked(folders: list[Path], part: str = "") -> Iterator[None]:
    """Holds all of them, or none; of each the same part."""
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(locked(folder, part))
        yield


def numbered_part(part: int, parts: int) -> str:
    """The name of part 0 .. parts - 1 of a folder's files; of a single one that of the whole folder."""
    return f"{NUMBERED}{part}_of_{parts}" if parts > 1 else ""


@contextmanager
def _system_lock(folder: Path, part: str) -> Iterator[None]:
    path, owner = folder / LOCK.format(part), folder / OWNER.format(part)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise _in_use(folder, part) from None
    try:
        if (ended := _read(owner)) is not None:
            logger.warning("%s: taking over the lock of %s, which has ended without giving it back", folder, ended)
        write_text(owner, f"{_this_process()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        with suppress(OSError):  # Windows removes no open file; an empty one that stays does no harm
            path.unlink()  # while it is locked: who waits for this very file sees that it has no name any more, and starts over
        lock.release()


def _refuse_overlap(folder: Path, part: str) -> None:
    """Two commands that start at once may both find the other here, and both be refused."""
    if part and not part.startswith(NUMBERED):
        return
    before, after = LOCK.split("{}")
    for path in sorted(folder.glob(LOCK.format("*"))):
        other = path.name[len(before) : -len(after)]
        divided_alike = part.startswith(NUMBERED) and other.partition("_of_")[2] == part.partition("_of_")[2]
        if other == part or (other and (divided_alike or not other.startswith(NUMBERED))):
            continue
        try:
            FileLock(path).acquire(blocking=False).lock.release()
        except Timeout:
            raise _in_use(folder, other) from None


def _this_process() -> str:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} ({command}, since {since})"


def _in_use(folder: Path, part: str) -> FolderInUse:
    who = None
    for attempt in range(OWNER_READ_RETRIES):
        time.sleep(SECONDS_BETWEEN if attempt else 0)
        if (who := _read(folder / OWNER.format(part))) is not None:
            break
    return FolderInUse(f"in use by {who or 'another command'}", file=folder, advice="wait until it has ended, or stop it")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None
