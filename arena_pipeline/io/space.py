"""Free disk space: checked before work starts; where it runs out all the same, the error has the numbers."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arena_pipeline.errors import ArenaError, NoSpace

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if hasattr(errno, "EDQUOT") else (errno.ENOSPC, errno.EFBIG)
PROBE_BYTES = 64 * 1024
RESERVE_BYTES = 10 * 2**20  # logs, records and pictures
ADVICE = "free space, or choose a folder on another disk, then run the command again: what is finished is kept"


def require_writable(folder: Path) -> None:
    """Writes a file where `folder` is or would be made, to find out: permissions alone do not show that a disk is read-only.

    Raises:
        NoSpace: nothing can be written there.
    """
    place = _existing(folder)
    if not place.is_dir():
        raise NoSpace(f"can't be written, {place} is a file", file=folder, advice="choose another folder")
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".unfinished.probe."):
            pass
    except OSError as error:
        mend = "the disk is mounted read-only: choose another folder, or mount it writable"
        mend = mend if error.errno == errno.EROFS else "choose another folder, or mend who may write there"
        raise NoSpace(f"can't be written ({error.strerror} in {place})", file=folder, advice=mend) from None


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Checks that `folder`, which need not be there yet, can take about `needed_bytes` (and a small reserve).

    Raises:
        NoSpace: it can't be written, or has less.
    """
    require_writable(folder)
    free = free_disk_bytes(folder)
    if free < needed_bytes + RESERVE_BYTES:
        raise NoSpace(
            f"{purpose} needs about {needed_bytes + RESERVE_BYTES:,} bytes, {free:,} bytes are free on this disk",
            file=folder,
            advice="free space, or choose a folder on another disk",
        )


def free_disk_bytes(folder: Path) -> int:
    """What this user may still write on the disk where `folder` is or would be made."""
    return shutil.disk_usage(_existing(folder)).free


def lack_of_space(error: Exception, path: Path, temporary: Path) -> NoSpace | None:
    """The error to raise instead of `error` while writing `temporary`, which should become `path`: None where space is not the reason.

    Libraries report a full disk in different ways or not at all, so it is tried out with a small file.
    """
    if isinstance(error, ArenaError) or not (getattr(error, "errno", None) in FULL or _is_full(path.parent)):
        return None
    written = temporary.stat().st_size if temporary.exists() else 0
    return NoSpace(
        f"no space is left on the disk: {written:,} bytes of this file were written, {free_disk_bytes(path):,} bytes are free",
        file=path,
        advice="nothing half-written stays. Free space, then run the command again: what is finished is kept",
    )


@contextmanager
def full_disk_as_no_space(path: Path) -> Iterator[None]:
    """For what is added to `path` bit by bit: turns the error of a full disk, which names no file, into NoSpace. Close the file inside."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NoSpace(f"no space is left on the disk, {free_disk_bytes(path):,} bytes are free", file=path, advice=ADVICE) from error


def _is_full(folder: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".unfinished.probe.") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return error.errno in FULL
    return False


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    found = next((place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()), None)
    if found is None:
        raise NoSpace("there is no such drive", file=folder)
    return found
