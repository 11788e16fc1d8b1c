"""The head of a task: a 1x1x1 convolution that starts from the pre-trained rows of its structures, or from new weights."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.model.network import HEAD, head

BACKGROUND_CHANNEL = 0  # of a softmax head, pre-trained or of a multi-class task


def new_head(channels: int, out_channels: int, generator: torch.Generator | None = None) -> nn.Conv3d:
    """Xavier-uniform weights (out_channels, channels, 1, 1, 1), zero bias."""
    convolution = nn.Conv3d(channels, out_channels, kernel_size=1)
    with torch.no_grad():
        nn.init.xavier_uniform_(convolution.weight, generator=generator)
        nn.init.zeros_(cast(Tensor, convolution.bias))
    return convolution


def pretrained_head(
    network: nn.Module, preset: FoundationPreset, structures: list[str], softmax: bool, generator: torch.Generator | None = None
) -> nn.Conv3d:
    """A head whose logits start as the foundation's for these structures.

    From a sigmoid head each structure takes its row as it is, and a softmax task's background row is new. From a softmax
    head a softmax task also takes the background's row, and a binary task the difference of the structure's and the
    background's row: sigmoid(z_s - z_0) is the foundation's own probability of s against the background.

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
    source = head(network)
    rows = [preset.structures[name] for name in structures]
    target = new_head(source.in_channels, len(rows) + softmax, generator).to(source.weight.device)
    with torch.no_grad():
        for parameter, pretrained in ((target.weight, source.weight), (cast(Tensor, target.bias), cast(Tensor, source.bias))):
            parameter[softmax:] = _start(pretrained, rows, preset.head, softmax)
            if softmax and preset.head == "softmax":
                parameter[BACKGROUND_CHANNEL] = pretrained[BACKGROUND_CHANNEL]
    return target


def _start(pretrained: Tensor, rows: list[int], kind: str, softmax: bool) -> Tensor:
    if kind == "softmax" and not softmax:
        return pretrained[rows] - pretrained[BACKGROUND_CHANNEL]
    return pretrained[rows]


def set_head_(network: nn.Module, convolution: nn.Conv3d) -> None:
    """Puts `convolution` in the place of the network's head."""
    parent, _, attribute = HEAD.rpartition(".")
    setattr(network.get_submodule(parent), attribute, convolution)
