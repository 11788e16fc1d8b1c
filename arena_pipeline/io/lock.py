"""One command at a time writes a folder. The lock says who holds it; one whose owner has died is taken over.

FOLDER/.in_use.lock   locked by the operating system while the owner lives (filelock), so a killed owner leaves it free
FOLDER/.in_use.json   who: pid, host, command and start, for people, and for network file systems whose locks end at the host. Its owner renews
                      the file's time twice a minute; of an owner on another host (or in another container) nothing else can be seen
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import ValidationError

from arena_pipeline.errors import FolderInUse
from arena_pipeline.io.atomic import UNFINISHED, write_text
from arena_pipeline.io.space import require_writable
from arena_pipeline.settings import Frozen

logger = logging.getLogger(__name__)

LOCK, OWNER = ".in_use{}.lock", ".in_use{}.json"
NUMBERED = "_part_"
OWNER_READ_RETRIES, RETRY_SECONDS = 10, 0.1
RENEWAL_SECONDS, STALE_SECONDS = 30, 300  # of the record; the clocks of two hosts may differ, that of the file server is asked
START_TOLERANCE_SECONDS = 2.0  # a start time is counted from the boot, whose time moves a little as the clock is corrected

_renewed: set[Path] = set()  # the records that this process holds
_held: ContextVar[frozenset[Path]] = ContextVar("arena_held_locks", default=frozenset())


class Owner(Frozen):
    """FOLDER/.in_use.json. `process_started`: seconds since 1970; a later process may get the same pid, but not the same start."""

    pid: int
    process_started: float
    host: str
    command: str
    since: str

    @classmethod
    def me(cls) -> Owner:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(pid=os.getpid(), process_started=psutil.Process().create_time(), host=socket.gethostname(), command=command, since=since)

    def lives(self) -> bool:
        """Whether the process runs on this host; only asked of an owner on this host."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # killed, and nobody has asked how it ended, as in many containers
                return False
            return abs(process.create_time() - self.process_started) <= START_TOLERANCE_SECONDS
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command}, since {self.since})"


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
        with _system_lock(folder, part), _recorded(folder / OWNER.format(part), folder / LOCK.format(part)):
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


def numbered_part(part: int, parts: int) -> str:
    """The name of part 0 .. parts - 1 of a folder's files; of a single one that of the whole folder."""
    return f"{NUMBERED}{part}_of_{parts}" if parts > 1 else ""


def _refuse_overlap(folder: Path, part: str) -> None:
    """Two commands that start at once may both find the other here, and both be refused."""
    if part and not part.startswith(NUMBERED):
        return
    before, after = OWNER.split("{}")
    for path in sorted(folder.glob(OWNER.format("*"))):
        other = path.name[len(before) : -len(after)]
        divided_alike = part.startswith(NUMBERED) and other.partition("_of_")[2] == part.partition("_of_")[2]
        if other == part or (other and not other.startswith(NUMBERED)) or (other and divided_alike):
            continue
        if path.exists() and (told := _living_owner(path, folder / LOCK.format(part))) is not None:
            raise FolderInUse(told)


@contextmanager
def all_locked(folders: list[Path]) -> Iterator[None]:
    """Holds all of them, or none."""
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(locked(folder))
        yield


@contextmanager
def _system_lock(folder: Path, part: str) -> Iterator[None]:
    path = folder / LOCK.format(part)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FolderInUse(_in_use(folder, _read_patiently(folder / OWNER.format(part)))) from None
    try:
        yield
    finally:
        if not (folder / OWNER.format(part)).exists():
            with suppress(OSError):  # Windows removes no open file; an empty one that stays does no harm
                path.unlink()  # while it is locked: who waits for this very file sees that it has no name any more, and starts over
        lock.release()


@contextmanager
def _recorded(path: Path, lock: Path) -> Iterator[None]:
    """Writes the record, and renews it until the block ends, unless there is one of an owner who lives."""
    me = Owner.me()
    if path.exists():
        if (told := _living_owner(path, lock)) is not None:
            raise FolderInUse(told)
        logger.warning("%s: taking over the lock of %s, which has ended without giving it back", path.parent, _read(path) or "another command")
        path.unlink()
    try:
        _write_new(path, json.dumps(me.model_dump(), indent=2, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise FolderInUse(_in_use(path.parent, _read(path))) from None
    _renewed.add(path)
    _start_renewing()
    try:
        yield
    finally:
        _renewed.discard(path)
        path.unlink(missing_ok=True)


@cache
def _start_renewing() -> None:
    """One thread of this process for all its locks."""

    def renew() -> None:
        while True:
            time.sleep(RENEWAL_SECONDS)
            for path in tuple(_renewed):
                with suppress(OSError):
                    os.utime(path)

    threading.Thread(target=renew, name="arena-locks", daemon=True).start()


def _living_owner(path: Path, lock: Path) -> str | None:
    """In words, who holds the folder; None where the owner has ended.

    Only asked where the system's lock was free. On this host the process is looked for; of another only the age of its record is known.
    """
    owner = _read(path)
    if owner is not None and owner.host == socket.gethostname():
        return _in_use(path.parent, owner) if owner.lives() else None
    os.utime(lock)  # to the file server's time
    try:
        age = lock.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None  # given back at this moment
    if age > STALE_SECONDS:
        return None
    return f"{_in_use(path.parent, owner)}. If it was killed, its lock is taken over {STALE_SECONDS} s after it was last renewed ({age:.0f} s ago)"


def _write_new(path: Path, text: str) -> None:
    """The whole file at once; of several hosts on a network file system only one succeeds, FileExistsError tells the others."""
    own = path.with_name(f"{UNFINISHED}{path.name}.{socket.gethostname()}.{os.getpid()}")
    write_text(own, text)
    try:
        os.link(own, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    finally:
        own.unlink()


def _read_patiently(path: Path) -> Owner | None:
    """Of a command that holds the lock, and writes its record within a moment of that."""
    for _ in range(OWNER_READ_RETRIES):
        if (owner := _read(path)) is not None:
            return owner
        time.sleep(RETRY_SECONDS)
    return None


def _read(path: Path) -> Owner | None:
    """None where there is no record, or it can't be read."""
    try:
        return Owner.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return None


def _in_use(folder: Path, owner: Owner | None) -> str:
    who = str(owner) if owner is not None else "another command, whose record can't be read"
    return f"{folder}: in use by {who}; wait until it has ended, or stop it"
