"""Reads a checkpoint without running code from it, and recognises what people have instead of one."""

from __future__ import annotations

import logging
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from arena_pipeline.errors import FoundationError
from arena_pipeline.io.damage import DAMAGED

logger = logging.getLogger(__name__)

DAMAGE = (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, ImportError, struct.error, pickle.UnpicklingError)
"""What torch.load raises for a damaged file, or for one whose classes are not installed."""
HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|\?xml)", re.IGNORECASE)
GIT_LFS = b"version https://git-lfs"
ARCHIVES = (b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")
START_BYTES = 512


def read_checkpoint_file(path: Path, trust: bool = False) -> Any:
    """What the file holds, tensors on the CPU: a dictionary of tensors in a safetensors file, anything in one of torch.save.

    Args:
        trust: allow a pickle that PyTorch's safe loader refuses, and with it any code inside. Files that it takes are never read otherwise.

    Raises:
        FoundationError: the file is not a checkpoint, is damaged, or needs code while `trust` is false.
    """
    start = _start(path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        _check_zip(path)
    elif not start.startswith(b"\x80"):  # what every pickle of protocol 2 or higher starts with
        raise FoundationError(f"expected a checkpoint of PyTorch or a safetensors file, found {_words(path, start)}", file=path)
    return _unpickle(path, trust)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        raise FoundationError(f"can't be read ({error.strerror})", file=path, advice="name the downloaded checkpoint") from None
    if not start:
        raise FoundationError("is empty (0 bytes)", file=path, advice="download it again")
    return start


def _words(path: Path, start: bytes) -> str:
    """What a file is that is no checkpoint, and what to do."""
    if HTML.match(start):
        return "a web page instead of the file: open the address in a browser, log in or confirm there, and download the file itself"
    if start.startswith(GIT_LFS):
        size = re.search(rb"size (\d+)", start)
        return f"a Git LFS pointer{f' to a file of {int(size[1]):,} bytes' if size else ''}: fetch the file itself with git lfs pull, or download it"
    if start.startswith(ARCHIVES) or start[257:262] == b"ustar":
        return "an archive: unpack it and name the checkpoint inside"
    text = start[:60].decode("ascii", errors="replace").strip()
    shown = f"text that starts with {text!r}" if text.isprintable() and text.isascii() else f"bytes that start with {start[:8].hex(' ')}"
    return f"{shown} ({path.stat().st_size:,} bytes); download it again"


def _check_zip(path: Path) -> None:
    """What torch.save writes is a zip archive with data.pkl, whose table of contents is at the very end."""
    if not zipfile.is_zipfile(path):
        raise FoundationError(f"is truncated ({path.stat().st_size:,} bytes, and its end is missing)", file=path, advice="download it again")
    try:
        with zipfile.ZipFile(path) as archive:
            names, size = archive.namelist(), sum(entry.file_size for entry in archive.infolist())
    except DAMAGED as error:
        raise FoundationError(f"its table of contents is damaged ({error})", file=path, advice="download it again") from None
    if size > path.stat().st_size:
        raise FoundationError(f"would unpack to {size:,} bytes, but what torch.save writes is not compressed", file=path, advice="download it again")
    if not any(name.endswith("/data.pkl") for name in names):
        raise FoundationError(f"is an archive of {', '.join(names[:3]) or 'nothing'}", file=path, advice="unpack it and name the checkpoint inside")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FoundationError(f"is truncated or damaged ({error})", file=path, advice="download it again") from None


def _unpickle(path: Path, trust: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_numbers()), path.open("rb") as file:  # given a path, torch.load goes by the file's name
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = code_wanted(error)
        if wanted is None:
            raise _damaged(path, error) from None
    except DAMAGE as error:
        raise _damaged(path, error) from None
    if not trust:
        raise FoundationError(
            f"reading it would run code that it names ({wanted}), so PyTorch's safe loader refuses it",
            file=path,
            advice="if you trust whoever made this file, add --trust_checkpoint",
        )
    logger.warning("%s: read with the code that it names (%s), as --trust_checkpoint allows", path, wanted)
    try:
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=False)
    except DAMAGE as error:
        raise _damaged(path, error) from None


def code_wanted(error: pickle.UnpicklingError) -> str | None:
    """The code that torch's safe loader refused to run, in words; None where the file is damaged instead. Torch tells the two by its text alone."""
    text = str(error)
    if not re.search(r"GLOBAL|unrecognized function|Can only (build|create)", text):
        return None
    return ", ".join(sorted(set(re.findall(r"GLOBAL (\S+)", text)))) or "a function of its author"


def _damaged(path: Path, error: Exception) -> FoundationError:
    reason = str(error).splitlines()[0] if str(error) else "it ends too early"
    return FoundationError(f"is truncated or damaged, PyTorch can't read it ({reason})", file=path, advice="download it again")


def _numbers() -> list[Any]:
    """NumPy's scalars, which checkpoints keep a best score in: values only, so no reason to ask for trust."""
    scalar = np.float64(0).__reduce__()[0]
    types = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)}
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *types]
