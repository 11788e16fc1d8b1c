"""The checkpoint of an nnU-Net v2 model: every tensor is read once and used, and all must fit the plans beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from arena_pipeline.errors import FoundationError
from arena_pipeline.model.checkpoint_files import read_checkpoint_file
from arena_pipeline.model.checkpoints import Match, match
from arena_pipeline.model.nnunet_folder import NnunetModel

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of a network in parallel or compiled
COPIES = ((r"^decoder\.encoder\.", "encoder."), (r"\.all_modules\.0\.", ".conv."), (r"\.all_modules\.\d+\.", ".norm."))
COARSE_HEAD = re.compile(r"decoder\.seg_layers\.\d+\.")
USUAL_TRAINER = "nnUNetTrainer"
V1_KEY, WEIGHTS_KEY = "state_dict", "network_weights"


def read_nnunet_checkpoint(model: NnunetModel) -> Match:
    """The tensors in the network's names. Nothing but tensors and plain values is read from the file.

    Raises:
        FoundationError: not a checkpoint of nnU-Net v2, damaged, of another configuration or other plans, or of a network of another kind.
    """
    content = read_checkpoint_file(model.checkpoint)
    if not isinstance(content, dict) or not isinstance(content.get(WEIGHTS_KEY), dict):
        what = "a checkpoint of nnU-Net v1" if isinstance(content, dict) and V1_KEY in content else "no checkpoint of nnU-Net v2"
        raise FoundationError(f"{what}: it has no {WEIGHTS_KEY}", file=model.checkpoint, advice="name a folder that nnU-Net v2 trained")
    _check_configuration(model, content)
    tensors, ignored = _once_each(model, content[WEIGHTS_KEY])
    found = match(model.preset, {WEIGHTS_KEY: tensors})
    if found.faults or found.unexpected:
        trainer = str(content.get("trainer_name", model.trainer))
        other = "" if trainer.startswith(USUAL_TRAINER) else f" (trainer {trainer} may build a network of its own)"
        raise FoundationError(
            f"does not fit the network of {model.folder / 'plans.json'}{other}: {'; '.join((*found.faults, *found.unexpected))}",
            file=model.checkpoint,
            advice="use the plans.json that the checkpoint was trained with; a trainer with another network can't be used",
        )
    return replace(found, ignored=(*found.ignored, *ignored))


def _check_configuration(model: NnunetModel, content: Mapping[str, Any]) -> None:
    made_for = content.get("init_args", {}).get("configuration", model.configuration)
    if made_for != model.configuration:
        raise FoundationError(
            f"was trained as configuration {made_for}, but lies in a folder of {model.configuration}",
            file=model.checkpoint,
            advice="put the checkpoint back into the folder that it was trained in",
        )


def _once_each(model: NnunetModel, weights: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without their copies, which must be equal; and the names of the heads of coarser levels, which served training alone."""
    tensors: dict[str, Tensor] = {}
    ignored = []
    for name, tensor in weights.items():
        own = WRAPPERS.sub("", name)
        for pattern, replacement in COPIES:
            own = re.sub(pattern, replacement, own)
        if COARSE_HEAD.match(own) and not own.startswith(f"{model.preset.architecture.head}."):
            ignored.append(name)
        elif own not in tensors:
            tensors[own] = tensor
        elif not torch.equal(tensors[own], tensor):
            found = f"{name} and {own} differ, where nnU-Net stores one tensor under both names"
            raise FoundationError(found, file=model.checkpoint, advice="copy the checkpoint again")
    return tensors, ignored
