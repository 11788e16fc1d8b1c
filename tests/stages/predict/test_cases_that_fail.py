"""What costs one case, and what is refused before the work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arena_pipeline.cli.predict import main
from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.io.lock import locked
from arena_pipeline.predict import job as prediction_job
from arena_pipeline.predict.case import volume_steps
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace
from tests.stages.predict.conftest import make_model


def test_an_error_of_the_system_costs_one_case(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "previews" / "b.png").mkdir(parents=True)  # where a picture should be
    with pytest.raises(DatasetError, match="1 of 2 cases not predicted: b: .*b.png.*: Is a directory; check the path"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["liver"])
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz"]


def test_a_name_too_long_and_a_link_that_leads_nowhere_cost_one_case_each(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    (scans / f"{'c' * 201}.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes())
    (scans / "d.nii.gz").symlink_to("nowhere.nii.gz")
    wanted = r"2 of 4 cases not predicted: '.*cc.nii.gz': a case's name may have 200 bytes.*; d: .*d.nii.gz: a link to nowhere.nii.gz, which"
    with pytest.raises(DatasetError, match=wanted):
        predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], no_previews=True)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]


def test_the_output_folder_is_refused_before_the_work(
    workspace: Workspace, scans: Path, tmp_path: Path, small_disk: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-i", str(scans), "-w", str(workspace.root), "--zero_shot", "liver", "--save_probabilities"]
    assert main([*options, "-o", str(small_disk("1m", read_only=True) / "out")]) == 2
    assert "out: can't be written (Read-only file system" in capsys.readouterr().err
    assert main([*options, "-o", str(small_disk("1m") / "out")]) == 2
    assert "out: predicting 2 cases needs about" in capsys.readouterr().err
    with locked(tmp_path / "taken"):
        process = subprocess.run(
            [sys.executable, "-c", PREDICT, *options, "-o", str(tmp_path / "taken")],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        assert process.returncode == 2
        assert f"taken: in use by process {os.getpid()} on " in process.stderr
    assert not (tmp_path / "taken").exists()


PREDICT = "from arena_pipeline.cli.predict import main; raise SystemExit(main())"


def test_a_case_that_cannot_be_read_does_not_stop_the_others_and_leaves_nothing(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary")
    whole = (scans / "a_0000.nii.gz").read_bytes()
    (scans / "a_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="1 of 2 cases not predicted: a: "):
        predict(scans, tmp_path / "out", workspace, save_probabilities=True, save_preprocessed=True)
    assert (tmp_path / "out" / "b.nii.gz").is_file()
    assert not list((tmp_path / "out").rglob("a*"))
    with pytest.raises(ArenaError, match="a_0000"):
        predict(scans / "a_0000.nii.gz", tmp_path / "alone", workspace)
    assert not list((tmp_path / "alone").glob("a*"))


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 8 EiB"), torch.OutOfMemoryError("CUDA out of memory")], ids=["numpy", "torch"])
def test_a_case_that_memory_does_not_take_does_not_stop_the_others(
    error: Exception, workspace: Workspace, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(workspace, "binary", folds=(0,))
    raised = [error]

    def first_fails(*args: object) -> object:
        if raised:
            raise raised.pop()
        return volume_steps(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction_job, "volume_steps", first_fails)
    with pytest.raises(DatasetError, match=rf"1 of 2 cases not predicted: a: memory ran out in the prediction of a \({error}\); close other"):
        predict(scans, tmp_path / "out", workspace)
    assert (tmp_path / "out" / "b.nii.gz").is_file() and not list((tmp_path / "out").rglob("a*"))
