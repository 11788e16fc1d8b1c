"""A model whose texts are full of names of cases, and its package."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arena_pipeline.foundations import load_preset, weights_file
from arena_pipeline.io.dataset import DatasetJson, StructureSplit
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.model.adapter import Adapter, AdapterRecord, write_adapter
from arena_pipeline.model.checkpoints import skeleton
from arena_pipeline.planning import InferencePlan, Plans, TaskPlan, WorkersPlan
from arena_pipeline.settings import AdaptationSettings
from arena_pipeline.share.archive import REGULAR_FILE, YEAR_0
from arena_pipeline.stages.export_model import export_model
from arena_pipeline.workspace import Workspace, fold_folder

DATASET, FOUNDATION = "Dataset901_Tiny", "arena_mini"
CASES = ("SMITH_john", "pat0042", "1.2.840.113619", "o'neill", "case 0 (copy)")
LABELS = {"background": 0, "liver": 1, "left atrium": 2}
Change = Callable[[dict[str, bytes]], None]


def make_model(workspace: Workspace) -> Path:
    """A model of two tasks and two folds on arena_mini, its texts full of names of cases, as those of a real one are."""
    preset = load_preset(FOUNDATION)
    weights = weights_file(preset, workspace.installed_foundation(FOUNDATION))
    tasks = tuple(
        TaskPlan(name=name, structures={name: LABELS[name]}, kind="base", train_decoder=False, head="new", keep_largest={name: True},
                 candidates=CASES, max_shots=4)
        for name in ("liver", "left atrium")
    )  # fmt: skip
    plans = Plans(
        dataset_name=DATASET, foundation=FOUNDATION, foundation_sha256=file_sha256(weights), objective="binary", labels=LABELS, scheme=preset.scheme,
        tasks=tasks, adaptation=AdaptationSettings(rank=2), inference=InferencePlan(window_batch=1), workers=WorkersPlan(preprocess=1, export=1),
        reasons={"tasks.liver.keep_largest.liver": f"more than one component in {CASES[0]} (2), {CASES[3]} (3)"},
    )  # fmt: skip
    model = workspace.model(DATASET, FOUNDATION, "arena", 2)
    plans.write(model / "plans.json")
    DatasetJson(
        channel_names={"0": "CT"}, labels=LABELS, numTraining=4, file_ending=".nii.gz", objective="binary", annotated={CASES[1]: ("liver",)},
        split={"*": StructureSplit(train=CASES[:2], test=CASES[2:])}, source=f"/data/{CASES[0]}", licence="CC BY 4.0",
    ).write(model / "dataset.json")  # fmt: skip
    for task in tasks:
        for fold in (0, 1):
            write_adapter(fold_folder(model, task.name, fold), _adapter(plans, task, fold))
            (fold_folder(model, task.name, fold) / "training_log.csv").write_text(CASES[2])
    return model


def _adapter(plans: Plans, task: TaskPlan, fold: int) -> Adapter:
    """Random updates of rank 2 (key) and 0 (value) on every projection, and a random head."""
    generator = torch.Generator().manual_seed(10 * LABELS[task.name] + fold)
    network, tensors, ranks = skeleton(load_preset(FOUNDATION).architecture), {}, {}
    for name, weight in network.items():
        if name.endswith("attn.qkv.weight"):
            layer, channels = name.removesuffix(".weight"), weight.shape[1]
            for projection, rank in (("key", 2), ("value", 0)):
                ranks[f"{layer}.{projection}"] = rank
                tensors[f"update.{layer}.{projection}.A"] = torch.randn(rank, channels, generator=generator)
                tensors[f"update.{layer}.{projection}.B"] = torch.randn(channels, rank, generator=generator) * 0.01
                tensors[f"update.{layer}.{projection}.v"] = torch.ones(rank)
    tensors["weight.out.conv.conv.weight"] = torch.randn(1, 12, 1, 1, 1, generator=generator)
    tensors["weight.out.conv.conv.bias"] = torch.zeros(1)
    record = AdapterRecord(
        dataset_name=plans.dataset_name, foundation=plans.foundation, foundation_sha256=plans.foundation_sha256, plans_sha256="0" * 64,
        scheme=plans.scheme, inference=plans.inference, task=task.name, structures=task.structures, dataset_labels=plans.labels,
        activation=task.activation, kind=task.kind, train_decoder=False, head=task.head, keep_largest=task.keep_largest, fold=fold, shots=2,
        support_ids=CASES[fold : fold + 2], support_sha256="f" * 64, settings=plans.adaptation,
        effective_rank=ranks, trained_parameters=10, saved_parameters=10,
        epochs=3, stop_reason="last epoch", final_loss=0.5, seconds=1.0, versions={}, licence="Apache-2.0",
    )  # fmt: skip
    return Adapter(record, tensors)


@pytest.fixture
def other(tmp_path: Path) -> Workspace:
    """The workspace of somebody else, not made yet."""
    return Workspace(tmp_path / "elsewhere" / "their workspace")


@pytest.fixture
def package(workspace: Workspace, tmp_path: Path) -> Path:
    make_model(workspace)
    export_model(901, tmp_path / "model.zip", workspace, shots=2)
    return tmp_path / "model.zip"


def contents(package: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repacked(package: Path, change: Change) -> Path:
    """The package with other contents and honest checksums, as somebody who means harm would make it."""
    files = contents(package)
    change(files)
    manifest = json.loads(files.pop("manifest.json"))
    manifest["files"] = {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    changed = package.with_name("changed.zip")
    with zipfile.ZipFile(changed, "w") as archive:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            info = zipfile.ZipInfo(name, YEAR_0)
            info.create_system, info.external_attr = 3, REGULAR_FILE
            archive.writestr(info, content)
    return changed
