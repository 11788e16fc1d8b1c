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
SHARED_PREFIX = "_share_"
LEASE_SECONDS = 120.0
"""How long a file server may hold the locks of a machine that has died; who takes its work over waits that long."""
OWNER_READ_RETRIES, SECONDS_BETWEEN = 10, 0.1  # an owner writes its text within a moment of locking

_held: ContextVar[frozenset[Path]] = ContextVar("arena_held_locks", default=frozenset())


@contextmanager
def locked(folder: Path, part: str = "", patience_seconds: float = 0) -> Iterator[None]:
    """Holds `folder`, which is made where it is missing, for writing until the block ends. A block inside the block may hold it again.

    Args:
        part: of the folder's content, where several commands may write there, each a part of its own; "" is the whole folder. Any number of
            commands may hold a `shared_part` at once, each its own; meanwhile nobody can hold the whole folder.
        patience_seconds: how long to wait for another's lock to end.

    Raises:
        FolderInUse: another command holds it, on this host or another.
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
        with _system_lock(folder, part, patience_seconds):
            _refuse_overlap(folder, part)
            token = _held.set(_held.get() | {key})
            try:
                yield
            finally:
                _held.reset(token)
    finally:
        with suppress(OSError):  # not empty: something was written
            for place in made:
                place.rmdir()


@contextmanager
def all_locked(folders: list[Path], part: str = "") -> Iterator[None]:
    """Holds all of them, or none; of each the same part."""
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(locked(folder, part))
        yield


def shared_part(name: str) -> str:
    """The part of a folder that a command holds which writes the whole of it together with others."""
    return f"{SHARED_PREFIX}{name}"


def is_held(folder: Path, part: str) -> bool:
    """Whether a process that is alive, on whatever host, holds this part now."""
    path = folder / LOCK.format(part)
    if not path.exists():
        return False
    try:
        FileLock(path).acquire(blocking=False).lock.release()
    except Timeout:
        return True
    return False


def remove_lock_files(folder: Path, part: str) -> None:
    """Deletes the lock files of a part that no command will hold again, such as one named after a command that was killed."""
    for name in (LOCK, OWNER):
        (folder / name.format(part)).unlink(missing_ok=True)


@contextmanager
def _system_lock(folder: Path, part: str, patience_seconds: float) -> Iterator[None]:
    path, owner = folder / LOCK.format(part), folder / OWNER.format(part)
    lock = FileLock(path, thread_local=False)  # one thread may take it for another to give back
    try:
        lock.acquire(timeout=patience_seconds)
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
    """The whole and its shares exclude each other. Two commands that start at once may both find the other here, and both be refused."""
    if part and not part.startswith(SHARED_PREFIX):
        return
    before, after = LOCK.split("{}")
    others = [path.name[len(before) : -len(after)] for path in sorted(folder.glob(LOCK.format("*" if not part else "")))]
    for other in others:
        if (other == "") != (part == "") and (other == "" or other.startswith(SHARED_PREFIX)) and is_held(folder, other):
            raise _in_use(folder, other)


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
