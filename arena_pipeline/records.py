"""The record of a run: its arguments, versions, device, and the seconds and peak memory of every stage."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from types import TracebackType
from typing import Any

import psutil

DISTRIBUTION = "arena-pipeline"
SAMPLE_SECONDS = 0.25
_current: ContextVar[RunRecord | None] = ContextVar("arena_run_record", default=None)


@dataclass(eq=False)  # compared by identity: two stages may have equal costs
class StageCost:
    """What one stage took, summed over the times it was entered.

    Attributes:
        peak_memory_bytes: resident memory of the process and its workers, sampled; at least what it was at entry and exit.
        peak_device_memory_bytes: memory of tensors on a CUDA device; None where none was used.
    """

    calls: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_device_memory_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        """The peak where the tensors are: on a CUDA device where one was used, else in main memory."""
        return self.peak_memory_bytes if self.peak_device_memory_bytes is None else self.peak_device_memory_bytes

    def observe(self, memory_bytes: int, device_bytes: int | None) -> None:
        """Raises the peaks to these if they are higher."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory_bytes)
        if device_bytes is not None:
            self.peak_device_memory_bytes = max(self.peak_device_memory_bytes or 0, device_bytes)


class RunRecord:
    """The record of one run. As a context manager it is the one that `stage` and `note` below write to.

    An exception that leaves the block is written down and passed on. `as_dict` is complete after the block.
    """

    def __init__(self, command: str, arguments: dict[str, Any]) -> None:
        self.command = command
        self.arguments = arguments
        self.exit_status = 0
        self.error: str | None = None
        self.notes: dict[str, Any] = {}
        self.total = StageCost(calls=1)
        self.stages: dict[str, StageCost] = {}
        self.started = datetime.now(timezone.utc).astimezone()
        self._clock = time.perf_counter()
        self._open: list[StageCost] = [self.total]
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="arena-memory", daemon=True)

    def __enter__(self) -> RunRecord:
        # The device's peak so far belongs to the outer record; here it starts anew.
        outer = _current.get()
        _device_peak_bytes(restart=True) if outer is None else outer._observe(restart_device_peak=True)
        self._token = _current.set(self)
        self._observe()
        self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._sampler.join()
        self._observe()
        self.total.seconds = time.perf_counter() - self._clock
        if error is not None:
            self.error = f"{type(error).__name__}: {error}"
            self.exit_status = self.exit_status or 1
        _current.reset(self._token)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the block's seconds and peak memory to the stage `name`. Stages may nest and repeat."""
        cost = self.stages.setdefault(name, StageCost())
        self._observe(restart_device_peak=True)
        with self._lock:
            self._open.append(cost)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._observe()
            with self._lock:
                self._open.remove(cost)
            cost.calls += 1
            cost.seconds += time.perf_counter() - start

    def as_dict(self) -> dict[str, Any]:
        """Everything, in values that JSON has."""
        return {
            "command": self.command,
            "arguments": _plain(self.arguments),
            "started": self.started.isoformat(timespec="seconds"),
            "exit_status": self.exit_status,
            "error": self.error,
            "versions": versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": self.notes.get("device") or _device_name(),
            "cpu_cores": os.cpu_count(),
            "notes": _plain({name: value for name, value in self.notes.items() if name != "device"}),
            "total": _rounded(self.total),
            "stages": {name: _rounded(cost) for name, cost in self.stages.items()},
        }

    def _observe(self, restart_device_peak: bool = False) -> None:
        memory, device = _resident_bytes(), _device_peak_bytes(restart_device_peak)
        with self._lock:
            for cost in self._open:
                cost.observe(memory, device)

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._observe()


def stage(name: str) -> AbstractContextManager[None]:
    """Times the block in the record of the run that is going on; without one (the Python API) it does nothing."""
    record = _current.get()
    return nullcontext() if record is None else record.stage(name)


def note(name: str, value: Any) -> None:
    """Adds a fact, such as the device that was chosen, to the record of the run that is going on, if there is one."""
    record = _current.get()
    if record is not None:
        record.notes[name] = value


def versions() -> dict[str, str]:
    """Installed versions of this package and of what it requires; a package that is not installed is left out."""
    try:
        required = [entry for entry in metadata.requires(DISTRIBUTION) or [] if "extra ==" not in entry]
    except metadata.PackageNotFoundError:
        required = []
    names = [DISTRIBUTION, *(re.split(r"[^A-Za-z0-9._-]", entry, maxsplit=1)[0] for entry in required)]
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _resident_bytes() -> int:
    """Resident memory of this process and its workers, which come and go."""
    total = 0
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def _cuda() -> Any | None:
    """torch.cuda where it is already in use: a record never loads torch or wakes a device up by itself."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _device_peak_bytes(restart: bool) -> int | None:
    """Of all CUDA devices together: a command may use another than the current one. None where no tensor was on any."""
    cuda = _cuda()
    if cuda is None:
        return None
    devices = range(cuda.device_count())
    peak = sum(int(cuda.max_memory_allocated(device)) for device in devices)
    if restart:
        for device in devices:
            cuda.reset_peak_memory_stats(device)
    return peak or None


def _device_name() -> str:
    cuda = _cuda()
    return "cpu" if cuda is None else f"cuda ({cuda.get_device_name()})"


def _plain(values: dict[str, Any]) -> Any:
    """In values that JSON has; all others (paths, a workspace) in words."""
    return json.loads(json.dumps(values, default=str))


def _rounded(cost: StageCost) -> dict[str, Any]:
    return {**vars(cost), "seconds": round(cost.seconds, 3)}
