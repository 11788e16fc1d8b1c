"""The head of a task: a 1x1x1 convolution that starts from the pre-trained rows, or from new weights."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.model.architectures import Architecture
from arena_pipeline.model.architectures.channels_last import HeadConvolution

BACKGROUND_CHANNEL = 0  # of a softmax head, pre-trained or of a multi-class task


class LogOddsHead(HeadConvolution):
    """A softmax head as that of one structure: (batch, channels, x, y, z) -> (batch, 1, x, y, z), its log-odds against all other rows.

    The structure's row is the first. The sigmoid of log(p / (1 - p)) is the softmax's p, so that a task starts from what the foundation
    says, with all that it knows of the structures beside it.
    """

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits[:, :1] - logits[:, 1:].logsumexp(dim=1, keepdim=True)


class MarginHead(HeadConvolution):
    """A softmax head as that of one structure, by nnU-Net's decision: its lead over the highest of all other rows, above 0 where it has the highest.

    The structure's row is the first. Where one other row matters the sigmoid is the softmax's p, as a `LogOddsHead`'s is everywhere.
    """

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits[:, :1] - logits[:, 1:].amax(dim=1, keepdim=True)


def one_against_rest(preset: FoundationPreset) -> type[LogOddsHead] | type[MarginHead]:
    """What a binary task makes of a softmax head. nnU-Net's foundations decide by the highest channel, and so do their tasks, which then say
    at first what the foundation says, and the same when nnU-Net runs them."""
    return LogOddsHead if preset.scheme.nnunet is None else MarginHead


def keeps_all_rows(preset: FoundationPreset, activation: str, kind: str) -> bool:
    """Whether a task with this activation, and a `kind` of head ("pretrained" or "new"), keeps all rows of a softmax head (`one_against_rest`)."""
    return preset.head == "softmax" and kind == "pretrained" and activation == "sigmoid"


def decides_by_margin(preset: FoundationPreset, activation: str, kind: str) -> bool:
    """Whether such a task's head is a `MarginHead`."""
    return keeps_all_rows(preset, activation, kind) and one_against_rest(preset) is MarginHead


def empty_head(preset: FoundationPreset, channels: int, activation: str, kind: str, out_channels: int) -> nn.Conv3d:
    """The head that a task predicts with, to be filled with trained weights; (rows, channels, 1, 1, 1).

    That of a `MarginHead` gives every row: they are interpolated before the structure is compared with the highest of the others.
    """
    if not keeps_all_rows(preset, activation, kind):
        return HeadConvolution(channels, out_channels, kernel_size=1)
    of_rows = HeadConvolution if decides_by_margin(preset, activation, kind) else LogOddsHead
    return of_rows(channels, preset.architecture.out_channels, kernel_size=1)


def new_head(
    channels: int, out_channels: int, generator: torch.Generator | None = None, prior: float | None = None, softmax: bool = False
) -> nn.Conv3d:
    """Xavier-uniform weights (out_channels, channels, 1, 1, 1).

    Args:
        prior: the probability of each structure where the features say nothing: its bias is log(p / (1 - p)), as in RetinaNet (Lin et al., ICCV 2017,
            section 4.1). None: zero bias.
        softmax: the first row is the background's, whose bias is 0.
    """
    convolution = HeadConvolution(channels, out_channels, kernel_size=1)
    with torch.no_grad():
        nn.init.xavier_uniform_(convolution.weight, generator=generator)
        bias = nn.init.zeros_(cast(Tensor, convolution.bias))
        if prior is not None:
            bias[int(softmax) :] = math.log(prior / (1 - prior))
    return convolution


def pretrained_head(
    network: nn.Module, preset: FoundationPreset, structures: list[str], softmax: bool, generator: torch.Generator | None = None
) -> nn.Conv3d:
    """A head whose logits start as the foundation's for these structures.

    From a sigmoid head each structure takes its row as it is, and a softmax task's background row is new. From a softmax
    head a softmax task also takes the background's row, and a binary task all rows (`one_against_rest`).

    Raises:
        FoundationError: the foundation has no usable head, or never saw one of the structures.
    """
    unknown = [name for name in structures if name not in preset.structures]
    if preset.head == "none" or unknown:
        why = (
            "has no usable linear head"
            if preset.head == "none"
            else f"was not pre-trained on {', '.join(unknown)} (it knows {', '.join(preset.structures)})"
        )
        raise FoundationError(f"foundation {preset.name} {why}; plan the task with a new head")
    source = head_module(network, preset.architecture)
    rows = [preset.structures[name] for name in structures]
    if preset.head == "softmax":
        rows = [BACKGROUND_CHANNEL, *rows] if softmax else [*rows, *(row for row in range(source.out_channels) if row not in rows)]
    kept = slice(int(softmax and preset.head == "sigmoid"), None)  # without a pre-trained background that row stays new
    target: nn.Conv3d
    if softmax or preset.head == "sigmoid":
        target = new_head(source.in_channels, len(structures) + softmax, generator)
    else:
        target = one_against_rest(preset)(source.in_channels, source.out_channels, kernel_size=1)
    target.to(source.weight.device)
    with torch.no_grad():
        for parameter, pretrained in ((target.weight, source.weight), (cast(Tensor, target.bias), cast(Tensor, source.bias))):
            parameter[kept] = pretrained[rows]
    return target


def head_module(network: nn.Module, architecture: Architecture) -> nn.Conv3d:
    """The 1x1x1 convolution that gives the logits."""
    return cast(nn.Conv3d, network.get_submodule(architecture.head))


def head_parameters(network: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """Weight and bias of the head, by their names in the network."""
    return {f"{architecture.head}.{name}": parameter for name, parameter in head_module(network, architecture).named_parameters()}


def set_head_(network: nn.Module, architecture: Architecture, convolution: nn.Conv3d) -> None:
    """Puts `convolution` in the place of the network's head."""
    parent, _, attribute = architecture.head.rpartition(".")
    setattr(network.get_submodule(parent), attribute, convolution)
