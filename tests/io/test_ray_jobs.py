"""Jobs on a cluster of two real Ray nodes, whose workers, nodes and drivers are killed in the middle of their work."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arena_pipeline.errors import ArenaError, MissingPackage, WorkerDied
from arena_pipeline.io import ray_jobs
from arena_pipeline.io.images import read_geometry
from arena_pipeline.io.parallel import Needs, engine, map_jobs
from arena_pipeline.predict.journal import progress
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace, fold_folder

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "240"}  # on a busy machine a node takes its time
ray = pytest.importorskip("ray")

pytestmark = pytest.mark.timeout(450)  # each worker of theirs loads torch, several at a time on a few cores


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node, a core each, and this process as a driver."""
    from ray.cluster_utils import Cluster

    memory = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")  # as job scripts set it to the cores of a node, of which a worker has a share
        made = Cluster(initialize_head=True, head_node_args=memory)
        made.second = made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    ray.init(made.address, log_to_driver=False)
    with engine("ray"):
        yield made
    ray.shutdown()
    made.shutdown()


@contextmanager
def meanwhile(ready: Callable[[], object], happens: Callable[[object], object]) -> Iterator[list[object]]:
    """When `ready` gives something, `happens` with it, once, in a thread beside the block."""
    done: list[object] = []

    def wait() -> None:
        while not (found := ready()) and not stop.wait(0.02):
            pass
        if found:
            happens(found)
            done.append(found)

    stop = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def test_results_errors_and_faults_arrive_as_from_a_process(cluster: Any, tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    jobs = {"a": write_nifti(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16)), "missing": tmp_path / "missing.nii.gz"}
    results = dict(map_jobs(read_geometry, jobs, Needs("read")))
    assert results["a"].shape == (2, 3, 4)
    assert isinstance(results["missing"], ArenaError) and "no such file" in str(results["missing"])
    (fault,) = dict(map_jobs(math.sqrt, {"negative": -1}, Needs("roots"))).values()
    assert isinstance(fault, WorkerDied) and str(fault).startswith("negative: roots failed with ValueError")
    with pytest.raises(ArenaError, match=r"roots: no node of the Ray cluster has what a job takes: 1 core\(s\), .*of memory"):
        list(map_jobs(math.sqrt, {"a": 1}, Needs("roots", memory_bytes=2**50)))
    (died,) = dict(map_jobs(os._exit, {"gone": 3}, Needs("exits"))).values()
    assert isinstance(died, WorkerDied) and re.match(r"gone: its worker died in exits, 4 times .*-np", str(died))


def test_a_worker_has_as_many_threads_as_cores(cluster: Any) -> None:
    assert dict(map_jobs(os.getenv, {"a": "OMP_NUM_THREADS"}, Needs("threads"))) == {"a": "1"}


def test_a_worker_killed_in_a_fold_costs_nothing(
    cluster: Any, workspace: Workspace, tiny_dataset: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    tiny_dataset(cases=3)
    plan_and_preprocess([901], workspace, device="cpu", workers=0, fingerprint_workers=0)
    path = workspace.plans("Dataset901_Tiny", "arena_mini")
    plans = json.loads(path.read_text())
    plans["adaptation"] |= {"max_epochs": 5, "patches_per_volume": 1}
    path.write_text(json.dumps(plans))
    options = {"folds": [0, 1], "structures": ["liver"], "device": "cpu"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker with one core has it: sums of gradients depend on it
    try:
        with engine("local"):
            folders = [fold_folder(adapt_dataset(901, 1, workspace, workers=0, **options), "liver", fold) for fold in (0, 1)]  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    alone = [(folder / "adapter.safetensors").read_bytes() for folder in folders]

    def owner() -> int | None:
        log, text = folders[0] / "training_log.csv", folders[0] / ".in_use.txt"
        if not text.is_file() or not (folders[0] / "checkpoint.pt").is_file() or len(log.read_text().splitlines()) < 3:
            return None
        found = re.match(r"process (\d+) on", text.read_text())
        return int(found[1]) if found else None

    with meanwhile(owner, lambda pid: os.kill(pid, signal.SIGKILL)) as killed:  # type: ignore[arg-type]
        adapt_dataset(901, 1, workspace, overwrite=True, **options)  # type: ignore[arg-type]
    assert killed and killed[0] != os.getpid()
    assert "liver fold 0: done again: the worker or the node that had it has died" in caplog.text
    assert [(folder / "adapter.safetensors").read_bytes() for folder in folders] == alone
    assert not [path.name for folder in folders for path in folder.iterdir() if path.name.startswith(".") or path.name == "checkpoint.pt"]


DRIVER = "from arena_pipeline.cli.predict import main; raise SystemExit(main())"


def test_a_driver_killed_and_a_node_stopped_cost_nothing(
    cluster: Any, workspace: Workspace, tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    rng, scans, out = np.random.default_rng(7), tmp_path / "in", tmp_path / "out"
    for name in "abcdef":
        write_nifti(scans / f"{name}.nii.gz", rng.normal(0, 120, (30, 26, 22)).astype(np.int16), (4, 5, 6))
    options = {"zero_shot": ["liver"], "no_previews": True}
    with engine("local"):
        alone = {case: path.read_bytes() for case, path in predict(scans, tmp_path / "alone", workspace, **options).written.items()}  # type: ignore[arg-type]
    command = ["-i", str(scans), "-o", str(out), "-w", str(workspace.root), "--zero_shot", "liver", "--no_previews"]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *command, "--engine", "ray", "--address", cluster.address])
    while driver.poll() is None and not ((found := progress(out)) and found.predicted):
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    claims = lambda: len(list((out / "journal").glob(".in_use_case_*.lock"))) == 2  # noqa: E731
    with meanwhile(claims, lambda _: cluster.remove_node(cluster.second)) as stopped:
        summary = predict(scans, out, workspace, continue_prediction=True, **options)  # type: ignore[arg-type]
    assert stopped and summary.kept and len(summary.kept) + len(summary.written) == 6
    assert {path.name.partition(".")[0]: path.read_bytes() for path in out.glob("*.nii.gz")} == alone
    assert not list(out.glob(".*")) and not list((out / "journal").glob(".*"))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arena_pipeline.io.ray_jobs.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"needs the package ray; pip install 'arena-pipeline\[ray\]'"), engine("ray"):
        pass


@pytest.mark.parametrize(
    ("nodes", "needs", "request_and_places"),
    [
        ([{}, {"CPU": 64.0}, {"CPU": 64.0}], Needs("predict", cores=0), (64, 0, 2)),  # a head without cores does none of the work
        ([{"CPU": 8.0}, {"CPU": 16.0}], Needs("predict", cores=0), (8, 0, 3)),
        ([{"CPU": 4.0}], Needs("adapt", cores=1), (1, 0, 4)),
        ([{"CPU": 4.0}], Needs("predict", 2, cores=0), (2, 0, 2)),
        ([{"CPU": 2.0}, {"CPU": 16.0, "GPU": 4.0}], Needs("predict", cores=0, device="auto"), (4, 1, 4)),
    ],
)
def test_what_a_job_asks_of_the_nodes(
    nodes: list[dict[str, float]], needs: Needs, request_and_places: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "_nodes", lambda: nodes)
    request, places = ray_jobs._request(needs)
    assert (request["num_cpus"], request["num_gpus"], places) == request_and_places
