"""A zip archive that is passed between people: always written in the same way, and read only if it was written in this way.

Files are stored one after the other, uncompressed, with nothing between them. So nothing can expand, overlap, be encrypted or be a link.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pydantic import Field

from arena_pipeline.errors import PackageError
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.damage import DAMAGED
from arena_pipeline.io.space import full_disk_as_no_space
from arena_pipeline.settings import Frozen

MAX_ENTRIES = 10_000
MAX_ENTRY_BYTES = 2**31 - 1  # what zip holds without its 64-bit extension, which is not used
BLOCK_BYTES = 2**20
LOCAL_HEADER_BYTES = 30  # before each file, besides its name
YEAR_0 = (1980, 1, 1, 0, 0, 0)  # the earliest time that zip knows; a package's bytes do not tell when it was made
REGULAR_FILE = (stat.S_IFREG | 0o644) << 16
UNIX = 3
UTF_8_NAME = 0x800
FOREIGN_ADVICE = "it was not made by arena_export_model, don't use it"


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
        if not _is_safe(name):
            raise PackageError(f"{name!r} can't be the name of a file in a package", advice="adapt the model under another name")
        info = zipfile.ZipInfo(name, YEAR_0)
        info.create_system, info.external_attr = UNIX, REGULAR_FILE
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
        names = archive.namelist()
        if len(names) > MAX_ENTRIES:
            raise PackageError(f"{len(names):,} files, a package has at most {MAX_ENTRIES:,}", file=path, advice=FOREIGN_ADVICE)
        if unsafe := [name for name in names if not _is_safe(name)]:
            raise PackageError(f"{unsafe[0]!r} is not the name of a file in a package", file=path, advice=FOREIGN_ADVICE)
        _require_distinct(names, path)
        _require_own_layout(archive, path)
        self.sizes = {entry.filename: entry.file_size for entry in archive.infolist()}

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
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise PackageError("no such file", file=path, advice="name a package that arena_export_model made") from None
    except DAMAGED as error:
        raise PackageError(f"not a whole package of arena_export_model ({error})", file=path, advice="get it again") from None
    with archive:
        yield Archive(archive, path)


def _is_safe(name: str) -> bool:
    """Whether a name leads to a file below the folder it is extracted to, on every system."""
    return name.isprintable() and not set(name) & set("\\:") and not set(name.split("/")) & {"", ".", ".."}


def _require_own_layout(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises PackageError unless every entry, and the place of every file, is what `ArchiveWriter` writes."""
    place = 0
    for entry in archive.infolist():
        kind = (entry.create_system, entry.external_attr, entry.date_time, entry.compress_type, entry.flag_bits & ~UTF_8_NAME, entry.extra)
        if kind != (UNIX, REGULAR_FILE, YEAR_0, zipfile.ZIP_STORED, 0, b"") or entry.header_offset != place:
            found = f"{entry.filename!r} is not stored as arena_export_model stores files (it may be a link, compressed, encrypted or overlapping)"
            raise PackageError(found, file=path, advice=FOREIGN_ADVICE)
        place += LOCAL_HEADER_BYTES + len(entry.filename.encode()) + entry.file_size
    if place != archive.start_dir or archive.comment:
        raise PackageError("it holds more than its files", file=path, advice=FOREIGN_ADVICE)


def _require_distinct(names: Iterable[str], path: Path) -> None:
    """Raises PackageError for names that are the same file, or file and folder at once, on some file system."""
    places = [PurePosixPath(name.casefold()) for name in names]
    folders = {folder for place in places for folder in place.parents}
    if twice := sorted(str(place) for place in folders & {*places} | {place for place in places if places.count(place) > 1}):
        raise PackageError(f"{twice[0]!r} is there twice (upper and lower case are one on some systems)", file=path, advice=FOREIGN_ADVICE)
