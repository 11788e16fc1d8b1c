"""ARENA's update: W_j = W0_j + B_j diag(v_j) A_j on the key and the value rows of every fused attn.qkv projection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from arena_pipeline.errors import NoTargetLayers

PROJECTIONS = ("key", "value")
TARGET = "attn.qkv"


class LowRankMatrix(nn.Module):
    """B diag(v) A, a (C, C) matrix of rank at most r.

    A is Kaiming-uniform (a = sqrt 5), B zero, v uniform in [-1, 1], all drawn from `generator`: the product starts at exactly zero.
    """

    def __init__(self, channels: int, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = math.sqrt(6 / ((1 + 5) * channels))  # Kaiming-uniform of fan-in C with gain sqrt(2 / (1 + a^2))
        self.A = nn.Parameter(torch.empty(rank, channels).uniform_(-bound, bound, generator=generator))
        self.B = nn.Parameter(torch.zeros(channels, rank))
        self.v = nn.Parameter(torch.empty(rank).uniform_(-1, 1, generator=generator))

    @property
    def effective_rank(self) -> int:
        """The number of v != 0."""
        return int(torch.count_nonzero(self.v))

    def forward(self) -> Tensor:
        return self.B * self.v @ self.A

    def compact(self) -> dict[str, Tensor]:
        """A, B, v without the entries where v = 0."""
        kept = self.v.detach() != 0
        return {"A": self.A.detach()[kept].clone(), "B": self.B.detach()[:, kept].clone(), "v": self.v.detach()[kept].clone()}


class KeyValueUpdate(nn.Module):
    """A parametrization of one fused (3C, C) qkv weight: W0 + B diag(v) A on its key and its value rows."""

    def __init__(self, key: LowRankMatrix, value: LowRankMatrix) -> None:
        super().__init__()
        self.key = key
        self.value = value

    def forward(self, weight: Tensor) -> Tensor:
        query = weight.new_zeros(weight.shape[1], weight.shape[1])
        return weight + torch.cat((query, self.key(), self.value()))


def target_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """The fused projections of the encoder's Swin blocks, by name.

    Raises:
        NoTargetLayers: the network has none.
    """
    targets = {name: cast(nn.Linear, module) for name, module in network.named_modules() if name.endswith(TARGET)}
    if not targets:
        raise NoTargetLayers(f"no {TARGET} projection in this network")
    return targets


def add_updates_(network: nn.Module, rank: int, generator: torch.Generator | None = None) -> dict[str, KeyValueUpdate]:
    """Puts a fresh update of this rank on every target layer and returns them by layer name; the output is unchanged, bit for bit."""
    updates = {}
    for name, layer in target_layers(network).items():
        key, value = (LowRankMatrix(layer.in_features, rank, generator).to(layer.weight.device) for _ in PROJECTIONS)
        updates[name] = KeyValueUpdate(key, value)
        _register(layer, updates[name])
    return updates


def _register(layer: nn.Linear, update: KeyValueUpdate) -> None:
    parametrize.register_parametrization(layer, "weight", update)
    frozen_weight(layer).requires_grad_(False)


def frozen_weight(layer: nn.Linear) -> Tensor:
    """W0 of a layer that carries an update."""
    return cast(Tensor, cast(Any, layer).parametrizations.weight.original)


def low_rank_matrices(updates: dict[str, KeyValueUpdate]) -> Iterator[tuple[str, LowRankMatrix]]:
    """("swinViT.layers1.0.blocks.0.attn.qkv.key", matrix), ... in the order of the layers."""
    for name, update in updates.items():
        for projection in PROJECTIONS:
            yield f"{name}.{projection}", cast(LowRankMatrix, getattr(update, projection))


def merge_(network: nn.Module) -> dict[str, Tensor]:
    """Writes every update into its layer's weight and removes it; returns the layers' W0 for `unmerge_`.

    Raises:
        NoTargetLayers: no layer carries an update.
    """
    originals = {}
    for name, layer in target_layers(network).items():
        if parametrize.is_parametrized(layer, "weight"):
            originals[f"{name}.weight"] = frozen_weight(layer).detach().clone()
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    if not originals:
        raise NoTargetLayers("no layer of this network carries an update to merge")
    return originals


def unmerge_(network: nn.Module, originals: dict[str, Tensor], updates: dict[str, KeyValueUpdate]) -> None:
    """Undoes `merge_`: restores W0, bit for bit, and puts the updates back on."""
    for name, update in updates.items():
        layer = cast(nn.Linear, network.get_submodule(name))
        with torch.no_grad():
            layer.weight.copy_(originals[f"{name}.weight"])
        _register(layer, update)


def merged_weight(weight: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """W0 (3C, C) plus a saved update: `tensors` holds key.A, key.B, key.v, value.A, ... of any rank, 0 included."""
    channels = weight.shape[1]
    merged = weight.clone()
    for row, projection in enumerate(PROJECTIONS, start=1):
        a, b, v = (tensors[f"{projection}.{part}"] for part in ("A", "B", "v"))
        merged[row * channels : (row + 1) * channels] += b * v @ a
    return merged
