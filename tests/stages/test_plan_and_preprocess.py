"""Raw dataset -> fingerprint -> plans -> preprocessed cases, on real files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.cli import plan as plan_command
from arena_pipeline.cli import plan_and_preprocess as command
from arena_pipeline.errors import DatasetError, FoundationError, PlansError
from arena_pipeline.io.json_files import differences
from arena_pipeline.planning import Plans
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.stages.extract_fingerprint import extract_fingerprint
from arena_pipeline.stages.plan import plan
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.preprocess import preprocess
from arena_pipeline.workspace import Workspace

MakeDataset = Callable[..., Path]
NAME = "Dataset901_Tiny"
FOUNDATION = "monai_btcv"
WEIGHTS = b"not read by planning, only checksummed"


@pytest.fixture
def prepared_for(workspace: Workspace) -> Workspace:
    """The workspace with a foundation installed."""
    folder = workspace.installed_foundation(FOUNDATION)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(WEIGHTS)
    return workspace


def run(workspace: Workspace, **options: object) -> Plans:
    """One dataset, in this process, on the CPU."""
    ((planned, _),) = plan_and_preprocess([901], workspace, device="cpu", workers=1, fingerprint_workers=1, **options)  # type: ignore[arg-type]
    return planned.plans


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_raw_dataset_becomes_ready(prepared_for: Workspace, tiny_dataset: MakeDataset) -> None:
    tiny_dataset()
    ((planned, stored),) = plan_and_preprocess([901], prepared_for, device="cpu", workers=1, fingerprint_workers=1)
    plans = Plans.read(prepared_for.plans(NAME, FOUNDATION))
    assert plans == planned.plans
    assert plans.foundation == FOUNDATION  # the only one beside arena_mini, and preferred to it
    assert "most preferred" in plans.reasons["foundation"]
    assert plans.foundation_sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert [(task.name, task.kind, task.max_shots) for task in plans.tasks] == [("liver", "base", 3), ("spleen", "base", 3)]
    assert plans.task("liver").candidates == ("case_0", "case_1", "case_2")
    assert plans.task("liver").keep_largest == {"liver": True}  # a cube is one component
    assert stored.cases == stored.written == ("case_0", "case_1", "case_2")
    for case in stored.cases:
        image = StoredCase.open(prepared_for.cases(NAME, FOUNDATION), case).image()
        assert image.dtype == np.float32
        assert 0 <= image.min() < image.max() <= 1


def test_a_second_run_writes_nothing(prepared_for: Workspace, tiny_dataset: MakeDataset) -> None:
    tiny_dataset()
    run(prepared_for)
    before = times(prepared_for.preprocessed)
    ((planned, stored),) = plan_and_preprocess([901], prepared_for, device="cpu", workers=1, fingerprint_workers=1)
    assert times(prepared_for.preprocessed) == before
    assert (planned.backup, stored.written) == (None, ())


def test_a_new_case_is_the_only_one_done(prepared_for: Workspace, tiny_dataset: MakeDataset, tmp_path: Path) -> None:
    folder = tiny_dataset()
    late = [folder / "imagesTr" / "case_2_0000.nii.gz", folder / "labelsTr" / "case_2.nii.gz"]
    for path in late:
        path.rename(tmp_path / path.name)
    assert run(prepared_for).task("liver").max_shots == 2
    before = times(prepared_for.cases(NAME, FOUNDATION))
    for path in late:
        (tmp_path / path.name).rename(path)
    ((planned, stored),) = plan_and_preprocess([901], prepared_for, device="cpu", workers=1, fingerprint_workers=1)
    assert planned.plans.task("liver").max_shots == 3
    assert stored.written == ("case_2",)
    assert before.items() <= times(prepared_for.cases(NAME, FOUNDATION)).items()


def test_edited_plans_are_followed_and_never_lost(prepared_for: Workspace, tiny_dataset: MakeDataset, caplog: pytest.LogCaptureFixture) -> None:
    tiny_dataset()
    run(prepared_for)
    path = prepared_for.plans(NAME, FOUNDATION)
    content = json.loads(path.read_text())
    content["adaptation"]["max_epochs"] = 7
    for task in content["tasks"]:
        task.update(candidates=["case_1"], max_shots=1)
    edited = json.dumps(content)
    path.write_text(edited)
    (stored,) = preprocess([901], prepared_for, workers=1)
    assert stored.cases == ("case_1",)
    assert path.read_text() == edited
    with caplog.at_level(logging.WARNING):
        run(prepared_for)
    assert Plans.read(path).adaptation.max_epochs == 200
    assert path.with_name("plans.json.bak").read_text() == edited
    assert "differed in tasks.liver.candidates, tasks.liver.max_shots" in caplog.text
    assert "adaptation.max_epochs" in caplog.text
    path.write_text("{}")
    run(prepared_for)
    assert path.with_name("plans.json.bak2").read_text() == "{}"
    assert path.with_name("plans.json.bak").read_text() == edited


def test_clean_does_everything_anew(prepared_for: Workspace, tiny_dataset: MakeDataset) -> None:
    tiny_dataset()
    run(prepared_for)
    stray = prepared_for.cases(NAME, FOUNDATION) / "stray.txt"
    stray.touch()
    ((_, stored),) = plan_and_preprocess([901], prepared_for, device="cpu", workers=1, fingerprint_workers=1, clean=True)
    assert len(stored.written) == 3
    assert not stray.exists()


def test_the_objective_of_an_nnunet_dataset_can_be_chosen(prepared_for: Workspace, tiny_dataset: MakeDataset) -> None:
    tiny_dataset(objective="multiclass")
    assert [task.name for task in run(prepared_for).tasks] == ["multiclass"]
    assert [task.name for task in run(prepared_for, objective="binary").tasks] == ["liver", "spleen"]


def test_what_is_missing_is_told_before_any_work(prepared_for: Workspace, tiny_dataset: MakeDataset) -> None:
    tiny_dataset()
    with pytest.raises(DatasetError, match="dataset 902: no folder"):
        plan_and_preprocess([901, 902], prepared_for, device="cpu")
    with pytest.raises(FoundationError, match="unknown foundation fseft2"):
        run(prepared_for, foundation="fseft2")
    with pytest.raises(FoundationError, match=r"fseft\.pth.*arena_install_foundation fseft"):
        plan([901], prepared_for, foundation="fseft", device="cpu")
    with pytest.raises(PlansError, match="arena_extract_fingerprint"):
        plan([901], prepared_for, device="cpu")
    with pytest.raises(PlansError, match="arena_plan_and_preprocess -d 901"):
        preprocess([901], prepared_for)
    assert not prepared_for.preprocessed.exists()


def test_a_dataset_without_any_label_is_refused(prepared_for: Workspace, tiny_dataset: MakeDataset, write_nifti: Callable[..., Path]) -> None:
    folder = tiny_dataset()
    for path in (folder / "labelsTr").iterdir():
        write_nifti(path, np.zeros((24, 24, 24), np.uint8))
    with pytest.raises(DatasetError, match=r"no training case in labelsTr can be used for liver, spleen .*empty: case_0"):
        run(prepared_for)
    assert not prepared_for.plans(NAME, FOUNDATION).exists()


def test_a_planned_case_that_is_gone_is_named(prepared_for: Workspace, tiny_dataset: MakeDataset) -> None:
    folder = tiny_dataset()
    run(prepared_for)
    (folder / "imagesTr" / "case_1_0000.nii.gz").unlink()
    (folder / "labelsTr" / "case_1.nii.gz").unlink()
    with pytest.raises(PlansError, match="case_1, expected cases of"):
        preprocess([901], prepared_for)


def test_findings_of_another_foundation_are_marked(prepared_for: Workspace, tiny_dataset: MakeDataset, caplog: pytest.LogCaptureFixture) -> None:
    tiny_dataset()
    extract_fingerprint([901], prepared_for, foundation="fseft", workers=1)
    plan([901], prepared_for, device="cpu")
    assert "about the scheme of fseft" in caplog.text


def test_an_old_fingerprint_is_refused(prepared_for: Workspace, tiny_dataset: MakeDataset) -> None:
    folder = tiny_dataset()
    extract_fingerprint([901], prepared_for, workers=1)
    (folder / "imagesTr" / "case_1_0000.nii.gz").unlink()
    (folder / "labelsTr" / "case_1.nii.gz").unlink()
    with pytest.raises(PlansError, match="the dataset has changed since; run arena_extract_fingerprint -d 901"):
        plan([901], prepared_for, device="cpu")


def test_the_command_prints_a_summary(prepared_for: Workspace, tiny_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_dataset()
    status = command.main(["-d", "901", "-w", str(prepared_for.root), "-np", "1", "-npfp", "1", "-device", "cpu"])
    printed = capsys.readouterr().out
    assert status == 0
    assert "adapted from monai_btcv\n" in printed
    assert "  base: decoder frozen, pretrained head, keeps the largest component, up to 3 shots\n    liver, spleen\n" in printed
    assert "3 cases preprocessed, 0 were there" in printed
    assert f"next: arena_adapt -d 901 -shots 3 -w '{prepared_for.root}'" in printed  # this path has a space
    assert plan_command.main(["-d", "901", "-w", str(prepared_for.root), "-device", "cpu"]) == 0
    assert "decoder frozen" in capsys.readouterr().out


def test_differences_name_what_differs() -> None:
    old = {"a": {"b": 1, "c": 2}, "tasks": [{"name": "liver", "max_shots": 3}], "reasons": {"a": "x"}}
    new = {"a": {"b": 1, "c": 3}, "tasks": [{"name": "liver", "max_shots": 5}], "reasons": {"a": "y"}}
    assert differences(old, new) == {"a.c": (2, 3), "tasks.liver.max_shots": (3, 5), "reasons.a": ("x", "y")}
    assert differences(old, {**old, "d": 4}) == {"d": (None, 4)}
    assert differences(old, old) == {}
