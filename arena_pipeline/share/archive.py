"""A zip archive that is passed between people: written the same every time, and distrusted when it is read.

Nothing in it is compressed, so nothing can expand: all that it holds is smaller than the file itself, whatever its headers say.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from arena_pipeline.errors import PackageError
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.damage import DAMAGED
from arena_pipeline.io.space import full_disk_as_no_space
from arena_pipeline.settings import Frozen

MAX_ENTRIES = 10_000
MAX_ENTRY_BYTES = 2**31 - 1  # what zip holds without its 64-bit extension, which is not used
BLOCK_BYTES = 2**20
END = struct.Struct("<4s4H2LH")  # the end of the table of contents, without a comment
END_64 = struct.Struct("<4sLQL")
YEAR_0 = (1980, 1, 1, 0, 0, 0)  # the earliest time that zip knows; a package's bytes do not tell when it was made
REGULAR_FILE = (stat.S_IFREG | 0o644) << 16
UNIX = 3
ENCRYPTED = 0x1


class FileFacts(Frozen):
    """Size and SHA-256 of one file in an archive."""

    bytes: int = Field(ge=0, le=MAX_ENTRY_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ArchiveWriter:
    """Adds files to an archive; the same files in the same order give the same bytes."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.files: dict[str, FileFacts] = {}

    def add(self, name: str, content: bytes) -> None:
        """Raises PackageError where it becomes too large."""
        info = zipfile.ZipInfo(name, YEAR_0)
        info.create_system, info.external_attr = UNIX, REGULAR_FILE
        if fault := _fault(info):
            raise PackageError(f"{name!r} {fault}, so the model can't be exported", advice="adapt it under another name")
        try:
            self._archive.writestr(info, content)
        except zipfile.LargeZipFile:
            raise PackageError(f"the package would be larger than {MAX_ENTRY_BYTES:,} bytes", advice="export fewer structures or folds") from None
        self.files[name] = FileFacts(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@contextmanager
def write_archive(path: Path) -> Iterator[ArchiveWriter]:
    """Writes `path` whole or not at all."""
    with replace_when_done(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        yield ArchiveWriter(archive)


class Archive:
    """The checked table of contents of an archive, and its files. `path`: of the archive; `sizes`: name -> bytes."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive, self.path = archive, path
        entries = archive.infolist()
        for entry in entries:
            if fault := _fault(entry):
                raise PackageError(f"{entry.filename!r} {fault}", file=path, advice="it was not made by arena_export_model, don't use it")
        self.sizes = {entry.filename: entry.file_size for entry in entries}
        if fault := _clash([entry.filename for entry in entries]):
            raise PackageError(fault, file=path, advice="it was not made by arena_export_model, don't use it")
        if sum(self.sizes.values()) > path.stat().st_size:
            raise PackageError(
                "its files would be larger than itself, so they overlap", file=path, advice="it was not made by arena_export_model, don't use it"
            )

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file, at most as many bytes as its `sizes` say.

        Raises:
            PackageError: it is damaged.
        """
        left = self.sizes[name]
        try:
            with self._archive.open(name) as file:
                while left and (block := file.read(min(BLOCK_BYTES, left))):
                    left -= len(block)
                    yield block
        except DAMAGED as error:
            raise PackageError(f"{name} is damaged ({error})", file=self.path, advice="get the package again") from None
        if left:
            raise PackageError(f"{name} is {left:,} bytes too short", file=self.path, advice="get the package again")

    def extract(self, name: str, target: Path, expected: FileFacts | None = None) -> None:
        """Writes a file of the archive to `target`, whose folder is made.

        Raises:
            PackageError: size or SHA-256 is not as expected, where that is given.
        """
        if expected is not None and self.sizes[name] != expected.bytes:
            raise PackageError(
                f"{name} has {self.sizes[name]:,} bytes, its manifest says {expected.bytes:,}", file=self.path, advice="get the package again"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with full_disk_as_no_space(target), target.open("xb") as file:
            for block in self.blocks(name):
                digest.update(block)
                file.write(block)
        if expected is not None and digest.hexdigest() != expected.sha256:
            found = f"SHA-256 {digest.hexdigest()[:12]}..., its manifest says {expected.sha256[:12]}..."
            raise PackageError(f"{name} has {found}", file=self.path, advice="it was damaged or changed, get the package again")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The archive at `path`, of which nothing but the table of contents is read yet.

    Raises:
        PackageError: not a zip archive as `write_archive` writes it; says what is wrong.
    """
    _check_end(path)
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED as error:
        raise PackageError(f"damaged ({error})", file=path, advice="get the package again") from None
    with archive:
        yield Archive(archive, path)


def _check_end(path: Path) -> None:
    """That the file ends as an archive of ours, before its table of contents, whose size it says, is read into memory."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - END_64.size - END.size))
            tail = file.read()
    except OSError as error:
        raise PackageError(f"can't be read ({error.strerror})", file=path, advice="name a package that arena_export_model made") from None
    if len(tail) < END.size or not tail[-END.size :].startswith(b"PK\x05\x06"):
        raise PackageError(
            f"not a whole package of arena_export_model ({size:,} bytes, without the end that a zip archive has)", file=path, advice="get it again"
        )
    _, disk, first_disk, here, entries, table_bytes, table_start, comment = END.unpack(tail[-END.size :])
    whole = disk == first_disk == comment == 0 and here == entries and table_start + table_bytes + END.size == size
    if not whole or tail.startswith(b"PK\x06\x07"):
        raise PackageError("a zip archive, but not one that arena_export_model made", file=path, advice="don't use it")
    if entries > MAX_ENTRIES:
        raise PackageError(f"{entries:,} files, a package has at most {MAX_ENTRIES:,}", file=path, advice="don't use it")


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is not one of ours, or None."""
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    steps = name.split("/")
    if name != entry.orig_filename or not name.isprintable() or "\\" in name or ":" in name:
        return "is no name of a file in a package"
    if any(step in ("", ".", "..") for step in steps):
        return "would be written outside the model's folder" if ".." in steps or name.startswith("/") else "is no name of a file in a package"
    if kind not in (0, stat.S_IFREG):
        return "is a link or another special file"
    if entry.flag_bits & ENCRYPTED:
        return "is encrypted"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "is compressed, which nothing in a package is, since it could expand to any size"
    return None


def _clash(names: list[str]) -> str | None:
    """Names that are the same file, or file and folder at once, on some file system; or None."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.get(name.casefold())
        if other is not None:
            return f"{name!r} is there twice" if other == name else f"{name!r} and {other!r} are one file on some systems"
        seen[name.casefold()] = name
    for name in names:
        if folder := next((parent for parent in _parents(name.casefold()) if parent in seen), None):
            return f"{seen[folder]!r} is a file and a folder"
    return None


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
