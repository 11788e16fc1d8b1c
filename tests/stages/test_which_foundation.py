"""Which of several foundations that are preferred alike a dataset is planned on: by names, else by a linear probe."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from arena_pipeline.foundations import load_preset
from arena_pipeline.foundations.anatomy import by_anatomy, region_of
from arena_pipeline.stages import plan_and_preprocess as stage
from arena_pipeline.stages.install_foundation import install_model_folder
from arena_pipeline.workspace import Workspace

FIXTURE = Path(__file__).parents[1] / "fixtures" / "nnunet" / "plain"
PARTS = {"organs": {"liver": 1, "spleen": 2, "pancreas": 3}, "cardiac": {"heart": 1, "aorta": 2, "atrial_appendage_left": 3}}


@pytest.fixture
def parts(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with two foundations of the same preference, each with structures of its own."""
    for number, (name, structures) in enumerate(PARTS.items(), start=291):
        folder = tmp_path / f"Dataset{number}_{name}" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        shutil.copytree(FIXTURE, folder)
        dataset = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(dataset | {"labels": {"background": 0, **structures}}))
        install_model_folder(folder, workspace, name)
    return workspace


def rename_labels(raw: Path, *names: str) -> None:
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(content | {"labels": {"background": 0, **{name: i for i, name in enumerate(names, start=1)}}}))


@pytest.mark.parametrize(
    ("structure", "word"),
    [("liver_cyst", "organs"), ("Pulmonary artery", "vessels"), ("lung-nodule", "organs"), ("rib_left_4", "ribs"), ("vertebrae_L1", "spine"),
     ("gluteus_maximus", "muscles"), ("liver_vessels", "organs"), ("lung_vessels", "organs"), ("splenic_artery", "organs"), ("renal_vein", "organs"),
     ("iliac_artery_left", "heart"), ("iliac_vena_left", "heart"), ("portal_vein_and_splenic_vein", "heart"), ("coronary_arteries", "heart"),
     ("sternocleidomastoid_right", "muscles"), ("sternum", "ribs")],
)  # fmt: skip
def test_regions(structure: str, word: str) -> None:
    assert word in str(region_of(structure))


def test_names_decide_where_they_can(parts: Workspace) -> None:
    presets = {name: load_preset(name, parts.foundations) for name in PARTS}
    assert by_anatomy(presets, ["spleen"]) == ("organs", "organs was pre-trained on spleen")
    reason = "renal_cyst belongs to the organs of chest and abdomen by name, as do 100 % of the structures that organs was pre-trained on"
    assert by_anatomy(presets, ["renal_cyst"]) == ("organs", reason)
    assert by_anatomy(presets, ["valve"]) is not None and by_anatomy(presets, ["valve"])[0] == "cardiac"  # type: ignore[index]
    assert by_anatomy(presets, ["thing"]) is None and by_anatomy(presets, ["spleen", "heart"]) is None


def test_a_linear_probe_decides_where_names_do_not(
    parts: Workspace, tiny_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rename_labels(tiny_dataset(cases=2, size=48), "valve", "thing")
    ((planned, _),) = stage.plan_and_preprocess([901], parts, device="cpu", workers=0, fingerprint_workers=0)
    assert planned.plans.foundation == "cardiac" and "belong to the heart" in planned.plans.reasons["foundation"]
    rename_labels(tiny_dataset(902, cases=2, size=48), "thing", "other")
    monkeypatch.setattr(stage, "PROBE_EPOCHS", 1)
    monkeypatch.setattr(stage, "PROBE_CASES", 1)
    ((planned, _),) = stage.plan_and_preprocess([902], parts, device="cpu", workers=0, fingerprint_workers=0)
    reason = planned.plans.reasons["foundation"]
    found = re.fullmatch(r"lowest training loss of a linear probe, 1 epoch on 1 case \(cardiac (\d\.\d+), organs (\d\.\d+)\)", reason)
    assert found is not None
    losses = {"cardiac": float(found[1]), "organs": float(found[2])}
    assert losses[planned.plans.foundation] == min(losses.values())
    assert not list(parts.root.glob(".probe.*"))
    monkeypatch.setattr(stage, "adapt_dataset", None)  # not again
    ((again, _),) = stage.plan_and_preprocess([902], parts, device="cpu", workers=0, fingerprint_workers=0)
    assert again.plans == planned.plans
