"""An adapted model as nnU-Net v2 model folders, one per task, which nnU-Net and the programs around it run without ARENA.

    OUT/Dataset101_TASK/nnUNetTrainer__nnUNetPlans__3d_fullres/
        plans.json dataset.json LICENCE.txt
        fold_N/checkpoint_final.pth   the foundation with the fold's adapter merged

nnU-Net decides by the highest channel. So a sigmoid task gets two, 0 and its logit (less that of the threshold): the same decision. One that
keeps the rows of a softmax head keeps them here too: it decides by the highest already.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arena_pipeline.errors import PackageError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.atomic import replace_when_done, write_json, write_text
from arena_pipeline.io.label_names import BACKGROUND
from arena_pipeline.io.space import require_space
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import AdapterRecord, read_adapter, read_adapter_record
from arena_pipeline.model.model_folder import AdaptedModel, AdaptedTask
from arena_pipeline.model.task_head import keeps_all_rows
from arena_pipeline.share.card import licence_notice
from arena_pipeline.share.export import manifest_of
from arena_pipeline.share.install import folder_in_place
from arena_pipeline.share.nnunet_plans import CONFIGURATION, NNUNET_MODEL_FOLDER, TRAINER, nnunet_plans, nnunet_tensors, require_unet
from arena_pipeline.share.package import LICENCE, Manifest

NO_DERIVATIVES = re.compile(r"\bND\b|no[- ]?deriv|no distribution of changed", re.IGNORECASE)
FLOAT_BYTES = 4


@dataclass(frozen=True)
class NnunetFolder:
    """What was written for one task. `labels`: name -> integer in what nnU-Net writes, background included."""

    path: Path
    task: str
    folds: tuple[int, ...]
    labels: dict[str, int]


def write_nnunet_folders(output: Path, model: AdaptedModel, preset: FoundationPreset, weights: Path, overwrite: bool) -> list[NnunetFolder]:
    """Writes one folder per task into `output`, each whole or not at all.

    Raises:
        PackageError: the licence forbids it, nnU-Net has no such network or prepares images otherwise, a folder is there already, or a text
            that goes along names a case.
    """
    records = [read_adapter_record(folder) for task in model.tasks for folder in task.folds.values()]
    manifest = manifest_of(model, preset, records)
    if NO_DERIVATIVES.search(manifest.licence):
        found = f"the licence of {preset.name} forbids to give changed weights away, and these folders would hold them: {manifest.licence}"
        raise PackageError(found, advice="export the adapters alone: arena_export_model -o model.zip")
    architecture = require_unet(preset)
    targets = {task.record.task: output / f"{manifest.dataset_name[:10]}_{task.record.task}" for task in model.tasks}
    if there := [str(folder) for folder in targets.values() if folder.exists() and not overwrite]:
        raise PackageError(f"{', '.join(there)} is there already", file=output, advice="choose another folder, or add --overwrite")
    require_space(output, FLOAT_BYTES * architecture.parameters * len(records), "the export")
    network = AdaptedNetwork(preset, weights, torch.device("cpu"))
    return [_write_task(targets[task.record.task], task, model, network, manifest) for task in model.tasks]


def _write_task(target: Path, task: AdaptedTask, model: AdaptedModel, network: AdaptedNetwork, manifest: Manifest) -> NnunetFolder:
    record, preset = task.record, network.preset
    architecture = require_unet(preset)
    names = channel_names(record, preset)
    labels = {name: number for number, name in enumerate(names)}
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": record.shots,
        "file_ending": ".nii.gz",
        "name": target.name,
        "description": f"{preset.name} adapted to {', '.join(record.structures)}: {record.settings.method}, {record.shots} shots, arena-pipeline",
        "reference": preset.citation,
        "licence": manifest.licence,
    }
    plans = nnunet_plans(target.name, architecture.model_copy(update={"out_channels": len(names)}), record.scheme)
    with folder_in_place(target, overwrite=True) as folder:
        place = folder / NNUNET_MODEL_FOLDER
        write_json(place / "plans.json", plans)
        write_json(place / "dataset.json", dataset)
        write_text(place / LICENCE, licence_notice(manifest, preset))
        for fold, adapter in task.folds.items():
            state = network.select(read_adapter(adapter)).state_dict()
            tensors = nnunet_tensors(_with_two_channels(state, record, preset, model.inference.threshold), architecture)
            with replace_when_done(place / f"fold_{fold}" / "checkpoint_final.pth") as temporary:
                torch.save(_checkpoint(tensors, plans, dataset, record, fold), temporary)
    return NnunetFolder(target / NNUNET_MODEL_FOLDER, record.task, tuple(task.folds), labels)


def channel_names(record: AdapterRecord, preset: FoundationPreset) -> list[str]:
    """What nnU-Net's channels are, in their order."""
    own = list(record.structures)
    if not keeps_all_rows(preset, record.activation, record.head):
        return [BACKGROUND, *own]
    return [BACKGROUND, *own, *(name for name in sorted(preset.structures, key=lambda name: preset.structures[name]) if name not in own)]


def _with_two_channels(state: dict[str, Tensor], record: AdapterRecord, preset: FoundationPreset, threshold: float) -> dict[str, Tensor]:
    """The state with a head whose highest channel decides as the task's activation does; background first, the structure next."""
    if record.activation == "softmax":
        return state
    head = preset.architecture.head
    weight, bias = state[f"{head}.weight"], state[f"{head}.bias"].clone()
    bias[0] -= math.log(threshold / (1 - threshold))
    if keeps_all_rows(preset, record.activation, record.head):
        order: Sequence[int] = [1, 0, *range(2, len(bias))]  # the structure's row is the first there
        return state | {f"{head}.weight": weight[order], f"{head}.bias": bias[order]}
    zero = torch.zeros_like
    return state | {f"{head}.weight": torch.cat((zero(weight), weight)), f"{head}.bias": torch.cat((zero(bias), bias))}


def _checkpoint(tensors: dict[str, Tensor], plans: dict[str, Any], dataset: dict[str, Any], record: AdapterRecord, fold: int) -> dict[str, Any]:
    return {
        "network_weights": {name: tensor.contiguous() for name, tensor in tensors.items()},
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": record.epochs,
        "init_args": {"plans": plans, "configuration": CONFIGURATION, "fold": fold, "dataset_json": dataset},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": None,  # ARENA mirrors nothing: structures have sides
    }
