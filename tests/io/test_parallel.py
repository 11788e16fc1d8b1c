"""One function over many cases: every case comes back once, a bad one as its error, in this process and in others."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from arena_pipeline.errors import ArenaError, ImageError, WorkerDied
from arena_pipeline.io import parallel
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.images import read_geometry, read_image
from arena_pipeline.io.labels import CHUNK_VOXELS, count_labels
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.io.workers import exit_words, loader_death_as_worker_died
from arena_pipeline.machine import usable_cores


@pytest.mark.parametrize("workers", [0, 2])
def test_results_and_errors_by_case(workers: int, tmp_path: Path, write_nifti) -> None:
    jobs = {f"c{i}": write_nifti(tmp_path / f"c{i}.nii.gz", np.zeros((i + 2, 3, 4), np.int16)) for i in range(3)}
    jobs["missing"] = tmp_path / "missing.nii.gz"
    results = dict(map_jobs(read_geometry, jobs, Needs("read", workers)))
    assert {case: results[case].shape for case in ("c0", "c1", "c2")} == {"c0": (2, 3, 4), "c1": (3, 3, 4), "c2": (4, 3, 4)}
    assert isinstance(results["missing"], ImageError)
    assert "no such file" in str(results["missing"])


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_worker_logs_is_logged_here(workers: int, tmp_path: Path, write_nifti, caplog: pytest.LogCaptureFixture) -> None:
    sheared = np.array([[1.0, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    jobs = {name: write_nifti(tmp_path / f"{name}.nii.gz", np.zeros((3, 3, 3), np.int16), sheared) for name in ("a", "b")}
    with caplog.at_level(logging.WARNING):
        assert len(list(map_jobs(read_image, jobs, Needs("read", workers)))) == 2
    assert sorted(name for name in jobs for record in caplog.records if f"{name}.nii.gz: the axes do not stand" in record.getMessage()) == ["a", "b"]


def _logs_and_waits(file: Path) -> bool:
    logging.getLogger("worker").info("now")
    end = time.monotonic() + 60
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return file.exists()


def test_what_a_worker_logs_arrives_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answers(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            (tmp_path / record.getMessage()).touch()  # which the worker waits for

    logger = logging.getLogger("worker")
    monkeypatch.setattr(logger, "handlers", [Answers()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    assert dict(map_jobs(_logs_and_waits, {"a": tmp_path / "now", "b": tmp_path / "now"}, Needs("tests", 2))) == {"a": True, "b": True}


def _fall(how: tuple[str, Path]) -> str:
    kind, folder = how
    if kind == "killed":
        with replace_when_done(folder / "killed.txt") as temporary:
            (folder / "pid").write_text(str(os.getpid()))
            temporary.write_text("half")
            time.sleep(250)
    if kind == "fault":
        raise ZeroDivisionError("by zero")
    if kind == "exit":
        os._exit(3)
    if kind == "memory":
        np.empty(1 << 60, np.uint8)
    (folder / f"{kind}.txt").write_text("done")
    return kind


def _kill(pid: Path) -> None:
    while not (pid.is_file() and pid.read_text()):
        time.sleep(0.05)
    os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_worker_that_dies_takes_only_its_own_case_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kinds = ("killed", "fault", "exit", "memory", "last")
    killer = threading.Thread(target=_kill, args=(tmp_path / "pid",))
    killer.start()
    began = time.monotonic()
    results = dict(map_jobs(_fall, {f"s_{kind}": (kind, tmp_path) for kind in kinds}, Needs("tests", 2, folders=[tmp_path])))
    killer.join()
    assert time.monotonic() - began < 200  # nobody waited for the one that slept
    assert sorted(results) == sorted(f"s_{kind}" for kind in kinds)
    assert results["s_last"] == "last"
    said = {name: str(error) for name, error in results.items() if isinstance(error, ArenaError)}
    assert said["s_killed"].startswith("s_killed: its worker process died in tests (exit -9, SIGKILL: the system ends a process so when memory runs")
    assert "fewer workers than 2" in said["s_killed"]
    assert said["s_exit"].startswith("s_exit: its worker process died in tests (exit 3);")
    assert said["s_fault"].startswith("s_fault: tests failed with ZeroDivisionError: by zero")
    assert said["s_memory"].startswith("s_memory: memory ran out in tests")
    assert all(isinstance(results[f"s_{kind}"], WorkerDied) for kind in ("killed", "fault", "exit"))
    assert "in _fall\n    raise ZeroDivisionError" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.txt", "pid"]


def test_without_workers_all_is_done_here_and_a_fault_is_as_it_was_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert dict(map_jobs(_own_pid, {"a": 1, "b": 2}, Needs("tests", 0))) == {"a": os.getpid(), "b": os.getpid()}
    assert isinstance(dict(map_jobs(_fall, {"m": ("memory", tmp_path)}, Needs("tests", 0)))["m"], ArenaError)
    with pytest.raises(ZeroDivisionError):
        list(map_jobs(_fall, {"s1": ("fault", tmp_path), "s2": ("last", tmp_path)}, Needs("tests", 0)))
    assert "s1: a fault of this program in tests" in caplog.text


def _own_pid(job: int) -> int:
    return os.getpid()


def test_each_worker_sees_one_gpu_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "accelerators", lambda device: ["0", "1"] if device == "cuda" else [])
    monkeypatch.setattr(parallel, "usable_cores", lambda: 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert parallel.workers_on_this_machine(Needs("tests", device="cuda"), 9) == 2
    assert parallel.workers_on_this_machine(Needs("tests", cores=0), 9) == 0
    assert [settings["CUDA_VISIBLE_DEVICES"] for settings in parallel._settings(Needs("tests", device="cuda"), 3)] == ["3", "5", "3"]
    seen = dict(map_jobs(_environment, {"a": 0, "b": 1}, Needs("tests", 2, device="cuda"))).values()
    assert set(seen) <= {("3", "3"), ("5", "3")}


def _environment(job: int) -> tuple[str, str]:
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]


IMPORTS_TORCH_FIRST = """
import torch
from arena_pipeline.io.parallel import Needs, map_jobs

def threads(job):
    return torch.get_num_threads()

if __name__ == "__main__":
    print(*(found for _, found in map_jobs(threads, {"a": 0, "b": 1}, Needs("tests", 2, cores=0))))
"""


def test_workers_of_a_script_that_imports_torch_have_their_share_of_the_cores(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(IMPORTS_TORCH_FIRST)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    ran = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout.split() == [str(max(1, usable_cores() // 2))] * 2


def test_workers_that_cannot_start_end_it_at_once() -> None:
    with pytest.raises(WorkerDied, match=r"tests: a worker process ended before it could start \(exit 1\).*-np 0"):
        list(map_jobs(_Unreadable(), {"a": 1, "b": 2}, Needs("tests", 2)))


class _Unreadable:
    """A function that a worker can't load."""

    def __call__(self, job: int) -> int:
        return job

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _refuse, ("here",)


def _refuse(where: str) -> object:
    raise RuntimeError(f"not loaded {where}")


def test_exit_codes_in_words_and_the_death_of_a_data_loader() -> None:
    assert exit_words(-11) == "exit -11, SIGSEGV: a library crashed, or a file on a failing disk could not be read"
    assert exit_words(143).startswith("exit 143, SIGTERM")
    assert (exit_words(1), exit_words(-99), exit_words(None)) == ("exit 1", "exit -99", "no exit code")
    with pytest.raises(WorkerDied, match=r"pre-training toy: .*DataLoader worker \(pid.*-np"), loader_death_as_worker_died("pre-training toy"):
        list(DataLoader(_Killing(), num_workers=1))  # in torch's own words
    with pytest.raises(RuntimeError, match="another"), loader_death_as_worker_died("pre-training toy"):
        raise RuntimeError("another")


class _Killing(Dataset[int]):
    """Its reading ends the process that reads."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number


def test_counts_of_labels_over_several_chunks(rng: np.random.Generator) -> None:
    labels = rng.choice(np.array([0, 3, 300], np.uint16), size=(2, CHUNK_VOXELS // 2 + 1, 2))
    counts = count_labels(labels, minlength=310)
    assert counts.shape == (310,)
    assert {label: int(counts[label]) for label in np.flatnonzero(counts)} == {label: int((labels == label).sum()) for label in (0, 3, 300)}
    assert count_labels(np.zeros((0,), np.uint8)).tolist() == [0]
