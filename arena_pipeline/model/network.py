"""The Swin UNETR that every foundation is."""

from __future__ import annotations

from typing import Any, cast

import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

from arena_pipeline.foundations import Architecture
from arena_pipeline.model.attention import use_fast_attention_
from arena_pipeline.model.channels_last import keep_channels_last_
from arena_pipeline.model.patch_merging import PATCH_MERGING

HEAD = "out.conv.conv"
DECODER = ("decoder1.", "decoder2.", "decoder3.", "decoder4.", "decoder5.")
CONVOLUTIONAL_ENCODER = ("encoder1.", "encoder2.", "encoder3.", "encoder4.", "encoder10.")
SWIN_ENCODER = "swinViT."


def build_network(architecture: Architecture, out_channels: int | None = None) -> nn.Module:
    """A SwinUNETR with random weights, in eval mode; (batch, in_channels, x, y, z) -> logits (batch, out_channels, x, y, z).

    Every axis of the input must be divisible by 32. `out_channels` replaces the architecture's where a task has its own head.
    """
    network = SwinUNETR(
        in_channels=architecture.in_channels,
        out_channels=out_channels or architecture.out_channels,
        feature_size=architecture.feature_size,
        window_size=architecture.window_size_voxels,
        depths=architecture.depths,
        num_heads=architecture.num_heads,
        downsample=cast(Any, PATCH_MERGING[architecture.patch_merging]),
        use_v2=False,
    )
    use_fast_attention_(network)
    keep_channels_last_(network)
    return network.eval()


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on `device`, its convolutions laid out channels last: on the CPU too 3D convolutions are faster so."""
    return cast(nn.Module, cast(Any, network).to(device, memory_format=torch.channels_last_3d))


def head(network: nn.Module) -> nn.Conv3d:
    """The 1x1x1 convolution that gives the logits."""
    return cast(nn.Conv3d, network.get_submodule(HEAD))


def head_parameters(network: nn.Module) -> dict[str, Tensor]:
    """Weight and bias of the head, by their names in the network."""
    return {f"{HEAD}.{name}": parameter for name, parameter in head(network).named_parameters()}
