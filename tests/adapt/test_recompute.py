"""Activation checkpointing changes memory, not numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from arena_pipeline.adapt.prepare import recompute_activations_
from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.model.architectures import SwinUnetr

TINY = SwinUnetr(feature_size=12, window_size_voxels=(4, 4, 4), out_channels=1, patch_merging="monai_1.5")


def step(recompute: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    """Output and gradients of one adaptation-like step, and the bytes that autograd kept for its backward pass."""
    torch.manual_seed(0)
    network = TINY.build().requires_grad_(False)
    if recompute:
        recompute_activations_(network, TINY)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(("decoder1.", "out.")) or name.endswith("attn.qkv.weight"))
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(2)))
    output.square().mean().backward()
    return output.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}, kept


def test_same_numbers_with_less_kept() -> None:
    (output, gradients, kept), (again, recomputed, kept_less) = step(False), step(True)
    assert torch.equal(output, again)
    assert gradients.keys() == recomputed.keys()
    assert all(torch.equal(gradients[name], recomputed[name]) for name in gradients)
    assert kept_less < kept / 3


def test_a_network_without_such_blocks_is_told() -> None:
    with pytest.raises(NoTargetLayers, match="swin_unetr"):
        recompute_activations_(nn.Linear(2, 2), TINY)
