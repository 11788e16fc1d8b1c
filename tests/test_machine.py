"""What the machine offers, as the plans see it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from arena_pipeline import container, machine


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


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The root of the control groups of a machine that the test makes up."""
    monkeypatch.setattr(container, "ROOT", tmp_path)
    folder = tmp_path / "sys" / "fs" / "cgroup"
    folder.mkdir(parents=True)
    return folder


def test_a_containers_limit_counts(group: Path) -> None:
    (group / "memory.max").write_text("max\n")
    assert machine.memory_bytes() == psutil.virtual_memory().total
    (group / "memory.max").write_text("1073741824\n")
    assert machine.memory_bytes() == 2**30


def test_limits_of_the_own_group_and_of_those_above_it_count(group: Path, tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/jobs/job_7/step_0\n")
    (group / "jobs" / "job_7" / "step_0").mkdir(parents=True)
    (group / "jobs" / "job_7" / "step_0" / "memory.max").write_text("max\n")
    (group / "jobs" / "job_7" / "memory.max").write_text("3000000\n")
    (group / "jobs" / "job_7" / "cpu.max").write_text("150000 100000\n")
    (group / "jobs" / "memory.max").write_text("9000000\n")
    (group / "jobs" / "cpu.max").write_text("max 100000\n")
    (group / "other").mkdir()
    (group / "other" / "memory.max").write_text("1\n")
    assert machine.memory_bytes() == 3_000_000
    assert container.cpu_limit() == 1.5


def test_version_1_has_a_folder_for_each_controller(group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("11:memory:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/user\n")
    (group / "memory" / "slurm" / "job_7").mkdir(parents=True)
    (group / "memory" / "slurm" / "job_7" / "memory.limit_in_bytes").write_text("2000000\n")
    (group / "cpu,cpuacct" / "slurm" / "job_7").mkdir(parents=True)
    (group / "cpu,cpuacct" / "slurm" / "job_7" / "cpu.cfs_quota_us").write_text("100000\n")
    (group / "cpu,cpuacct" / "slurm" / "job_7" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.memory_bytes() == 2_000_000
    assert machine.usable_cores() == 1
    (group / "cpu,cpuacct" / "slurm" / "job_7" / "cpu.cfs_quota_us").write_text("-1\n")
    assert container.cpu_limit() is None


def test_workers_are_limited_by_the_memory_that_is_free_now(group: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, content in (("memory.max", "1000000"), ("memory.current", "600000"), ("memory.stat", "anon 500000\ninactive_file 100000")):
        (group / name).write_text(content + "\n")
    assert machine.free_memory_bytes() == 500_000  # what was read from files goes when memory is wanted
    assert machine.limit_workers(9, 100_000, "tests") == 4  # 80 % of it
    assert "tests: 4 worker(s) instead of 9" in caplog.text
    assert [machine.limit_workers(n, 600_000, "tests") for n in (0, 1, 2)] == [0, 1, 1]
    assert machine.workers_for(600_000) == 1
    (group / "memory.max").write_text("max\n")
    assert machine.free_memory_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.3)
