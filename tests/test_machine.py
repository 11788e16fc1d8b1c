"""What the machine offers, as the plans see it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from arena_pipeline import machine


def test_the_cpu_has_no_device_memory() -> None:
    found = machine.this_machine("cpu")
    assert found.device_memory_bytes is None
    assert 0 < found.memory_bytes <= psutil.virtual_memory().total
    assert found.cores >= 1


def test_the_user_bounds_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = machine.usable_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.usable_cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 7))
    assert machine.usable_cores() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert machine.usable_cores() == cores


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CONTAINER_MEMORY_LIMITS", (limit, tmp_path / "not there"))
    limit.write_text("max\n")
    assert machine.memory_bytes() == psutil.virtual_memory().total
    limit.write_text("1073741824\n")
    assert machine.memory_bytes() == 2**30
