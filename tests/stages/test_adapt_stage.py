"""arena_adapt on real files: what it writes, keeps and refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arena_pipeline.adapt import run as stage
from arena_pipeline.cli.adapt import main
from arena_pipeline.errors import DatasetError, PlansError, SupportSetError, UnknownStructure
from arena_pipeline.io.splits import draw_support_set
from arena_pipeline.machine import Machine
from arena_pipeline.model.adapter import read_adapter
from arena_pipeline.model.model_folder import load_model
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.workspace import Workspace, fold_folder

MakeDataset = Callable[..., Path]


@pytest.fixture
def ready(workspace: Workspace, tiny_dataset: MakeDataset) -> Workspace:
    """Three cases, planned and preprocessed for arena_mini, with a short schedule in the plans."""
    tiny_dataset(cases=3)
    plan_and_preprocess([901], workspace, device="cpu", workers=1, fingerprint_workers=1)
    plans = workspace.plans("Dataset901_Tiny", "arena_mini")
    edited = json.loads(plans.read_text())
    edited["adaptation"] |= {"max_epochs": 2, "patches_per_volume": 1}
    plans.write_text(json.dumps(edited))
    return workspace


def run(workspace: Workspace, **options: object) -> Path:
    return adapt_dataset(901, 1, workspace, **({"folds": [0], "structures": ["liver"], "device": "cpu"} | options))  # type: ignore[arg-type]


def test_a_fold_is_written_whole_and_described(ready: Workspace) -> None:
    model = run(ready)
    folder = fold_folder(model, "liver", 0)
    adapter = read_adapter(folder)
    record = adapter.record
    assert record.support_ids == draw_support_set(("case_0", "case_1", "case_2"), 1, 0)
    # The cube's voxels 2-7, 3-7, 4-7 of 1.5 mm: of the points 4 mm apart, 2 x 2 x 1 lie in it, 0.064 ml each.
    assert record.support_volumes_ml == {"liver": (0.256,)}
    assert record.saved_parameters == sum(tensor.numel() for tensor in adapter.tensors.values())
    assert (record.epochs, record.kind, record.train_decoder, record.head) == (2, "base", True, "pretrained")
    assert record.licence and record.versions["torch"]
    rows = list(csv.DictReader((folder / "training_log.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [0, 1]
    assert rows[-1]["effective_rank"] == str(sum(record.effective_rank.values()))
    assert (folder / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((model / "plans.json").read_text())["adaptation"]["max_epochs"] == 2


def test_a_picture_that_fails_costs_no_adapter_and_the_callers_process_keeps_its_allocator(
    ready: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    allocator: list[bool] = []
    monkeypatch.setattr(stage, "plot_progress", broken)
    monkeypatch.setattr("arena_pipeline.stages.adapt.keep_freed_memory", lambda: allocator.append(True))
    folder = fold_folder(run(ready), "liver", 0)
    assert read_adapter(folder).record.epochs == 2 and not (folder / "progress.png").exists()
    assert "progress.png: not drawn: no font" in caplog.text
    assert not allocator, "glibc's settings are process-wide: a command or a worker sets them, the Python API never"


def test_finished_folds_are_kept_until_settings_change(ready: Workspace) -> None:
    folder = fold_folder(run(ready), "liver", 0)
    written = (folder / "adapter.safetensors").stat().st_mtime_ns
    run(ready)
    assert (folder / "adapter.safetensors").stat().st_mtime_ns == written
    (folder / "adapter.safetensors").write_bytes(b"damaged")
    run(ready)  # a damaged fold is not a finished one
    assert read_adapter(folder).record.settings.rank == 8
    run(ready, rank=2)
    assert read_adapter(folder).record.settings.rank == 2


def test_overwriting_gives_the_same_bits(ready: Workspace) -> None:
    folder = fold_folder(run(ready), "liver", 0)
    first = read_adapter(folder).tensors
    again = read_adapter(fold_folder(run(ready, overwrite=True), "liver", 0)).tensors
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_refusals_come_before_anything_is_written(ready: Workspace) -> None:
    with pytest.raises(UnknownStructure, match="liver"):
        run(ready, structures=["heart"])
    with pytest.raises(SupportSetError, match="3"):
        adapt_dataset(901, 5, ready, folds=[0], structures=["liver"], device="cpu")
    with pytest.raises(SupportSetError, match="no task has 5 usable training cases, the most is 3"):
        adapt_dataset(901, 5, ready, folds=[0], device="cpu")
    with pytest.raises(PlansError, match="rank 999: Input should be less than or equal to 512"):
        run(ready, rank=999)
    assert not ready.results.exists()


def test_plans_for_other_weights_are_refused(ready: Workspace) -> None:
    plans = ready.plans("Dataset901_Tiny", "arena_mini")
    plans.write_text(plans.read_text().replace(json.loads(plans.read_text())["foundation_sha256"], "0" * 64))
    with pytest.raises(PlansError, match="made for other weights of arena_mini"):
        run(ready)


def test_cases_of_another_scheme_are_refused(ready: Workspace) -> None:
    plans = ready.plans("Dataset901_Tiny", "arena_mini")
    edited = json.loads(plans.read_text())
    edited["scheme"]["window_hu"] = [-100.0, 200.0]
    plans.write_text(json.dumps(edited))
    with pytest.raises(PlansError, match="case_.: preprocessed by another scheme .* run arena_preprocess"):
        run(ready)
    assert not ready.results.exists()


def test_a_label_corrected_after_preprocessing_is_refused_with_what_to_run(ready: Workspace, write_nifti: Callable[..., Path]) -> None:
    (case,) = draw_support_set(("case_0", "case_1", "case_2"), 1, 0)
    corrected = np.zeros((24, 24, 24), np.uint8)
    corrected[4:14, 4:14, 4:14] = 1
    write_nifti(ready.raw_dataset("Dataset901_Tiny") / "labelsTr" / f"{case}.nii.gz", corrected)
    with pytest.raises(DatasetError, match=rf"labelsTr/{case}.nii.gz; run arena_plan_and_preprocess -d 901 .*-foundation arena_mini"):
        run(ready)
    assert not ready.results.exists()
    plan_and_preprocess([901], ready, device="cpu", workers=0, fingerprint_workers=0)
    assert len(StoredCase.open(ready.cases("Dataset901_Tiny", "arena_mini"), case).labels) == 1
    run(ready, max_epochs=1)


def test_an_edited_task_is_adapted_again(ready: Workspace) -> None:
    folder = fold_folder(run(ready), "liver", 0)
    plans = ready.plans("Dataset901_Tiny", "arena_mini")
    edited = json.loads(plans.read_text())
    edited["tasks"][0] |= {"train_decoder": False}
    plans.write_text(json.dumps(edited))
    run(ready)
    assert not read_adapter(folder).record.train_decoder


def test_plans_that_adapters_need_are_kept_and_told(ready: Workspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    model = run(ready, structures=["spleen"])
    older = (model / "plans.json").read_bytes()
    plans = ready.plans("Dataset901_Tiny", "arena_mini")
    edited = json.loads(plans.read_text())
    edited["tasks"] = [task for task in edited["tasks"] if task["name"] == "liver"]
    plans.write_text(json.dumps(edited))
    monkeypatch.setattr(stage, "SECONDS_BETWEEN_LINES", 0)
    caplog.set_level("INFO")
    run(ready)
    (told,) = [message for message in caplog.messages if "older plans" in message]
    kept = model / f"plans_{read_adapter(fold_folder(model, 'spleen', 0)).record.plans_sha256[:12]}.json"
    assert "will be ignored or replaced: spleen, fold 0. To keep using" in told and kept.name in told
    assert kept.read_bytes() == older
    assert [text.split(", loss")[0] for text in caplog.messages if ": epoch " in text] == ["liver, fold 0: epoch 1 of 2"]
    copy = model.rename(model.with_name("copy"))
    (copy / kept.name).rename(copy / "plans.json")
    assert [task.record.task for task in load_model(copy).tasks] == ["liver", "spleen"]


def test_another_method_has_its_own_folder_rank_and_next_command(ready: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["-d", "901", "-shots", "1", "-f", "0", "--structures", "liver", "-device", "cpu", "-w", str(ready.root)]
    assert main([*typed, "-method", "lora"]) == 0
    assert "-shots 1 -method lora" in capsys.readouterr().out
    record = read_adapter(fold_folder(ready.model("Dataset901_Tiny", "arena_mini", "lora", 1), "liver", 0)).record
    assert (record.settings.method, record.settings.rank, set(record.effective_rank.values())) == ("lora", 12, {12})
    assert record.trained_parameters == 48 * 360 + 1_224_864 + 15 * 13  # widths of 12 to 96, two blocks each; the decoder; the rows of the head
    with pytest.raises(SystemExit):
        main([*typed, "-method", "lora9"])
    assert "'arena', 'arena_gradient', 'arena_adamw', 'lora'" in capsys.readouterr().err
    with pytest.raises(PlansError, match="unknown method lora9; known: arena, "):
        run(ready, method="lora9")


@pytest.mark.parametrize("recompute", [True, False])
def test_activations_are_computed_again_where_the_plan_says_so(ready: Workspace, monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    plans = ready.plans("Dataset901_Tiny", "arena_mini")
    edited = json.loads(plans.read_text())
    edited["adaptation"] |= {"recompute_activations": recompute}
    plans.write_text(json.dumps(edited))
    changed = []
    monkeypatch.setattr(stage, "recompute_activations_", lambda network, architecture: changed.append(architecture))
    run(ready)
    assert len(changed) == recompute


def test_a_small_machine_saves_memory_says_so_and_makes_the_same_adapter(
    ready: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = read_adapter(fold_folder(run(ready), "liver", 0))
    assert "of a volume" not in caplog.text, "where all patches fit, there is nothing to say"
    monkeypatch.setattr(stage, "this_machine", lambda device: Machine(memory_bytes=int(1.2 * 2**30), device_memory_bytes=None, cores=2))
    again = read_adapter(fold_folder(run(ready, overwrite=True), "liver", 0))
    assert "so activations are computed twice" in caplog.text
    assert again.record.settings == first.record.settings, "an adapter does not belong to one machine"
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in first.tensors.items())
