"""Whether a file that an earlier run left is whole: it is read to its end, not just seen."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
from isal import igzip, igzip_lib
from PIL import Image
from pydicom.tag import Tag

from arena_pipeline.errors import ImageError
from arena_pipeline.io.itk import read_itk

ZIP_END = struct.Struct("<4s4H2IH")  # signature, two disks, members here and in all, size and place of their list, length of a comment
DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile)
"""What zipfile, and numpy on top of it, raise for an archive with wrong bytes; RuntimeError where one seems to say that it is encrypted."""
GZIP_BLOCK = 2**20  # bytes read at once
PIXELS = Tag("PixelData")
LAST_TAGS = (PIXELS, Tag("ApprovalStatus"))  # of a DICOM-SEG, of an RTSTRUCT


def damage(path: Path) -> str | None:
    """What is wrong with an .npz, .pt, .png or .gz file, by its checksums, or with a .dcm or .nrrd file, by reading it; None for a whole one."""
    try:
        fault = IN_FILES[path.suffix](path)
    except (*DAMAGED, igzip_lib.IsalError, SyntaxError, ImageError) as error:  # type: ignore[misc]  # the stub calls it an instance
        return f"{path.name}: {error}"
    return fault if isinstance(fault, str) else None


def _in_zip(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        damaged = archive.testzip()
        file.seek(-ZIP_END.size, os.SEEK_END)
        *_, members, _, _, _ = ZIP_END.unpack(file.read())
        if members != len(archive.infolist()):  # zipfile reads as many as it finds
            return f"{path.name}: expected {members} parts, found {len(archive.infolist())}"
    return None if damaged is None else f"{path.name}: the checksum of {damaged} is wrong"


def _in_png(path: Path) -> None:
    with Image.open(path, formats=["PNG"]) as picture:
        picture.verify()


def _in_dicom(path: Path) -> str | None:
    """DICOM has no checksums, and pydicom reads as far as a file goes: whether what comes last is there, and has its length."""
    try:
        dataset = pydicom.dcmread(path)
        last = list(dataset.keys())[-1]
    except Exception as error:  # noqa: BLE001  pydicom has no common base for what a damaged file can raise
        return f"{path.name}: {type(error).__name__}"
    if last not in LAST_TAGS:
        return f"{path.name}: cut short"
    if last == PIXELS and not dataset.file_meta.TransferSyntaxUID.is_compressed:
        bits = dataset.Rows * dataset.Columns * int(dataset.NumberOfFrames) * dataset.BitsAllocated
        return None if len(dataset.PixelData) >= bits / 8 else f"{path.name}: cut short"
    return None


def _in_gzip(path: Path) -> None:
    with igzip.open(path) as file:
        while file.read(GZIP_BLOCK):
            pass


IN_FILES: dict[str, Callable[[Path], object]] = {
    ".png": _in_png,
    ".npz": _in_zip,
    ".pt": _in_zip,
    ".gz": _in_gzip,
    ".dcm": _in_dicom,
    ".nrrd": read_itk,
}
