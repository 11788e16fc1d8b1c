"""Size, time and hash of a file when it was read or written, to detect change and damage later."""

from __future__ import annotations

import hashlib
from pathlib import Path

from arena_pipeline.settings import Frozen


class SourceFile(Frozen):
    """The state of a file that something was made from.

    Attributes:
        modified_ns: time of its last change; programs that copy or unpack files may set it to any other.
        changed_ns: time of the last change of its content or its entry in the folder, which only the system sets; None in older records.
    """

    name: str
    bytes: int
    modified_ns: int
    changed_ns: int | None = None
    sha256: str

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        state = path.stat()
        return cls(name=path.name, bytes=state.st_size, modified_ns=state.st_mtime_ns, changed_ns=state.st_ctime_ns, sha256=file_sha256(path))

    def is_still(self, path: Path) -> bool:
        """Whether `path` is the same file: of equal size and both times equal, or else of equal checksum."""
        state = path.stat()
        if (path.name, state.st_size) != (self.name, self.bytes):
            return False
        return (state.st_mtime_ns, state.st_ctime_ns) == (self.modified_ns, self.changed_ns) or file_sha256(path) == self.sha256


class WrittenFile(Frozen):
    """The state of a file that was written before the record that holds this."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> WrittenFile:
        return cls(bytes=path.stat().st_size, sha256=file_sha256(path))

    def is_still(self, path: Path, record: Path) -> bool:
        """Whether `path` is there, as large as it was, and older than its record or else of equal checksum."""
        if not path.is_file():
            return False
        state = path.stat()
        if state.st_size != self.bytes:
            return False
        return state.st_mtime_ns < record.stat().st_mtime_ns or file_sha256(path) == self.sha256


def file_sha256(path: Path) -> str:
    """Of the whole file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
