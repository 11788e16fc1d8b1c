"""arena_predict end to end on the packaged foundation, with adapters that change nothing: their result is known."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch

from arena_pipeline.cli.info import main as show_info
from arena_pipeline.cli.predict import main
from arena_pipeline.errors import AdapterError, ArenaError, DatasetError, FoundationError, PlansError, UnknownStructure
from arena_pipeline.foundations import load_preset, weights_file
from arena_pipeline.io.dataset import Case
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.io.lock import locked
from arena_pipeline.model.adapter import Adapter, AdapterRecord, write_adapter
from arena_pipeline.model.model_folder import choose_model
from arena_pipeline.model.task_head import head, pretrained_head
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.planning import InferencePlan, Plans, TaskPlan, WorkersPlan
from arena_pipeline.predict import job as prediction_job
from arena_pipeline.predict.case import volume_steps
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.postprocess import postprocess_segmentation_
from arena_pipeline.predict.probabilities import ProbabilityFile
from arena_pipeline.predict.review import read_review
from arena_pipeline.preprocess.dataset import PreprocessingJob, preprocess_case
from arena_pipeline.preprocess.masks import masks_file, read_masks
from arena_pipeline.settings import AdaptationSettings
from arena_pipeline.stages.ensemble import ensemble
from arena_pipeline.stages.info import info
from arena_pipeline.stages.postprocess import postprocess
from arena_pipeline.stages.predict import predict, predict_to_file
from arena_pipeline.workspace import Workspace, fold_folder

FOUNDATION = "arena_mini"
DATASET = "Dataset901_Tiny"
BINARY = {"background": 0, "liver": 1, "spleen": 2}


@pytest.fixture
def scans(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    """Two noisy bodies in LPS-like and sagittal storage; small, so that each is one window."""
    folder = tmp_path / "in put"
    rng = np.random.default_rng(7)
    for name, columns in (("a_0000", [(-4, 0, 0), (0, -5, 0), (0, 0, 6)]), ("b", [(0, 5, 0), (0, 0.3, -6), (4, 0, 0)])):
        array = rng.normal(0, 120, (30, 26, 22)).astype(np.int16)
        array[:3] = -1000
        affine = np.eye(4)
        affine[:3, :3] = np.array(columns).T
        affine[:3, 3] = (17, -40, 250)
        write_nifti(folder / f"{name}.nii.gz", array, affine)
    return folder


def make_model(
    workspace: Workspace, objective: str, shots: int = 5, folds: tuple[int, ...] = (0, 1), keep_largest: bool = False, dataset: str = DATASET
) -> Path:
    """A model folder whose adapters hold the foundation's own head rows and no other change."""
    preset = load_preset(FOUNDATION)
    weights = weights_file(preset, workspace.installed_foundation(FOUNDATION))
    network = load_foundation_network(preset, weights)
    labels = BINARY if objective == "binary" else {"background": 0, **preset.structures}
    groups = [{name: label} for name, label in labels.items() if label] if objective == "binary" else [preset.structures]
    tasks = tuple(_task_plan(group, objective, keep_largest) for group in groups)
    model = workspace.model(dataset, FOUNDATION, "arena", shots)
    plans = Plans(
        dataset_name=dataset, foundation=FOUNDATION, foundation_sha256=file_sha256(weights), objective=objective, labels=labels,
        scheme=preset.scheme, tasks=tasks, adaptation=AdaptationSettings(), inference=InferencePlan(window_batch=1),
        workers=WorkersPlan(preprocess=1, export=2), reasons={},
    )  # fmt: skip
    plans.write(model / "plans.json")
    for task in tasks:
        new = pretrained_head(network, preset, list(task.structures), softmax=objective == "multiclass")
        name = preset.architecture.head
        tensors = {f"weight.{name}.weight": new.weight, f"weight.{name}.bias": new.bias}
        for fold in folds:
            write_adapter(fold_folder(model, task.name, fold), Adapter(_record(plans, task, fold, shots), tensors))
    return model


def _task_plan(structures: dict[str, int], objective: str, keep_largest: bool) -> TaskPlan:
    name = next(iter(structures)) if objective == "binary" else "multiclass"
    keep = dict.fromkeys(structures, keep_largest)
    return TaskPlan(
        name=name, structures=structures, kind="base", train_decoder=False, head="pretrained", keep_largest=keep, candidates=("c",), max_shots=1
    )


def _record(plans: Plans, task: TaskPlan, fold: int, shots: int) -> AdapterRecord:
    return AdapterRecord(
        dataset_name=plans.dataset_name, foundation=plans.foundation, foundation_sha256=plans.foundation_sha256, plans_sha256="0",
        scheme=plans.scheme, inference=plans.inference, task=task.name, structures=task.structures, dataset_labels=plans.labels,
        activation=task.activation, kind=task.kind, train_decoder=False, head=task.head, keep_largest=task.keep_largest, fold=fold,
        shots=shots, support_ids=("c",) * shots, settings=plans.adaptation, effective_rank={}, trained_parameters=0, saved_parameters=0, epochs=1,
        stop_reason="", final_loss=0.5, seconds=1.0, versions={}, licence="CC0",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _lively_foundation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged preset with a small patch and random weights: noise gives all structures, whatever the shipped weights know."""
    from safetensors.torch import save_file

    import arena_pipeline.foundations.presets as foundations

    folder = tmp_path / "presets"
    folder.mkdir()
    for preset in Path(str(foundations.preset_folder())).glob("*.json"):
        shutil.copy(preset, folder)
    small = json.loads((folder / "arena_mini.json").read_text())
    small["scheme"] |= {"spacing_mm": [5, 5, 5], "patch_size_voxels": [64, 32, 32]}
    small["weights"]["sha256"] = None
    (folder / "arena_mini.json").write_text(json.dumps(small))
    torch.manual_seed(3)
    network = load_preset(FOUNDATION).architecture.build()
    with torch.no_grad():
        head(network, load_preset(FOUNDATION).architecture).weight.mul_(20)
        head(network, load_preset(FOUNDATION).architecture).bias.zero_()
    save_file(network.state_dict(), folder / "arena_mini.safetensors")
    monkeypatch.setattr(foundations, "preset_folder", lambda: folder)


def voxels(folder: Path, case: str) -> np.ndarray:
    return read_segmentation(folder / f"{case}.nii.gz").array


def test_an_unchanged_multiclass_model_predicts_what_zero_shot_does(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "multiclass")
    summary = predict(scans, tmp_path / "out", workspace)
    names = list(load_preset(FOUNDATION).structures)
    predict(scans, tmp_path / "zero", workspace, zero_shot=names, no_previews=True)
    assert list(summary.written) == ["a", "b"]
    for case in ("a", "b"):
        assert len(np.unique(voxels(tmp_path / "out", case))) > 3
        np.testing.assert_array_equal(voxels(tmp_path / "out", case), voxels(tmp_path / "zero", case))
        assert (tmp_path / "out" / "previews" / f"{case}.png").stat().st_size > 10_000
    assert LabelMap.read(tmp_path / "out").structures == load_preset(FOUNDATION).structures


def test_the_output_lies_where_the_ct_lies_for_nibabel_and_simpleitk(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary")
    predict(scans, tmp_path / "out", workspace)
    for source, case in ((scans / "a_0000.nii.gz", "a"), (scans / "b.nii.gz", "b")):
        output = tmp_path / "out" / f"{case}.nii.gz"
        np.testing.assert_allclose(nib.load(output).affine, nib.load(source).affine, atol=1e-5)
        assert nib.load(output).shape == nib.load(source).shape
        if case == "a":  # ITK refuses axes that are not at right angles, of the CT too
            ours, theirs = SimpleITK.ReadImage(str(output)), SimpleITK.ReadImage(str(source))
            np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)
            np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-4)


def test_zero_shot_of_some_lets_the_others_compete_and_takes_a_datasets_integers(
    workspace: Workspace, scans: Path, tmp_path: Path, tiny_dataset: Callable[..., Path]
) -> None:
    tiny_dataset(901)  # liver 1, spleen 2
    every = load_preset(FOUNDATION).structures
    predict(scans, tmp_path / "all", workspace, zero_shot=list(every), no_previews=True)
    full = voxels(tmp_path / "all", "a")
    predict(scans, tmp_path / "some", workspace, zero_shot=["spleen", "liver"], dataset_id=901, no_previews=True)
    np.testing.assert_array_equal(voxels(tmp_path / "some", "a"), np.select([full == every["liver"], full == every["spleen"]], [1, 2], 0))
    own = predict(scans, tmp_path / "own", workspace, zero_shot=["liver", "liver"], no_previews=True)
    assert own.labels == {"liver": 1}
    np.testing.assert_array_equal(voxels(tmp_path / "own", "a"), full == every["liver"])


def test_probabilities_saved_and_ensembled_give_the_segmentation_again(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "multiclass", folds=(0,))
    predict(scans, tmp_path / "out", workspace, save_probabilities=True, no_previews=True)
    file = ProbabilityFile(tmp_path / "out" / "a_probabilities.npz")
    channels = np.stack([file.read(name) for name in file.channels])
    assert file.channels[0] == "background" and channels.shape[1:] == (30, 26, 22)
    ensemble([tmp_path / "out"], tmp_path / "mean")
    differing = voxels(tmp_path / "mean", "a") != voxels(tmp_path / "out", "a")
    top = np.sort(channels, axis=0)
    assert (top[-1] - top[-2])[differing].max(initial=0) < 2e-3  # float16 decides near-ties otherwise, nothing else
    assert differing.mean() < 0.02


def test_masks_on_the_preprocessed_grid_for_the_published_protocol(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary")
    predict(scans, tmp_path / "out", workspace, save_preprocessed=True, no_previews=True)
    masks, grid = read_masks(masks_file(tmp_path / "out", "b"), ("liver", "spleen"))
    assert masks["liver"].shape == grid.cropped_shape and grid.native_shape == (30, 26, 22)


def test_the_largest_component_is_kept_where_the_plans_say_so(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", keep_largest=True)
    predict(scans, tmp_path / "raw", workspace, no_postprocessing=True, no_previews=True)
    predict(scans, tmp_path / "out", workspace, no_previews=True)
    postprocess(tmp_path / "raw", tmp_path / "later", model_folder=model)
    assert (voxels(tmp_path / "raw", "a") > 0).sum() > (voxels(tmp_path / "out", "a") > 0).sum() > 0
    np.testing.assert_array_equal(voxels(tmp_path / "later", "a"), voxels(tmp_path / "out", "a"))
    assert (tmp_path / "later" / "labels.txt").is_file()
    applied = [LabelMap.read(tmp_path / name).source["largest component alone"] for name in ("raw", "later", "out")]
    assert applied == ["of no structure", "liver, spleen", "liver, spleen"]
    with pytest.raises(PlansError, match="largest component alone liver, spleen, now of no structure"):
        predict(scans, tmp_path / "later", workspace, no_postprocessing=True, no_previews=True, continue_prediction=True)


def test_intensities_that_are_not_hu_are_a_warning_that_names_the_case(
    workspace: Workspace, tmp_path: Path, write_nifti: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    scaled = np.random.default_rng(7).random((20, 20, 20)).astype(np.float32)
    predict(write_nifti(tmp_path / "s.nii.gz", scaled), tmp_path / "out", workspace, zero_shot=["liver"], no_previews=True)
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert warning.startswith("s: intensities from ") and "not Hounsfield units (scaled to a small range?)" in warning


def test_an_unknown_structure_lists_those_of_a_multiclass_model_and_a_lost_file_is_told_before_the_cts(
    workspace: Workspace, scans: Path, tmp_path: Path
) -> None:
    model = make_model(workspace, "multiclass", folds=(0,))
    with pytest.raises(UnknownStructure, match="unknown structure livre; the model of Dataset901_Tiny has: .*liver"):
        predict(scans, tmp_path / "out", workspace, structures=["livre"])
    (fold_folder(model, "multiclass", 0) / "adapter.safetensors").unlink()
    with pytest.raises(AdapterError, match="multiclass: .*adapter.safetensors is missing"):
        predict(scans, tmp_path / "out", workspace)
    assert not (tmp_path / "out").exists()


def test_one_structure_of_several(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary")
    summary = predict(scans / "b.nii.gz", tmp_path / "out", workspace, structures=["spleen"], folds=[1], no_previews=True)
    assert summary.labels == {"spleen": 2}
    assert set(np.unique(voxels(tmp_path / "out", "b"))) <= {0, 2}


def test_continuing_redoes_only_what_is_missing_damaged_or_on_another_grid(
    workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make_model(workspace, "binary")
    out = tmp_path / "out"
    expected = {case: path.read_bytes() for case, path in predict(scans, out, workspace).written.items()}
    assert list(predict(scans, out, workspace, continue_prediction=True).kept) == ["a", "b"]
    (out / "a.nii.gz").write_bytes(expected["a"][: len(expected["a"]) // 2])
    summary = predict(scans, out, workspace, continue_prediction=True)
    assert (list(summary.written), list(summary.kept)) == (["a"], ["b"])
    (again,) = [message for message in caplog.messages if "predicted again" in message]
    assert "cut short or damaged" in again and "download" not in again
    np.testing.assert_array_equal(voxels(out, "a"), nib.Nifti1Image.from_bytes(_unzip(expected["a"])).get_fdata())
    with pytest.raises(PlansError, match="choose another output folder"):
        predict(scans, out, workspace, zero_shot=["liver"], continue_prediction=True)


def test_cases_that_the_model_was_adapted_on_are_named(workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All folds' support sets, per structure: the liver's second fold has seen b."""
    record = fold_folder(make_model(workspace, "binary"), "liver", 1) / "adapter.json"
    record.write_text(record.read_text().replace('"c"', '"b"'))
    predict(scans / "b.nii.gz", tmp_path / "out", workspace, no_previews=True)
    assert LabelMap.read(tmp_path / "out").support_ids == {"liver": ("b", "c"), "spleen": ("c",)}
    assert "the model was adapted on b: do not judge it by" in caplog.text


def test_review_names_what_to_look_at_and_keeps_the_lines_of_kept_cases(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    """Two equal folds agree in full (Dice 1); the spleen of the second support set is a hundredth of what is found."""
    model, out = make_model(workspace, "binary"), tmp_path / "out"
    first = predict(scans, out, workspace, no_previews=True)
    lines = {(line.case, line.structure): line for line in read_review(out / "review.csv")}
    assert set(lines) == {(case, name) for case in "ab" for name in ("liver", "spleen")} and first.review_file == out / "review.csv"
    geometry = read_segmentation(out / "a.nii.gz").geometry
    for (case, name), line in lines.items():
        assert line.volume_ml == pytest.approx(np.count_nonzero(voxels(out, case) == BINARY[name]) * geometry.voxel_volume_ml, abs=1e-3)
        assert line.fold_dice == 1 and "folds disagree" not in line.reasons
    record = fold_folder(model, "spleen", 1) / "adapter.json"
    small = round(lines["b", "spleen"].volume_ml / 100, 3)
    record.write_text(record.read_text().replace('"support_volumes_ml": {}', f'"support_volumes_ml": {{"spleen": [{small}]}}'))
    shutil.rmtree(out)
    predict(scans, out, workspace, no_previews=True)
    (out / "b.nii.gz").unlink()
    again = predict(scans, out, workspace, no_previews=True, continue_prediction=True)
    assert list(again.kept) == ["a"] and {line.case for line in again.review} == {"a", "b"}
    assert "large: " in next(line.reasons for line in again.review if (line.case, line.structure) == ("b", "spleen"))
    assert [str(line) for line in again.review] == [str(line) for line in read_review(out / "review.csv")]  # NaN equals nothing


def test_continuing_needs_to_know_what_made_the_segmentations(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary", folds=(0,))
    out = tmp_path / "out"
    predict(scans / "b.nii.gz", out, workspace, no_previews=True)
    labels = {name: (out / name).read_bytes() for name in ("labels.json", "labels.txt")}
    (out / "labels.txt").unlink()
    assert list(predict(scans / "b.nii.gz", out, workspace, no_previews=True, continue_prediction=True).kept) == ["b"]
    assert {name: (out / name).read_bytes() for name in labels} == labels
    (out / "labels.json").unlink()
    made = (out / "b.nii.gz").read_bytes()
    with pytest.raises(PlansError, match=r"out: its segmentations \(b\) have no labels.json beside them.*put it back, choose another output folder"):
        predict(scans, out, workspace, no_previews=True, continue_prediction=True)
    assert sorted(path.name for path in out.iterdir()) == ["b.nii.gz", "inputs.json", "journal", "labels.txt", "review.csv"]
    assert (out / "b.nii.gz").read_bytes() == made
    (out / "labels.json").write_text("{")
    with pytest.raises(PlansError, match=r"\(b\) have a damaged labels.json beside them"):
        predict(scans / "a_0000.nii.gz", out, workspace, no_previews=True)
    predict(scans / "b.nii.gz", out, workspace, no_previews=True)  # all that lies there is made anew
    assert json.loads((out / "labels.json").read_text())["labels"] == BINARY


def test_another_models_results_never_stand_beside_this_ones(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary", folds=(0,), keep_largest=True)
    out = tmp_path / "out"
    predict(scans, out, workspace, no_previews=True, save_probabilities=True)
    kept = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(PlansError, match=r"out: its .* \(a\) were made otherwise: model .*, now zero-shot; .* liver 1, now none; .*choose another"):
        predict(scans / "b.nii.gz", out, workspace, zero_shot=["spleen"], no_previews=True)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == kept
    (out / "summary.json").write_text("{}")
    predict(scans / "b.nii.gz", out, workspace, no_previews=True)  # the same model: only what this run makes anew is replaced
    beside = ["inputs.json", "journal", "labels.json", "labels.txt", "review.csv"]
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "a_probabilities.npz", "b.nii.gz", *beside]
    with pytest.raises(PlansError, match=r"\(a\) were made otherwise: inference overlap 0.25, .*, now overlap 0.5, "):
        predict(scans / "b.nii.gz", out, workspace, no_previews=True, step_size=0.5)
    with pytest.raises(PlansError, match=r"largest component alone .*, now of no structure"):
        predict(scans / "b.nii.gz", out, workspace, no_previews=True, no_postprocessing=True)
    (out / "metrics.csv").write_text("")
    predict(scans, out, workspace, zero_shot=["spleen"], no_previews=True)  # nothing of the other model would stay, so nothing does
    assert sorted(path.name for path in out.iterdir()) == [
        "a.nii.gz",
        "b.nii.gz",
        "inputs.json",
        "journal",
        "labels.json",
        "labels.txt",
        "review.csv",
    ]
    assert LabelMap.read(out).structures == {"spleen": 1}


def test_ensembles_and_post_processed_segmentations_are_not_mixed_with_others(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", folds=(0,))
    predict(scans / "b.nii.gz", tmp_path / "out", workspace, no_previews=True, save_probabilities=True)
    predict(scans / "a_0000.nii.gz", tmp_path / "zero", workspace, zero_shot=["spleen"], no_previews=True)
    with pytest.raises(PlansError, match=r"zero: its segmentations \(a\) were made otherwise"):
        ensemble([tmp_path / "out"], tmp_path / "zero")
    with pytest.raises(PlansError, match=r"zero: its segmentations \(a\) were made otherwise"):
        postprocess(tmp_path / "out", tmp_path / "zero", model_folder=model)
    assert sorted(path.name for path in (tmp_path / "zero").iterdir()) == [
        "a.nii.gz",
        "inputs.json",
        "journal",
        "labels.json",
        "labels.txt",
        "review.csv",
    ]


def test_support_cases_among_the_inputs_are_told_by_name_and_by_content(
    workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(workspace, "binary", folds=(0,))
    for name in ("liver", "spleen"):
        path = fold_folder(model, name, 0) / "adapter.json"
        path.write_text(path.read_text().replace('"c"', '"s9"'))
    (tmp_path / "in").mkdir()
    shutil.copy(scans / "b.nii.gz", tmp_path / "in" / "s9_0000.nii.gz")
    shutil.copy(scans / "b.nii.gz", tmp_path / "in" / "renamed.nii.gz")
    shutil.copy(scans / "a_0000.nii.gz", tmp_path / "in" / "new.nii.gz")

    def told() -> list[str]:
        caplog.clear()
        predict(tmp_path / "in", tmp_path / "out", workspace, no_previews=True)
        return [message.partition(":")[0] for message in caplog.messages if message.startswith("the model was adapted on ")]

    assert told() == ["the model was adapted on s9"]
    scheme = Plans.read(model / "plans.json").scheme
    preprocess_case(PreprocessingJob(Case("s9", scans / "b.nii.gz", None), scheme, workspace.cases(DATASET, FOUNDATION), {}))
    assert told() == ["the model was adapted on renamed (the file of s9), s9"]
    assert LabelMap.read(tmp_path / "out").support_ids == dict.fromkeys(("liver", "spleen"), ("s9", "renamed"))
    predict(scans / "a_0000.nii.gz", tmp_path / "out", workspace, no_previews=True)  # among whose inputs it is not
    assert LabelMap.read(tmp_path / "out").support_ids == dict.fromkeys(("liver", "spleen"), ("s9", "renamed"))


def test_each_fold_that_leaves_a_scan_out_is_missed(workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(workspace, "binary", folds=(0, 1, 2))
    for path in model.glob("liver/fold_*/adapter.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"support_ids": content["support_ids"][1:]}))
    predict(scans / "a_0000.nii.gz", tmp_path / "out", workspace, structures=["liver"], no_previews=True)
    assert "fold 3, 4 has no usable adapter" in caplog.text


def test_folds_that_are_missing_are_told(workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(workspace, "binary")
    shutil.rmtree(fold_folder(model, "spleen", 1))
    predict(scans / "a_0000.nii.gz", tmp_path / "out", workspace, no_previews=True)
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert warning.startswith("fold 1 has no usable adapter") and "the folds in brackets: spleen (0)." in warning
    caplog.clear()
    predict(scans / "b.nii.gz", tmp_path / "chosen", workspace, folds=[0], no_previews=True)
    assert "is planned" not in caplog.text


def test_zero_shot_keeps_the_largest_component_where_the_datasets_plans_say_so(
    workspace: Workspace, scans: Path, tmp_path: Path, tiny_dataset: Callable[..., Path]
) -> None:
    tiny_dataset(901)
    model = make_model(workspace, "binary", keep_largest=True)
    predict(scans, tmp_path / "raw", workspace, zero_shot=["liver"], no_previews=True)
    planned = workspace.plans(DATASET, FOUNDATION)
    planned.parent.mkdir(parents=True)
    shutil.copy(model / "plans.json", planned)
    predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], dataset_id=901, no_previews=True)
    expected = voxels(tmp_path / "raw", "a").copy()
    assert postprocess_segmentation_(expected, {"liver": 1}, {"liver": True})["liver"] > 0
    np.testing.assert_array_equal(voxels(tmp_path / "out", "a"), expected)


def test_a_model_folder_and_another_choice_beside_it_are_refused(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", folds=(0,))
    with pytest.raises(
        PlansError, match=r"arena_5shots: this model is not the one .*: -d 7, where the model has 901, -shots 3, .* 5; leave them out"
    ):
        predict(scans, tmp_path / "out", workspace, model_folder=model, dataset_id=7, shots=3)
    assert not (tmp_path / "out").exists()
    assert predict(scans / "b.nii.gz", tmp_path / "out", workspace, model_folder=model, dataset_id=901, no_previews=True).written


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


def test_whatever_is_damaged_is_predicted_again(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "multiclass", folds=(0, 1))
    out, wanted = tmp_path / "out", {"save_probabilities": True, "save_preprocessed": True, "save_uncertainty": True}
    predict(scans, out, workspace, **wanted)
    names = ("a.nii.gz", "previews/a.png", "a_probabilities.npz", "preprocessed/a.npz", "uncertainty/a_entropy.nii.gz")
    unsure, split = (nib.load(out / "uncertainty" / f"a_{name}.nii.gz") for name in ("entropy", "disagreement"))
    np.testing.assert_allclose(unsure.affine, nib.load(scans / "a_0000.nii.gz").affine, atol=1e-4)
    assert 0 < unsure.get_fdata().max() <= 1 and split.get_fdata().max() == 0  # both folds are the same
    assert all(line.boundary_entropy > 0 for line in read_review(out / "review.csv") if line.volume_ml > 1)
    whole = {name: (out / name).read_bytes() for name in names}
    for name, content in whole.items():
        middle = len(content) // 2
        (out / name).write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
        (out / ".unfinished.a.nii.gz.x.nii.gz").write_bytes(b"half")
        summary = predict(scans, out, workspace, continue_prediction=True, **wanted)
        assert (list(summary.written), list(summary.kept)) == (["a"], ["b"]), name
        assert (out / name).read_bytes()[:middle] == content[:middle]
    assert list(predict(scans, out, workspace, continue_prediction=True, **wanted).kept) == ["a", "b"]
    assert not list(out.glob(".*"))


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


def _unzip(content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content)


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


def test_without_a_model_the_error_says_what_to_run(workspace: Workspace, scans: Path, tmp_path: Path, tiny_dataset: Callable[..., Path]) -> None:
    with pytest.raises(AdapterError, match=r"put a dataset into .*raw"):
        predict(scans, tmp_path / "out", workspace)
    tiny_dataset(901)
    with pytest.raises(AdapterError, match="run: arena_plan_and_preprocess -d 901 -w .*, then arena_adapt -d 901 -shots 5 -w "):
        predict(scans, tmp_path / "out", workspace)
    assert not (tmp_path / "out").exists()


def test_of_several_models_each_ones_command_is_listed_and_works(
    workspace: Workspace, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    make_model(workspace, "binary", shots=5, folds=(0,))
    make_model(workspace, "binary", shots=10, folds=(0,))
    make_model(workspace, "binary", shots=5, folds=(0,), dataset="Dataset102_Other")
    typed = ["-i", str(scans), "-o", str(tmp_path / "out"), "-w", str(workspace.root)]
    assert main(typed) == 2
    message = capsys.readouterr().err
    commands = message[message.index(": arena_predict") + 2 :].split("; ")
    endings = [command.split(" ")[-4:] for command in commands]
    assert len(commands) == 3 and ["-d", "901", "-shots", "10\n"] not in endings
    assert sorted(shlex.split(command)[7:] for command in commands) == [["-d", "102"], ["-d", "901", "-shots", "10"], ["-d", "901", "-shots", "5"]]
    assert main([*shlex.split(commands[-1])[1:], "--no_previews", "-device", "cpu"]) == 0
    with pytest.raises(AdapterError, match="no adapted model with dataset 7"):
        predict(scans, tmp_path / "out", workspace, dataset_id=7)


def test_where_one_file_is_wanted_the_listed_commands_name_it(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    for shots in (5, 10):
        make_model(workspace, "binary", shots=shots, folds=(0,))
    with pytest.raises(AdapterError, match=rf"arena_predict -i .+ -o {tmp_path}/one.nii.gz -w .+ -d 901 -shots 10;"):
        predict_to_file(scans / "b.nii.gz", tmp_path / "one.nii.gz", workspace)
    with pytest.raises(DatasetError, match="one file, and -num_parts splits a folder"):
        predict_to_file(scans / "b.nii.gz", tmp_path / "one.nii.gz", workspace, shots=10, num_parts=2, part_id=1)
    predict_to_file(scans / "b.nii.gz", tmp_path / "one.nii.gz", workspace, shots=10)
    assert [path.name for path in tmp_path.glob("one*")] == ["one.nii.gz"]


def test_a_method_is_chosen_by_name_and_arena_without(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", folds=(0,))
    shutil.copytree(model, model.with_name("lora_5shots"))
    shutil.copytree(model, model.with_name("lora_10shots"))
    assert choose_model(workspace, "arena_predict", None, None, None) == model
    assert choose_model(workspace, "arena_predict", None, 5, None, "lora") == model.with_name("lora_5shots")
    with pytest.raises(AdapterError, match="2 adapted models fit.*-d 901 -shots 10 -method lora; .*-d 901 -shots 5 -method lora"):
        choose_model(workspace, "arena_predict", 901, None, None, "lora")
    with pytest.raises(AdapterError, match="no adapted model with method fft .*-d NUMBER -shots 5 -method fft -w .*There are: .*-d 901; "):
        predict(scans, tmp_path / "out", workspace, method="fft")
    with pytest.raises(
        AdapterError, match="run: arena_plan_and_preprocess -d 7 -foundation organs -w .* arena_adapt -d 7 -shots 5 -foundation organs "
    ):
        predict(scans, tmp_path / "out", workspace, dataset_id=7, foundation="organs")


def test_adapters_of_other_plans_are_left_out_and_told(
    workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(workspace, "binary")
    plans = Plans.read(model / "plans.json")
    plans.model_copy(update={"tasks": plans.tasks[:1]}).write(model / "plans.json")
    assert predict(scans / "b.nii.gz", tmp_path / "out", workspace, no_previews=True).labels == {"liver": 1}
    assert f"left out, adapted with other plans than {model / 'plans.json'}: spleen, folds 0, 1" in caplog.messages
    with pytest.raises(UnknownStructure, match="has: liver; left out, adapted with other plans than those of now: spleen, folds 0, 1"):
        predict(scans, tmp_path / "out", workspace, structures=["spleen"])
    assert (info(workspace).models[0].folds, info(workspace).models[0].of_other_plans) == ({"liver": (0, 1)}, {"spleen": (0, 1)})
    assert show_info(["-w", str(workspace.root)]) == 0
    assert "    of other plans, not used: spleen, folds 0, 1\n" in capsys.readouterr().out
    plans.model_copy(update={"labels": {**BINARY, "heart": 3}}).write(model / "plans.json")
    with pytest.raises(AdapterError, match="liver/fold_0: .* was made with other plans .*labels"):
        predict(scans, tmp_path / "out", workspace)
    assert info(workspace).models[0].next_command == workspace.command("arena_adapt", "-d", 901, "-foundation", FOUNDATION, "-shots", 5)


def test_arguments_that_name_nothing(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", folds=(0, 2))
    with pytest.raises(AdapterError, match=r"fold 1 is not adapted .*finished: 0, 2"):
        predict(scans, tmp_path / "out", workspace, folds=[0, 1])
    with pytest.raises(UnknownStructure, match="heart"):
        predict(scans, tmp_path / "out", workspace, structures=["heart"])
    with pytest.raises(AdapterError, match="not a model folder"):
        predict(scans, tmp_path / "out", workspace, model_folder=tmp_path)
    with pytest.raises(UnknownStructure, match=r"not pre-trained on heart.*knows: spleen"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["heart"])
    with pytest.raises(PlansError, match="leave out -method"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], method="lora")
    with pytest.raises(PlansError, match="leave out -shots, -m"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], shots=5, model_folder=model)
    with pytest.raises(FoundationError, match="no linear head"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], foundation="suprem_swinunetr")
    with pytest.raises(ArenaError, match="unknown device tpu"):
        predict(scans, tmp_path / "out", workspace, device="tpu")
    assert not (tmp_path / "out").exists()


def test_the_plans_of_the_model_folder_may_be_edited_but_not_misspelled(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary")
    content = json.loads((model / "plans.json").read_text())
    content["inference"]["overlapp"] = 0.5
    (model / "plans.json").write_text(json.dumps(content))
    with pytest.raises(PlansError, match=r"inference\.overlapp: unknown key"):
        predict(scans, tmp_path / "out", workspace)
