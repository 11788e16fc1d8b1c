"""Small scans, and models of the packaged foundation whose adapters change nothing: their result is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arena_pipeline.foundations import load_preset, weights_file
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.model.adapter import Adapter, AdapterRecord, write_adapter
from arena_pipeline.model.task_head import head_module, pretrained_head
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.planning import InferencePlan, Plans, TaskPlan, WorkersPlan
from arena_pipeline.settings import AdaptationSettings
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
        head_module(network, load_preset(FOUNDATION).architecture).weight.mul_(20)
        head_module(network, load_preset(FOUNDATION).architecture).bias.zero_()
    save_file(network.state_dict(), folder / "arena_mini.safetensors")
    monkeypatch.setattr(foundations, "preset_folder", lambda: folder)


def voxels(folder: Path, case: str) -> np.ndarray:
    return read_segmentation(folder / f"{case}.nii.gz").array
