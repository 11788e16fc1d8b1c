"""Folds that leave scans out, end to end on tiny data: none sees what it is scored on, and arena_adapt ends with the Dice to expect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from arena_pipeline.cli.adapt import main
from arena_pipeline.errors import SupportSetError
from arena_pipeline.evaluate.metrics import overlap
from arena_pipeline.io import parallel
from arena_pipeline.model.adapter import read_adapter_record
from arena_pipeline.model.expected import EXPECTED
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace, fold_folder

SCANS = ("case_0", "case_1", "case_2")


def test_members_on_the_scans_that_they_have_not_seen(
    workspace: Workspace, tiny_dataset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny_dataset(cases=3)
    plan_and_preprocess([901], workspace, device="cpu", workers=1, fingerprint_workers=1)
    plans = workspace.plans("Dataset901_Tiny", "arena_mini")
    edited = json.loads(plans.read_text()) | {"folds_of_all": "leave_one_out"}
    edited["adaptation"] |= {"max_epochs": 1, "patches_per_volume": 1}
    edited["scheme"]["patch_size_voxels"] = [64, 32, 32]
    edited["inference"]["threshold"] = 1e-20  # one epoch teaches nothing: so low that something is found all the same
    plans.write_text(json.dumps(edited))
    assert main(["-d", "901", "-shots", "3", "--structures", "liver", "-device", "cpu", "-w", str(workspace.root)]) == 0
    assert "liver: expected Dice 0." in capsys.readouterr().out
    model = workspace.model("Dataset901_Tiny", "arena_mini", "arena", 3)
    dice = []
    for fold, scan in enumerate(SCANS):
        assert read_adapter_record(fold_folder(model, "liver", fold)).support_ids == tuple(other for other in SCANS if other != scan)
        predict(
            raw / "imagesTr" / f"{scan}_0000.nii.gz", tmp_path / scan, workspace, model_folder=model, folds=[fold], device="cpu", no_previews=True
        )
        masks = (np.asanyarray(nibabel.load(place / f"{scan}.nii.gz").dataobj) == 1 for place in (raw / "labelsTr", tmp_path / scan))
        dice.append(overlap(*masks).dice)
    (written,) = json.loads((model / "liver" / EXPECTED).read_text())["expected"]
    assert written["Dice"] == pytest.approx(np.mean(dice)) and written["scans"] == 3 and written["verdict"]
    in_one_process = (model / "liver" / EXPECTED).read_bytes()
    (model / "liver" / EXPECTED).unlink()
    pools, pool = list[str](), parallel.Pool
    monkeypatch.setattr(parallel, "Pool", lambda function, jobs, settings, stage: pools.append(stage) or pool(function, jobs, settings, stage))
    adapt_dataset(901, 3, workspace, structures=["liver"], device="cpu", workers=2)  # the folds are kept, and scored by two processes
    assert pools == ["left-out scans"] and (model / "liver" / EXPECTED).read_bytes() == in_one_process
    (model / "liver" / EXPECTED).write_text('{"expected": []}')
    adapt_dataset(901, 3, workspace, structures=["liver"], folds=[1], device="cpu", overwrite=True)
    (again,) = json.loads((model / "liver" / EXPECTED).read_text())["expected"]  # of all folds that are there, whichever command made them
    assert again["scans"] == 3
    with pytest.raises(SupportSetError, match="liver: fold 3 asked for, but each of the 3 folds"):
        adapt_dataset(901, 3, workspace, structures=["liver"], folds=[3], device="cpu")
