"""Archives from strangers: each kind of hostile or damaged zip is refused in words, before anything is written."""

from __future__ import annotations

import copy
import hashlib
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from arena_pipeline.errors import PackageError
from arena_pipeline.share.archive import MAX_ENTRIES, REGULAR_FILE, YEAR_0, FileFacts, open_archive, write_archive

TEXT = b"some text\n"
Maker = Callable[[Path], None]


def facts(content: bytes) -> FileFacts:
    return FileFacts(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def add(archive: zipfile.ZipFile, name: str, content: bytes | str) -> zipfile.ZipInfo:
    """A file as a package has it, whatever its name."""
    info = zipfile.ZipInfo("x", YEAR_0)
    info.create_system, info.external_attr, info.filename = 3, REGULAR_FILE, name  # the constructor would mend the name
    archive.writestr(info, content)
    return info


def named(*names: str) -> Maker:
    """An archive of stored files with these names."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                add(archive, name, TEXT)

    return make


def with_entry(change: Callable[[zipfile.ZipInfo], None], content: bytes = TEXT) -> Maker:
    """One file whose entry in the table of contents is changed after it was written."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            add(archive, "a.txt", content)
            change(archive.filelist[0])

    return make


def link(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "link", "/etc/passwd").external_attr = (stat.S_IFLNK | 0o777) << 16


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.bin", bytes(5_000_000))
    assert path.stat().st_size < 10_000


def overlapping(path: Path) -> None:
    """Ten names for the same bytes: together larger than the file."""
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "0.bin", bytes(2000))
        for number in range(1, 10):
            entry = copy.copy(archive.filelist[0])
            entry.filename = f"{number}.bin"
            archive.filelist.append(entry)


def many(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "0", b"")
        for number in range(1, MAX_ENTRIES + 1):
            entry = copy.copy(archive.filelist[0])
            entry.filename = str(number)
            archive.filelist.append(entry)


def in_front(path: Path) -> None:
    named("a.txt")(path)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())


def behind(path: Path) -> None:
    """Bytes between the last file and the table of contents."""
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "a.txt", TEXT)
        assert archive.fp is not None
        archive.fp.write(b"#!/bin/sh")
        archive.start_dir = archive.fp.tell()


def with_comment(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "a.txt", TEXT)
        archive.comment = b"x" * 100


def cut(path: Path) -> None:
    named("a.txt", "b.txt")(path)
    path.write_bytes(path.read_bytes()[:-30])


def encrypted(path: Path) -> None:
    def change(entry: zipfile.ZipInfo) -> None:
        entry.flag_bits |= 1

    with_entry(change)(path)


def shorter(entry: zipfile.ZipInfo) -> None:
    entry.file_size = entry.compress_size = 4


def web_page(path: Path) -> None:
    path.write_text("<html>log in to download</html>")


NO_NAME = "is not the name of a file in a package"
NOT_OURS = "is not stored as arena_export_model stores files"
REFUSED: list[tuple[str, Maker, str]] = [
    ("zip-slip", named("../evil.txt"), NO_NAME),
    ("zip-slip inside", named("task/../../evil.txt"), NO_NAME),
    ("absolute", named("/tmp/evil.txt"), NO_NAME),
    ("drive", named("C:/evil.txt"), NO_NAME),
    ("backslashes", named("..\\evil.txt"), NO_NAME),
    ("folder", named("task/"), NO_NAME),
    ("here", named("./a.txt"), NO_NAME),
    ("terminal escape", named("a\x1b[2J.txt"), NO_NAME),
    ("symlink", link, NOT_OURS),
    ("device", with_entry(lambda entry: setattr(entry, "external_attr", (stat.S_IFCHR | 0o600) << 16)), NOT_OURS),
    ("bomb", bomb, NOT_OURS),
    ("encrypted", encrypted, NOT_OURS),
    ("overlapping", overlapping, NOT_OURS),
    ("too many", many, "10,001 files, a package has at most 10,000"),
    ("one name in two cases", named("Liver/a", "liver/a"), "'liver/a' is there twice"),
    ("file and folder", named("task", "task/a"), "'task' is there twice"),
    ("something in front", in_front, NOT_OURS),
    ("something behind", behind, "holds more than its files"),
    ("a comment", with_comment, "holds more than its files"),
    ("a size that lies about the content", with_entry(shorter), "holds more than its files"),
    ("cut short", cut, "not a whole package"),
    ("empty", Path.touch, "not a whole package of arena_export_model"),
    ("web page", web_page, "not a whole package"),
]


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_hostile_archive_is_refused(make: Maker, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    make(path)
    with pytest.raises(PackageError, match=message) as refused, open_archive(path):
        pass
    assert str(path) in str(refused.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    named("a.txt", "a.txt")(tmp_path / "model.zip")
    with pytest.raises(PackageError, match="'a.txt' is there twice"), open_archive(tmp_path / "model.zip"):
        pass


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"no\.zip: no such file"), open_archive(tmp_path / "no.zip"):
        pass


def test_a_changed_byte_is_told_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with write_archive(path) as writer:
        writer.add("a.txt", TEXT)
    expected = writer.files["a.txt"]
    assert expected == facts(TEXT)
    with write_archive(path) as writer:
        writer.add("a.txt", b"some test\n")
    with open_archive(path) as archive:
        with pytest.raises(PackageError, match="a.txt has SHA-256 .* its manifest says"):
            archive.extract("a.txt", tmp_path / "1.txt", expected)
        with pytest.raises(PackageError, match="a.txt has 10 bytes, its manifest says 11"):
            archive.extract("a.txt", tmp_path / "2.txt", facts(TEXT + b"."))


def test_the_same_files_give_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    contents = {"b/ü.txt": TEXT, "a.bin": bytes(range(256)) * 9000}
    for name in ("1.zip", "2.zip"):
        with write_archive(tmp_path / name) as writer:
            for entry, content in contents.items():
                writer.add(entry, content)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert zipfile.ZipFile(tmp_path / "1.zip").testzip() is None
    with open_archive(tmp_path / "1.zip") as archive:
        assert archive.sizes == {name: len(content) for name, content in contents.items()}
        for name, content in contents.items():
            archive.extract(name, tmp_path / "out" / name, facts(content))
            assert (tmp_path / "out" / name).read_bytes() == content


def test_a_name_that_no_archive_may_have_is_not_written_either(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="can't be the name of a file in a package"), write_archive(tmp_path / "1.zip") as writer:
        writer.add("a:b/a.txt", TEXT)
    assert not list(tmp_path.iterdir())
