"""Activation checkpointing: the blocks that hold most of a step's memory forget their activations and compute them again in the backward pass.

The numbers do not change, only time (about one more forward) and memory do.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from torch import nn
from torch.utils.checkpoint import checkpoint

from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.model.architectures import Architecture


def recompute_activations_(network: nn.Module, architecture: Architecture) -> None:
    """Makes the blocks that the architecture names recompute their activations; parameters and names stay.

    Raises:
        NoTargetLayers: the network has no such block.
    """
    blocks = architecture.recomputed(network)
    if not blocks:
        raise NoTargetLayers(f"no block of a {architecture.family} in this network")
    for block in blocks:
        # the non-reentrant kind: it lets gradients reach parameters when the block's input needs none, as the first one's does not
        cast(Any, block).forward = partial(checkpoint, block.forward, use_reentrant=False)
