"""The limits of memory and cores that hold for a container, job or service: Linux's control groups, versions 1 and 2.

The limits of the own group and of all above it count. They lie where /proc/self/cgroup says, or at the root where a container sees only itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
V2, V1_MEMORY, V1_CPU = "", "memory", "cpu"  # the controller in /proc/self/cgroup; version 2 has none
MEMORY_FILES = {V2: ("memory.max", "memory.current"), V1_MEMORY: ("memory.limit_in_bytes", "memory.usage_in_bytes")}  # limit, in use
RECLAIMABLE_KEYS = ("inactive_file", "total_inactive_file")  # in memory.stat: files read once


@dataclass(frozen=True)
class MemoryLimit:
    """Of one control group, in bytes; `left` of it at this moment."""

    limit: int
    left: int


def memory_limits() -> list[MemoryLimit]:
    """Every limit that holds for this process; none outside of containers and jobs."""
    found = []
    for controller, (limit_file, used_file) in MEMORY_FILES.items():
        for folder in _folders(controller):
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None:
                found.append(MemoryLimit(limit, limit if used is None else max(0, limit - used + _reclaimable(folder / "memory.stat"))))
    return found


def cpu_limit() -> float | None:
    """The cores' worth of time that this process may use, e.g. 1.5; None without a quota."""
    shares = []
    for folder in _folders(V2):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            shares.append(int(words[0]) / int(words[1]))
    for folder in _folders(V1_CPU):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")  # -1 is no quota
        if quota is not None and period:
            shares.append(quota / period)
    return min(shares, default=None)


def _folders(controller: str) -> Iterator[Path]:
    """The folder of the own group, and of each group above it."""
    for line in _text(ROOT / "proc/self/cgroup").splitlines() or ["0::/", "1:memory:/", "2:cpu:/"]:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller not in names.split(","):
            continue
        for mount in ("sys/fs/cgroup",) if controller == V2 else (f"sys/fs/cgroup/{names}", f"sys/fs/cgroup/{controller}"):
            inside = PurePosixPath(path.lstrip("/"))
            for part in dict.fromkeys((inside, *inside.parents, PurePosixPath("."))):
                if (folder := ROOT / mount / part).is_dir() and ".." not in part.parts:
                    yield folder


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _reclaimable(path: Path) -> int:
    entries = (line.split() for line in _text(path).splitlines())
    return max((int(words[1]) for words in entries if len(words) == 2 and words[0] in RECLAIMABLE_KEYS), default=0)
