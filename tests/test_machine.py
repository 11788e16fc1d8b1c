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


def test_workers_are_limited_by_the_memory_that_is_free_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "_CONTAINER_MEMORY_LIMITS", (tmp_path / "memory.max",))
    for name, content in (("memory.max", "1000000"), ("memory.current", "600000"), ("memory.stat", "anon 500000\ninactive_file 100000")):
        (tmp_path / name).write_text(content + "\n")
    assert machine.free_memory_bytes() == 500_000  # what was read from files goes when memory is wanted
    assert machine.limit_workers(9, 100_000, "tests") == 4  # 80 % of it
    assert "tests: 4 worker(s) instead of 9" in caplog.text
    assert [machine.limit_workers(n, 600_000, "tests") for n in (0, 1, 2)] == [0, 1, 1]
    assert machine.workers_for(600_000) == 1
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.3)
