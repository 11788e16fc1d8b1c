"""Shifted-window attention through scaled_dot_product_attention: MONAI's numbers, without its full attention matrices.

In a shifted stage only the windows on the far faces of the grid mix regions that must not see each other: at most eight
different masks occur, the inner one being empty. Windows are grouped by mask, and each group is one call with one bias
(heads, n, n) that broadcasts; neither a mask nor a bias per window is ever stored.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np
import torch
from einops import rearrange
from monai.networks.nets.swin_unetr import BasicLayer, WindowAttention, compute_mask, get_window_size
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.model.architectures.faster_layers import gives_the_same


class ShiftMasks:
    """The distinct attention masks of one shifted grid and the windows that each belongs to.

    Attributes:
        groups: (mask (n, n) or None where nothing is masked, window indices (k,)), every window in exactly one group.
        order: (windows,) puts the concatenated groups back into window order.
    """

    def __init__(self, masks: Tensor) -> None:
        distinct, group_of = torch.unique(masks, dim=0, return_inverse=True)
        members = [torch.nonzero(group_of == index).flatten() for index in range(len(distinct))]
        self.groups = [(mask if mask.any() else None, windows) for mask, windows in zip(distinct, members, strict=True)]
        self.order = torch.argsort(torch.cat(members))
        self.windows = len(masks)


@lru_cache(maxsize=32)
def shift_masks(grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device) -> ShiftMasks:
    """The masks of a padded token grid; computed once per shape and device."""
    with torch.inference_mode(False):  # the cache outlives a prediction, and tensors made in inference mode can't be adapted with
        # MONAI's -100 leaves weights of e^-100, which are denormal numbers: the same to every sum, but many times slower to multiply than 0
        return ShiftMasks(100 * compute_mask(list(grid), window, shift, device))


class FastWindowAttention(WindowAttention):
    """MONAI's window attention with the same parameters, and `mask` a ShiftMasks or None."""

    def forward(self, x: Tensor, mask: ShiftMasks | None) -> Tensor:
        """(batch * windows, n tokens, C) -> the same."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.position_bias(n).to(q.dtype)
        if mask is None:
            out = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        else:
            out = self._attend_by_mask(torch.stack((q, k, v)), bias, mask)
        return self.proj(out.transpose(1, 2).reshape(b, n, c))

    def position_bias(self, n: int) -> Tensor:
        """(1, heads, n, n): the learned bias of each pair's relative position."""
        index = cast(Tensor, self.relative_position_index)[:n, :n].reshape(-1)
        return self.relative_position_bias_table[index].reshape(n, n, -1).permute(2, 0, 1).unsqueeze(0)

    def _attend_by_mask(self, qkv: Tensor, bias: Tensor, masks: ShiftMasks) -> Tensor:
        qkv = rearrange(qkv, "three (b w) h n d -> three b w h n d", w=masks.windows)
        outputs = []
        for mask, windows in masks.groups:
            q, k, v = qkv[:, :, windows].flatten(1, 2)
            group_bias = bias if mask is None else bias + mask.to(bias.dtype)
            out = scaled_dot_product_attention(q, k, v, attn_mask=group_bias, scale=self.scale)
            outputs.append(out.unflatten(0, (-1, len(windows))))
        return torch.cat(outputs, dim=1)[:, masks.order].flatten(0, 1)


class FastStage(BasicLayer):
    """One resolution of the Swin encoder, taking its shift masks from the cache."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, C, d, h, w) -> (batch, 2C, d/2, h/2, w/2)."""
        window, shift = get_window_size(x.shape[2:], self.window_size, self.shift_size)
        grid = tuple(int(np.ceil(size / w)) * w for size, w in zip(x.shape[2:], window, strict=True))
        masks = shift_masks(grid, tuple(window), tuple(shift), x.device)
        x = rearrange(x, "b c d h w -> b d h w c")
        for block in self.blocks:
            x = block(x, masks)
        if self.downsample is not None:
            x = self.downsample(x)
        return rearrange(x, "b d h w c -> b c d h w")


def use_fast_attention_(network: nn.Module) -> None:
    """Gives every stage and window attention of a MONAI SwinUNETR the classes above; parameters and names stay.

    Only the forward methods differ, so the modules change class in place instead of being built and copied.
    """
    if not any(type(module) in REPLACEMENTS for module in network.modules()):
        raise NoTargetLayers("no window attention of MONAI in this network")
    if gives_the_same("window attention", _difference):
        _replace_(network)


REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {WindowAttention: FastWindowAttention, BasicLayer: FastStage}


def _replace_(network: nn.Module) -> None:
    for module in network.modules():
        module.__class__ = REPLACEMENTS.get(type(module), type(module))


def _difference() -> float:
    """The largest between MONAI's stage and ours on a grid with shifted and padded windows."""
    stage = BasicLayer(dim=4, depth=2, num_heads=2, window_size=(2, 2, 2), drop_path=[0.0, 0.0], qkv_bias=True).eval()
    image = torch.rand(2, 4, 3, 4, 4)
    expected = stage(image)
    _replace_(stage)
    return float((stage(image) - expected).detach().abs().max())
