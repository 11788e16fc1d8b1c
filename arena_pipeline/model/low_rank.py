"""Low-rank updates of the fused attn.qkv projections, weights (3C, C) whose rows are the queries, keys and values.

ARENA updates the key and the value rows, W_j = W0_j + B_j diag(v_j) A_j; LoRA and AdaLoRA all rows at once, W = W0 + B diag(v) A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from arena_pipeline.errors import NoTargetLayers

TARGET = "attn.qkv"
ROWS = {"key": (1, 2), "value": (2, 3), "qkv": (0, 3)}  # of the fused weight, in units of C
KEY_VALUE, FUSED = frozenset({"key", "value"}), frozenset({"qkv"})


class LowRankMatrix(nn.Module):
    """B diag(v) A of rank at most r: A (r, C), B (rows, r), v (r,). Without v every direction counts as one."""

    def __init__(self, a: Tensor, b: Tensor, v: Tensor | None = None) -> None:
        super().__init__()
        self.A = nn.Parameter(a)
        self.B = nn.Parameter(b)
        self.v = None if v is None else nn.Parameter(v)

    def gate(self) -> Tensor | None:
        """What each direction is multiplied with, (r,)."""
        return self.v

    @property
    def effective_rank(self) -> int:
        """The number of v != 0."""
        gate = self.gate()
        return len(self.A) if gate is None else int(torch.count_nonzero(gate))

    def forward(self) -> Tensor:
        gate = self.gate()
        return (self.B if gate is None else self.B * gate) @ self.A

    def compact(self) -> dict[str, Tensor]:
        """A, B, and v where there is one, without the entries where v = 0."""
        a, b, gate = self.A.detach(), self.B.detach(), self.gate()
        if gate is None:
            return {"A": a.clone(), "B": b.clone()}
        kept = gate.detach() != 0
        return {"A": a[kept].clone(), "B": b[:, kept].clone(), "v": gate.detach()[kept].clone()}


class ScaledMatrix(LowRankMatrix):
    """A matrix of AdaLoRA: its v is a column (r, 1), and counts times `scale`."""

    def __init__(self, a: Tensor, b: Tensor, v: Tensor, scale: float) -> None:
        super().__init__(a, b, v)
        self.scale = scale

    def gate(self) -> Tensor:
        """scale v, (r,)."""
        return self.scale * cast(Tensor, self.v).flatten()


def gated_matrix(channels: int, rank: int, generator: torch.Generator | None = None) -> LowRankMatrix:
    """(C, C): A Kaiming-uniform (a = sqrt 5), B zero, v uniform in [-1, 1], so the product starts at exactly zero."""
    a = _kaiming(channels, rank, generator)
    return LowRankMatrix(a, torch.zeros(channels, rank), torch.empty(rank).uniform_(-1, 1, generator=generator))


def _kaiming(channels: int, rank: int, generator: torch.Generator | None) -> Tensor:
    bound = math.sqrt(6 / ((1 + 5) * channels))  # Kaiming-uniform of fan-in C with gain sqrt(2 / (1 + a^2))
    return torch.empty(rank, channels).uniform_(-bound, bound, generator=generator)


class LowRankUpdate(nn.Module):
    """A parametrization of one fused (3C, C) qkv weight; its children are the matrices, named as in ROWS."""

    def matrices(self) -> Iterator[tuple[str, LowRankMatrix]]:
        """("key", matrix), ("value", matrix); or ("qkv", matrix)."""
        for name, matrix in self.named_children():
            yield name, cast(LowRankMatrix, matrix)


class KeyValueUpdate(LowRankUpdate):
    """W0 + B diag(v) A on the key and on the value rows."""

    def __init__(self, key: LowRankMatrix, value: LowRankMatrix) -> None:
        super().__init__()
        self.key = key
        self.value = value

    def forward(self, weight: Tensor) -> Tensor:
        query = weight.new_zeros(weight.shape[1], weight.shape[1])
        return weight + torch.cat((query, self.key(), self.value()))


class FusedUpdate(LowRankUpdate):
    """W0 + B diag(v) A on all rows."""

    def __init__(self, qkv: LowRankMatrix) -> None:
        super().__init__()
        self.qkv = qkv

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.qkv()


UpdateOf = Callable[[int, int, torch.Generator | None], LowRankUpdate]


def arena_update(channels: int, rank: int, generator: torch.Generator | None = None) -> LowRankUpdate:
    """Key and value rows, with gates."""
    return KeyValueUpdate(gated_matrix(channels, rank, generator), gated_matrix(channels, rank, generator))


def lora_update(channels: int, rank: int, generator: torch.Generator | None = None) -> LowRankUpdate:
    """All rows, without v: A Kaiming-uniform (a = sqrt 5), B zero."""
    return FusedUpdate(LowRankMatrix(_kaiming(channels, rank, generator), torch.zeros(3 * channels, rank)))


def target_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """The fused projections of the encoder's Swin blocks, by name.

    Raises:
        NoTargetLayers: the network has none.
    """
    targets = {name: cast(nn.Linear, module) for name, module in network.named_modules() if name.endswith(TARGET)}
    if not targets:
        raise NoTargetLayers(f"no {TARGET} projection in this network")
    return targets


def add_updates_(network: nn.Module, update_of: UpdateOf, rank: int, generator: torch.Generator | None = None) -> dict[str, LowRankUpdate]:
    """Puts a fresh update of this rank on every target layer and returns them by layer name; the output is unchanged, bit for bit.

    Args:
        update_of: makes the update of a layer from its width C, the rank and the generator.
    """
    updates = {}
    for name, layer in target_layers(network).items():
        updates[name] = update_of(layer.in_features, rank, generator).to(layer.weight.device, layer.weight.dtype)
        _register(layer, updates[name])
    return updates


def _register(layer: nn.Linear, update: LowRankUpdate) -> None:
    parametrize.register_parametrization(layer, "weight", update)
    frozen_weight(layer).requires_grad_(False)


def frozen_weight(layer: nn.Linear) -> Tensor:
    """W0 of a layer that carries an update."""
    return cast(Tensor, cast(Any, layer).parametrizations.weight.original)


def low_rank_matrices(updates: dict[str, LowRankUpdate]) -> Iterator[tuple[str, LowRankMatrix]]:
    """("swinViT.layers1.0.blocks.0.attn.qkv.key", matrix), ... in the order of the layers."""
    for layer, update in updates.items():
        for projection, matrix in update.matrices():
            yield f"{layer}.{projection}", matrix


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


def unmerge_(network: nn.Module, originals: dict[str, Tensor], updates: dict[str, LowRankUpdate]) -> None:
    """Undoes `merge_`: restores W0, bit for bit, and puts the updates back on."""
    for name, update in updates.items():
        layer = cast(nn.Linear, network.get_submodule(name))
        with torch.no_grad():
            layer.weight.copy_(originals[f"{name}.weight"])
        _register(layer, update)


def merged_weight(weight: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """W0 (3C, C) plus a saved update: `tensors` holds key.A, key.B, key.v, value.A, ..., or qkv.A, qkv.B, of any rank, 0 included.

    Raises:
        KeyError: a projection or one of its matrices is missing, or one too many is there.
        RuntimeError: shapes that do not fit.
    """
    projections = {name.split(".")[0] for name in tensors}
    if projections not in (KEY_VALUE, FUSED):
        raise KeyError(f"updates of {', '.join(sorted(projections))} rows, expected key and value, or qkv")
    channels = weight.shape[1]
    merged = weight.clone()
    for projection in projections:
        first, last = ROWS[projection]
        a, b, v = (tensors.get(f"{projection}.{part}") for part in ("A", "B", "v"))
        if a is None or b is None:
            raise KeyError(f"{projection} lacks A or B")
        merged[first * channels : last * channels] += (b if v is None else b * v) @ a
    return merged
