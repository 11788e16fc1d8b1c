"""Activation checkpointing: the blocks that hold most of a step's memory forget their activations and compute them again in the backward pass.

The numbers do not change, only time (about one more forward) and memory do.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

from arena_pipeline.errors import NoTargetLayers

BLOCKS = (UnetrBasicBlock, UnetrUpBlock, SwinTransformerBlock)


def recompute_activations_(network: nn.Module) -> None:
    """Makes every convolutional block and every Swin block of a SwinUNETR recompute its activations; parameters and names stay.

    Raises:
        NoTargetLayers: the network has no such block.
    """
    blocks = [module for module in network.modules() if isinstance(module, BLOCKS)]
    if not blocks:
        raise NoTargetLayers("no block of MONAI's SwinUNETR in this network")
    for block in blocks:
        # the non-reentrant kind: it lets gradients reach parameters when the block's input needs none, as the first one's does not
        cast(Any, block).forward = partial(checkpoint, block.forward, use_reentrant=False)
