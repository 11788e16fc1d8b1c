"""Adaptations that learn nothing, made to by absurd rates: started again, marked as failed, left out of what is averaged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.adapt.checkpoint import Checkpoints
from arena_pipeline.adapt.watch import why_not_learned
from arena_pipeline.cli.adapt import main
from arena_pipeline.errors import AdapterError, NotLearned
from arena_pipeline.model.adapter import read_adapter_record
from arena_pipeline.model.model_folder import load_model
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.workspace import Workspace, fold_folder

NAME, FOUNDATION, ABSURD = "Dataset901_Tiny", "arena_mini", 1e4


@pytest.fixture
def ready(workspace: Workspace, tiny_dataset: Callable[..., Path]) -> Workspace:
    """Preprocessed; two epochs of one small patch, at a rate after which a head's logits are in the thousands."""
    tiny_dataset(cases=3)
    plan_and_preprocess([901], workspace, device="cpu", workers=0, fingerprint_workers=0)
    edit_plans(workspace, learning_rate=ABSURD, max_epochs=2, judged_from_epochs=2)
    return workspace


def edit_plans(workspace: Workspace, **settings: object) -> None:
    path = workspace.plans(NAME, FOUNDATION)
    plans = json.loads(path.read_text())
    plans["adaptation"] |= {"method": "linear_probe", "patches_per_volume": 1} | settings
    plans["scheme"]["patch_size_voxels"] = [64, 32, 32]
    plans["tasks"] = [task | {"train_decoder": False} for task in plans["tasks"]]  # the head alone, which has that rate
    path.write_text(json.dumps(plans))


def run(workspace: Workspace, **options: object) -> Path:
    return adapt_dataset(901, 1, workspace, **({"folds": [0], "structures": ["liver"], "device": "cpu"} | options))  # type: ignore[arg-type]


def folder_of(workspace: Workspace, fold: int = 0) -> Path:
    return fold_folder(workspace.model(NAME, FOUNDATION, "linear_probe", 1), "liver", fold)


def judge(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """The first so many attempts are judged as they are, and all others learned: two epochs on nine voxels a side are too few to learn from."""
    judged: list[int] = []

    def verdict(dice: np.ndarray, of_everything: np.ndarray, least_dice: float) -> str | None:
        judged.append(1)
        return why_not_learned(dice, of_everything, least_dice) if len(judged) <= failing else None

    monkeypatch.setattr("arena_pipeline.adapt.run.why_not_learned", verdict)


def test_a_fold_that_learns_nothing_twice_fails_and_is_not_tried_again(ready: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-d", "901", "-shots", "1", "-f", "0", "--structures", "liver", "-device", "cpu", "-w", str(ready.root)]
    assert main(command) == 2
    assert "liver, fold 0: failed, has not learned in 2 attempts" in capsys.readouterr().err
    folder = folder_of(ready)
    assert not (folder / "adapter.json").exists() and not (folder / "checkpoint.pt").exists()
    first, second = json.loads((folder / "attempts.json").read_text())["attempts"]
    assert (first["seed"], first["learning_rate"]) == ([0], ABSURD)
    assert (second["seed"], second["learning_rate"]) == ([0, 1], ABSURD / 2)
    assert "Dice on its own support set" in first["fault"] and "Dice on its own support set" in second["fault"]
    written = (folder / "attempts.json").stat().st_mtime_ns
    assert main([*command, "--continue"]) == 2
    assert (folder / "attempts.json").stat().st_mtime_ns == written
    edit_plans(ready, learning_rate=1e-3, judged_from_epochs=3)  # other settings are another adaptation, and two epochs now a trial
    assert main(command) == 0
    assert (folder / "adapter.json").exists() and not (folder / "attempts.json").exists()


def test_a_structure_that_collapsed_in_a_fit_that_is_kept_is_named_aloud(
    ready: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judge(monkeypatch, failing=0)  # as if another structure had learned
    record = read_adapter_record(fold_folder(run(ready), "liver", 0))
    assert record.attempts[-1].not_learned == ("liver",) and record.attempts[-1].fault is None
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert any(text.startswith("liver, fold 0: HAS NOT LEARNED liver (Dice ") for text in warned)


def test_the_other_folds_are_adapted_all_the_same(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(monkeypatch, failing=2)
    with pytest.raises(NotLearned, match="1 of 2 folds failed.*liver, fold 0"):
        run(ready, folds=[0, 1])
    assert (folder_of(ready, 1) / "adapter.json").exists()


def test_a_failed_fold_is_left_out_aloud_and_refused_by_number(ready: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotLearned):
        run(ready)
    model = ready.model(NAME, FOUNDATION, "linear_probe", 1)
    with pytest.raises(AdapterError, match="no finished fold"):
        load_model(model)
    assert "left out, their adaptation has not learned: liver, fold 0" in caplog.text
    with pytest.raises(AdapterError, match="fold 0 is not adapted.*failed, not learned: 0"):
        load_model(model, folds=[0], structures=["liver"])


def test_the_second_attempt_is_recorded_and_goes_on_after_ctrl_c(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(monkeypatch, failing=1)
    folder = fold_folder(run(ready), "liver", 0)
    record = read_adapter_record(folder)
    failed, learned = record.attempts
    assert failed.fault is not None and failed.seed == (0,) and failed.learning_rate == ABSURD
    assert learned.fault is None and learned.seed == (0, 1) and learned.learning_rate == ABSURD / 2
    assert record.settings.learning_rate == ABSURD  # the planned one: the fold is not adapted again
    expected = (folder / "adapter.safetensors").read_bytes()
    kept: list[int] = []
    keep = Checkpoints.keep

    def interrupt_in_the_second_attempt(self: Checkpoints) -> None:
        keep(self)
        kept.append(1)
        if len(kept) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "keep", interrupt_in_the_second_attempt)
    judge(monkeypatch, failing=1)
    with pytest.raises(KeyboardInterrupt):
        run(ready, overwrite=True)
    assert len(json.loads((folder / "attempts.json").read_text())["attempts"]) == 1
    run(ready, continue_unfinished=True)
    assert len(kept) == 4  # one epoch was left
    assert (folder / "adapter.safetensors").read_bytes() == expected
    assert [one.seed for one in read_adapter_record(folder).attempts] == [(0,), (0, 1)]
