"""Shifted-window attention through scaled_dot_product_attention: MONAI's numbers, without its full attention matrices.

In a shifted stage only the windows on the far faces of the grid mix regions that must not see each other: at most eight
different masks occur, the inner one being empty. Windows are brought into an order in which those of one mask are neighbours, and each group is one
call with one bias (heads, n, n) that broadcasts; neither a mask nor a bias per window is ever stored.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from einops import rearrange
from monai.networks.nets.swin_unetr import BasicLayer, WindowAttention, compute_mask, get_window_size
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.model.architectures.faster_layers import gives_the_same

ALIGNMENT = 16  # rows of a bias are padded to a multiple of this, else the fast kernels on a GPU copy it at every call
HEAD_MULTIPLE = 8  # likewise of a head's dimension in 16 bits


class ShiftMasks:
    """The distinct attention masks of one shifted grid and the windows that each belongs to.

    Attributes:
        groups: (mask (n, n padded to ALIGNMENT) or None where nothing is masked, first window, last + 1), of the windows in their new order.
        order: (windows,) brings the windows of a group together. `back`: puts them into the grid's order again.
    """

    def __init__(self, masks: Tensor) -> None:
        distinct, group_of = torch.unique(masks, dim=0, return_inverse=True)
        self.order, self.groups, first = torch.argsort(group_of, stable=True), list[tuple[Tensor | None, int, int]](), 0
        for mask, count in zip(distinct, torch.bincount(group_of).tolist(), strict=True):
            self.groups.append((_aligned(mask) if mask.any() else None, first, first + count))
            first += count
        self.back = torch.argsort(self.order)


def _aligned(bias: Tensor) -> Tensor:
    """With zeros after each row, (..., n padded to ALIGNMENT); contiguous."""
    return pad(bias.contiguous(), (0, -bias.shape[-1] % ALIGNMENT))


@lru_cache(maxsize=32)
def shift_masks(grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device) -> ShiftMasks:
    """The masks of a padded token grid; computed once per shape and device."""
    with torch.inference_mode(False):  # the cache outlives a prediction, and tensors made in inference mode can't be adapted with
        # MONAI's -100 leaves weights of e^-100, which are denormal numbers: the same to every sum, but many times slower to multiply than 0
        return ShiftMasks(100 * compute_mask(list(grid), window, shift, device))


class _Reordered(torch.autograd.Function):
    """x[order]; the gradient comes back by the inverse order, instead of being added up place by place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return x[order]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.saved_tensors
        return _Reordered.apply(gradient, back, order), None, None


class FastWindowAttention(WindowAttention):
    """MONAI's window attention with the same parameters, and `mask` a ShiftMasks or None."""

    def forward(self, x: Tensor, mask: ShiftMasks | None) -> Tensor:
        """(batch * windows, n tokens, C) -> the same."""
        b, n, c = x.shape
        qkv = self.qkv(x)
        bias = _aligned(self.position_bias(n).to(qkv.dtype))
        if mask is None:
            return self.proj(self._attend(qkv, bias))
        by_window = qkv.unflatten(0, (-1, len(mask.order))).transpose(0, 1)
        qkv = _Reordered.apply(by_window, mask.order, mask.back).flatten(0, 1)
        images, outputs = len(qkv) // len(mask.order), []
        for group, first, last in mask.groups:
            outputs.append(self._attend(qkv[first * images : last * images], bias if group is None else bias + group.to(bias.dtype)))
        out = torch.cat(outputs).unflatten(0, (len(mask.order), -1))
        return self.proj(_Reordered.apply(out, mask.back, mask.order).transpose(0, 1).reshape(b, n, c))

    def position_bias(self, n: int) -> Tensor:
        """(1, heads, n, n): the learned bias of each pair's relative position."""
        index = cast(Tensor, self.relative_position_index)[:n, :n].reshape(-1)
        return self.relative_position_bias_table[index].reshape(n, n, -1).permute(2, 0, 1).unsqueeze(0)

    def _attend(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """(windows, n, 3 C) -> (windows, n, C), with one aligned bias for all windows."""
        windows, n, width = qkv.shape
        q, k, v = qkv.reshape(windows, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return attention(q, k, v, bias[..., :n], self.scale).transpose(1, 2).reshape(windows, n, width // 3)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """scaled_dot_product_attention of (windows, heads, n, d); on a GPU in 16 bits with zeros behind each d that its fast kernels do not take."""
    missing = -q.shape[-1] % HEAD_MULTIPLE if q.is_cuda and q.element_size() == 2 else 0
    if missing:
        q, k, v = (pad(each, (0, missing)) for each in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return out[..., : out.shape[-1] - missing]


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
