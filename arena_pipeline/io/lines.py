"""Records that are added to a file one line at a time, each with a checksum: torn or damaged lines are skipped."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from arena_pipeline.io.space import full_disk_as_no_space


def add_line(path: Path, entry: dict[str, Any]) -> None:
    """Adds a record. When this returns, it is on the disk, and visible to every machine that shares it."""
    with full_disk_as_no_space(path), open(path, "a", encoding="utf-8") as file:
        file.write(as_line(entry))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole records from byte `start`, and the byte after the last whole line; nothing where there is no file."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return [], start
    whole, newline, _ = content.rpartition(b"\n")
    entries = [entry for text in whole.decode("utf-8", errors="replace").split("\n") if (entry := _parsed(text)) is not None]
    return entries, start + len(whole) + len(newline)


def as_line(entry: dict[str, Any]) -> str:
    """One record as it stands in the file."""
    content = json.dumps(entry)
    return f"{zlib.crc32(content.encode()):08x} {content}\n"


def _parsed(text: str) -> dict[str, Any] | None:
    checksum, _, content = text.partition(" ")
    return dict(json.loads(content)) if checksum == f"{zlib.crc32(content.encode()):08x}" else None
