"""The main job as a person runs it: the three commands, as written, in a folder of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from arena_pipeline.model.adapter import read_adapter
from arena_pipeline.workspace import Workspace

BIN = Path(sys.executable).parent


def type_(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command line in `folder` with nothing but a path in its environment."""
    name, *arguments = command.split()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(BIN / name), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture
def folder(tmp_path: Path, tiny_dataset: Callable[..., Path]) -> Path:
    """A working folder with arena_workspace/raw/Dataset101_Tiny, five annotated cases, and in/ with two CTs, one in LPS and oblique."""
    made = tiny_dataset(dataset_id=101, cases=5)
    home = tmp_path / "a person's folder"
    shutil.copytree(made, home / "arena_workspace" / "raw" / made.name)
    (home / "in").mkdir()
    ct = nibabel.load(made / "imagesTs" / "query_0_0000.nii.gz")
    nibabel.save(ct, home / "in" / "patient_0000.nii.gz")
    angle = np.deg2rad(8)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.asarray(ct.dataobj), turn @ np.diag([-1.5, -1.5, 2.0, 1])), home / "in" / "oblique.nii.gz")
    return home


@pytest.mark.timeout(600)
def test_three_commands_as_written(folder: Path) -> None:
    planned = type_("arena_plan_and_preprocess -d 101", folder)
    assert planned.returncode == 0, planned.stderr
    workspace = Workspace(folder / "arena_workspace")
    plans = workspace.plans("Dataset101_Tiny", "arena_mini")
    edited = json.loads(plans.read_text())
    edited["tasks"] = edited["tasks"][:1]
    edited["adaptation"] |= {"max_epochs": 1, "patches_per_volume": 1}  # an edit that a person may make: a short run
    plans.write_text(json.dumps(edited))

    adapted = type_("arena_adapt -d 101 -shots 5", folder)
    assert adapted.returncode == 0, adapted.stderr
    model = workspace.model("Dataset101_Tiny", "arena_mini", "arena", 5)
    records = [read_adapter(model / "liver" / f"fold_{fold}").record for fold in (0, 1, 2)]
    assert [record.fold for record in records] == [0, 1, 2]
    assert all(sorted(record.support_ids) == [f"case_{i}" for i in range(5)] for record in records)
    for name in ("training_log.csv", "progress.png"):
        assert all((model / "liver" / f"fold_{fold}" / name).stat().st_size for fold in (0, 1, 2))

    predicted = type_("arena_predict -i in/ -o out/", folder)
    assert predicted.returncode == 0, predicted.stderr
    for case, source in (("patient", "patient_0000.nii.gz"), ("oblique", "oblique.nii.gz")):
        result, ct = nibabel.load(folder / "out" / f"{case}.nii.gz"), nibabel.load(folder / "in" / source)
        assert result.shape == ct.shape
        np.testing.assert_array_equal(result.affine, ct.affine)
        assert set(np.unique(np.asarray(result.dataobj))) <= {0, 1}
        assert (folder / "out" / "previews" / f"{case}.png").stat().st_size > 1000
    assert json.loads((folder / "out" / "labels.json").read_text())
    assert len(list((folder / "arena_workspace" / "logs").glob("*.json"))) == 3


def test_commands_out_of_order_say_what_to_run(folder: Path) -> None:
    adapted = type_("arena_adapt -d 101 -shots 5", folder)
    assert adapted.returncode == 2 and "run arena_plan_and_preprocess -d 101" in adapted.stderr
    predicted = type_("arena_predict -i in/ -o out/", folder)
    assert predicted.returncode == 2 and "arena_adapt" in predicted.stderr
    assert not (folder / "out").exists()
    assert "Traceback" not in adapted.stderr + predicted.stderr
