"""Whole files or none: every file is written beside its place, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arena_pipeline.io.space import lack_of_space

UNFINISHED = ".unfinished."  # the names of temporary files start with it; a killed process leaves them behind
NAME_CHARACTERS = 40

_umask_lock = threading.Lock()


@contextmanager
def replace_when_done(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder with the same ending; renames it to `path` if the block succeeds.

    After an error nothing of the new file stays, and an older file at `path` is untouched.

    Raises:
        NoSpace: instead of whatever the block raised, where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    handle, name = tempfile.mkstemp(prefix=_prefix(path.name), suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "r+b") as written:  # Windows flushes only what is open for writing
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # temporary files are private; some libraries make a private one themselves
        os.replace(temporary, path)
    except Exception as error:
        if (full := lack_of_space(error, path, temporary)) is not None:
            raise full from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, names: Iterable[str] | None = None) -> list[Path]:
    """Deletes the temporary files that killed processes left of `names` (None: of any file), and returns them. The caller holds the folder's lock."""
    prefixes = (UNFINISHED,) if names is None else tuple(_prefix(name) for name in names)
    left = [path for path in folder.glob(f"{UNFINISHED}*") if path.name.startswith(prefixes) and path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole or not at all. Bytes of a path that are no UTF-8 are written as escapes."""
    with replace_when_done(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """JSON that a person can read: two spaces, unsorted keys, a newline at the end."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def short_name(name: str) -> str:
    """`name` cut, for another file beside it: its name and a prefix may be more than a file system takes."""
    return name if len(name) <= NAME_CHARACTERS else f"{name[:NAME_CHARACTERS]}-{zlib.crc32(name.encode()):08x}"


def _prefix(name: str) -> str:
    """Of a file called `name` while it is written."""
    return f"{UNFINISHED}{short_name(name)}."


def _umask() -> int:
    with _umask_lock:  # the mask is the process's: two threads that ask at once would leave it at 0
        mask = os.umask(0)
        os.umask(mask)
    return mask
