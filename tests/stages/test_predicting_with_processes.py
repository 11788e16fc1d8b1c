"""arena_predict -np 2 as the command that people run: two processes, a bad CT among the others, all of it killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arena_pipeline.errors import DatasetError
from arena_pipeline.predict.journal import progress
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace

COMMAND = "from arena_pipeline.cli.predict import main; raise SystemExit(main())"
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups"),
    pytest.mark.timeout(600),  # six processes load torch
]


def test_two_processes_killed_and_gone_on_make_the_files_of_one(workspace: Workspace, tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    rng, scans, out = np.random.default_rng(7), tmp_path / "in", tmp_path / "out"
    for name in "abcdef":
        write_nifti(scans / f"{name}.nii.gz", rng.normal(0, 120, (30, 26, 22)).astype(np.int16), (4, 5, 6))
    (scans / "c.nii.gz").write_bytes((scans / "c.nii.gz").read_bytes()[:2000])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker of two has it
    try:
        with pytest.raises(DatasetError, match="1 of 6 cases not predicted: c: "):
            predict(scans, tmp_path / "alone", workspace, zero_shot=["liver"], device="cpu", workers=1)
    finally:
        torch.set_num_threads(threads)
    command = ["-i", str(scans), "-o", str(out), "-w", str(workspace.root), "--zero_shot", "liver", "-device", "cpu", "-np", "2"]
    all_of_it = {"start_new_session": True, "env": os.environ | {"OMP_NUM_THREADS": "2"}}
    killed = subprocess.Popen([sys.executable, "-c", COMMAND, *command], stderr=subprocess.DEVNULL, **all_of_it)  # type: ignore[call-overload]
    try:
        while (found := progress(out)) is None or not found.predicted:
            assert killed.poll() is None
            time.sleep(0.02)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    before = progress(out)
    assert before is not None and before.predicted < 5  # else it was not killed in the middle

    ended = subprocess.run([sys.executable, "-c", COMMAND, *command, "--continue_prediction"], capture_output=True, text=True, **all_of_it)  # type: ignore[call-overload]
    assert ended.returncode == 2, ended.stderr
    told = [line for line in ended.stderr.splitlines() if "not predicted: c: " in line]  # when it happened, and again at the end
    assert len(told) == 2 and "1 of 6 cases not predicted: c: " in told[1] and "Traceback" not in ended.stderr
    files = {path.relative_to(out) for path in out.rglob("*") if path.suffix in (".gz", ".png")}
    assert len(files) == 10 and all((out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes() for name in files)
    after = progress(out)
    assert after is not None and (after.predicted + after.earlier, after.failed, after.left) == (5, 1, 0)
    assert after.earlier >= before.predicted > 0
    assert not list(out.rglob(".*"))
