"""Networks of a few channels, and their weights in the layouts of published checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from arena_pipeline.foundations import FoundationPreset, load_preset
from arena_pipeline.model.architectures import SwinUnetr

State = dict[str, Tensor]
INDEX = "relative_position_index"
CLIP_HEADS = {
    "organ_embedding": torch.zeros(32, 8),
    "precls_conv.0.weight": torch.ones(4),
    "GAP.0.weight": torch.ones(4),
    "controller.weight": torch.ones(4, 8),
    "text_to_vision.weight": torch.ones(8, 8),
}


def tiny(name: str) -> FoundationPreset:
    """The preset of a foundation with a network, spacing and patch that fit a test."""
    preset = load_preset(name)
    network = preset.architecture.model_copy(update={"feature_size": 12, "window_size_voxels": (2, 2, 2)})
    scheme = preset.scheme.model_copy(update={"patch_size_voxels": (64, 32, 32)})
    adaptation = preset.adaptation.model_copy(update={"patches_per_volume": 1, "rank": 2, "max_epochs": 1})
    weights = preset.weights.model_copy(update={"packaged": None})
    return preset.model_copy(update={"architecture": network, "scheme": scheme, "adaptation": adaptation, "weights": weights})


def trained(architecture: SwinUnetr) -> nn.Module:
    """A network whose every weight is its own, the norms' and biases' too."""
    torch.manual_seed(0)
    network = architecture.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def write_fseft(state: State, prefix: str = "") -> State:
    return {prefix + name.replace("out.conv.conv.", "classifier."): tensor for name, tensor in state.items()}


def write_fseft_parallel(state: State) -> State:
    return write_fseft(state, "module.") | {"module.out.conv.conv.bias": torch.ones(2)}  # of the backbone, left unused


def write_suprem(state: State, prefix: str = "module.backbone.") -> dict[str, Any]:
    heads = {f"module.{name}": tensor for name, tensor in CLIP_HEADS.items()}
    net = {prefix + name: tensor for name, tensor in state.items() if not name.startswith("out.")}
    return {"net": net | heads, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "scheduler": {"last_epoch": 3}, "epoch": 2100}


def write_clip(state: State) -> dict[str, Any]:
    return write_suprem(state, "module.")


def write_monai(state: State) -> dict[str, Any]:
    return {"state_dict": state, "epoch": 5000}


def write_ssl(state: State, prefix: str = "module.") -> dict[str, Any]:
    encoder = {name.replace("mlp.linear", "mlp.fc"): tensor for name, tensor in state.items() if name.startswith("swinViT.")}
    bare = {name.replace("swinViT.", prefix): tensor for name, tensor in encoder.items()}
    return {"state_dict": bare | {"module.rotation_head.weight": torch.ones(4, 4), "module.norm.weight": torch.ones(4)}}


def write_old_ssl(state: State) -> dict[str, Any]:
    return write_ssl(state, "module.swin_vit.")
