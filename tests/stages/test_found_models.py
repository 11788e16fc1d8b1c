"""arena_info offers the models of TotalSegmentator that are on the machine, until they are installed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from arena_pipeline.cli import info as command
from arena_pipeline.cli import install_foundation as install_command
from arena_pipeline.stages.info import info
from arena_pipeline.workspace import Workspace


def test_models_of_totalsegmentator_are_found_with_their_commands(
    default_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    results, model = tmp_path / "home" / "nnunet" / "results", "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"
    fixture = Path(__file__).parents[1] / "fixtures" / "nnunet" / "plain"
    for dataset in ("Dataset291_TotalSegmentator_part1_organs", "Dataset300_second_stage"):
        shutil.copytree(fixture, results / dataset / model)
    plans = json.loads((fixture / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (results / "Dataset300_second_stage" / model / "plans.json").write_text(json.dumps(plans))
    organs, cascade = info(default_workspace).found_models
    assert (organs.structures, organs.next_command) == (3, f"arena_install_foundation {results / 'Dataset291_TotalSegmentator_part1_organs' / model}")
    assert cascade.next_command is None and "second stage of a cascade" in str(cascade.problem)
    assert organs.next_command and install_command.main(shlex.split(organs.next_command)[1:]) == 0
    assert command.main([]) == 0
    printed = capsys.readouterr().out.partition("models of TotalSegmentator on this machine")[2]
    assert "Dataset300_second_stage" in printed and "Dataset291" not in printed.partition("datasets")[0]


def test_a_model_of_totalsegmentator_that_is_installed_under_another_name_is_not_offered_again(
    default_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "none"))
    fixtures, model = Path(__file__).parents[1] / "fixtures" / "nnunet", "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"
    organs, ribs = (tmp_path / "weights" / f"Dataset{name}_1559subj" / model for name in ("291_TotalSegmentator_part1_organs", "295_ribs"))
    shutil.copytree(fixtures / "plain", organs)
    shutil.copytree(fixtures / "residual", ribs)
    assert [found.folder for found in info(default_workspace).found_models] == [organs, ribs]
    assert install_command.main([str(organs), "-n", "organs"]) == 0
    with monkeypatch.context() as patch:  # nothing of hundreds of MB is read to say so
        patch.setattr("arena_pipeline.io.filestate.file_sha256", lambda path: pytest.fail(f"{path} was read"))
        assert [found.folder for found in info(default_workspace).found_models] == [ribs]
    for checkpoint in organs.glob("fold_*/*.pth"):
        os.utime(checkpoint)  # as of a copy: its content decides
    assert [found.folder for found in info(default_workspace).found_models] == [ribs]
    (default_workspace.installed_foundation("organs") / "foundation.json").write_text("{")
    assert [found.folder for found in info(default_workspace).found_models] == [organs, ribs]
