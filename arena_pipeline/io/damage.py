"""Whether a file that an earlier run left is whole: it is read to its end, not just seen."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

ZIP_END = struct.Struct("<4s4H2IH")  # signature, two disks, members here and in all, size and place of their list, length of a comment
DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile)
"""What zipfile, and numpy on top of it, raise for an archive with wrong bytes; RuntimeError where one seems to say that it is encrypted."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def damage(path: Path) -> str | None:
    """What is wrong with an .npz or .png file, by its checksums, in words; None for a whole one."""
    try:
        return _in_png(path.read_bytes()) if path.suffix == ".png" else _in_zip(path)
    except DAMAGED as error:
        return f"{path.name}: {error}"


def _in_zip(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        damaged = archive.testzip()
        file.seek(-ZIP_END.size, os.SEEK_END)
        *_, members, _, _, _ = ZIP_END.unpack(file.read())
        if members != len(archive.infolist()):  # zipfile reads as many as it finds
            return f"{path.name}: expected {members} parts, found {len(archive.infolist())}"
    return None if damaged is None else f"{path.name}: the checksum of {damaged} is wrong"


def _in_png(content: bytes) -> str | None:
    """A PNG is a signature and chunks (length, name, content, CRC-32), the last of them IEND."""
    place, name = len(PNG_SIGNATURE), b""
    if not content.startswith(PNG_SIGNATURE):
        return "not a picture"
    while name != b"IEND":
        if place + 12 > len(content):
            return "the picture is cut short"
        (length,) = struct.unpack(">I", content[place : place + 4])
        chunk = content[place + 4 : place + 8 + length]
        name = chunk[:4]
        if content[place + 8 + length : place + 12 + length] != struct.pack(">I", zlib.crc32(chunk)):
            return "the picture's checksum is wrong"
        place += 12 + length
    return None
