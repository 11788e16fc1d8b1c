"""Low-rank updates of weights that are matrices, or are seen as one: a convolution's (O, I, kx, ky, kz) as (O, I kx ky kz).

ARENA updates blocks of rows, W_j = W0_j + B_j diag(v_j) A_j: the keys and the values of an attention, a whole kernel. LoRA and AdaLoRA
update all rows at once, W = W0 + B diag(v) A. Which layers and rows: `Architecture.targets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.model.architectures import Architecture, Target
from arena_pipeline.model.autocast import without_autocast


class LowRankMatrix(nn.Module):
    """B diag(v) A of rank at most r: A (r, columns), B (rows, r), v (r,). Without v every direction counts as one."""

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
        return _product(self.A, self.B, self.gate())

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


class LowRankUpdate(nn.Module):
    """A parametrization of one target's weight, whatever its number of axes; its children are the matrices, named as the blocks of rows."""

    def __init__(self, target: Target, matrices: Mapping[str, LowRankMatrix]) -> None:
        super().__init__()
        self.target = target
        for block, matrix in matrices.items():
            self.add_module(block, matrix)

    def matrices(self) -> Iterator[tuple[str, LowRankMatrix]]:
        """("key", matrix), ("value", matrix); or the one of all rows."""
        for block, matrix in self.named_children():
            yield block, cast(LowRankMatrix, matrix)

    def forward(self, weight: Tensor) -> Tensor:
        """W0 + B diag(v) A in the rows of each block; under autocast too in the weight's own precision."""
        with without_autocast(weight.device):
            parts, row = [], 0
            for block, matrix in self.matrices():
                first, last = self.target.rows_of(block)
                parts += [weight.new_zeros(first - row, self.target.columns), matrix()]
                row = last
            parts.append(weight.new_zeros(self.target.rows - row, self.target.columns))
            return weight + torch.cat(parts).reshape(weight.shape)


MatricesOf = Callable[[Target, int, torch.Generator | None], dict[str, LowRankMatrix]]


def arena_matrices(target: Target, rank: int, generator: torch.Generator | None = None) -> dict[str, LowRankMatrix]:
    """A matrix with gates for each gated block of rows."""
    return {block: gated_matrix(last - first, target.columns, rank, generator) for block, (first, last) in target.gated.items()}


def lora_matrices(target: Target, rank: int, generator: torch.Generator | None = None) -> dict[str, LowRankMatrix]:
    """One matrix of all rows, without v: A Kaiming-uniform (a = sqrt 5), B zero."""
    return {target.whole: LowRankMatrix(_kaiming(target.columns, rank, generator), torch.zeros(target.rows, rank))}


def gated_matrix(rows: int, columns: int, rank: int, generator: torch.Generator | None = None) -> LowRankMatrix:
    """A Kaiming-uniform (a = sqrt 5), B zero, v uniform in [-1, 1], so the product starts at exactly zero."""
    a = _kaiming(columns, rank, generator)
    return LowRankMatrix(a, torch.zeros(rows, rank), torch.empty(rank).uniform_(-1, 1, generator=generator))


def _kaiming(columns: int, rank: int, generator: torch.Generator | None) -> Tensor:
    bound = math.sqrt(6 / ((1 + 5) * columns))  # Kaiming-uniform of this fan-in with gain sqrt(2 / (1 + a^2))
    return torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)


def _product(a: Tensor, b: Tensor, v: Tensor | None) -> Tensor:
    return (b if v is None else b * v) @ a


def targets_of(network: nn.Module, architecture: Architecture) -> dict[str, Target]:
    """The layers of a network without updates that can take one, by name.

    Raises:
        NoTargetLayers: the network has none.
    """
    targets = architecture.targets({name: tuple(parameter.shape) for name, parameter in network.named_parameters()})
    if not targets:
        raise NoTargetLayers(f"no {architecture.target_kind} in this network")
    return targets


def add_updates_(
    network: nn.Module, architecture: Architecture, matrices_of: MatricesOf, rank: int, generator: torch.Generator | None = None
) -> dict[str, LowRankUpdate]:
    """Puts a fresh update of this rank on every target layer and returns them by layer name; the output is unchanged, bit for bit.

    Args:
        matrices_of: makes the matrices of a layer from its target, the rank and the generator.
    """
    updates = {}
    for name, target in targets_of(network, architecture).items():
        layer = cast(Any, network.get_submodule(name))
        updates[name] = LowRankUpdate(target, matrices_of(target, rank, generator)).to(layer.weight.device, layer.weight.dtype)
        parametrize.register_parametrization(layer, "weight", updates[name])
        layer.parametrizations.weight.original.requires_grad_(False)
    return updates


def low_rank_matrices(updates: Mapping[str, LowRankUpdate]) -> Iterator[tuple[str, LowRankMatrix]]:
    """("<layer>.<block of rows>", matrix), ... in the order of the layers."""
    for layer, update in updates.items():
        for block, matrix in update.matrices():
            yield f"{layer}.{block}", matrix


def merged_weight(weight: Tensor, target: Target, tensors: Mapping[str, Tensor]) -> Tensor:
    """W0 plus a saved update: the weight that the update's forward gives, to the bit where no direction was dropped.

    Args:
        tensors: "key.A", "key.B", "key.v", "value.A", ..., of any rank, 0 included; v may be absent.

    Raises:
        KeyError: a block that this target has not, or one without A or B.
        RuntimeError: shapes that do not fit.
    """
    merged = weight.clone()
    for block in {name.partition(".")[0] for name in tensors}:
        first, last = target.rows_of(block)
        a, b, v = tensors[f"{block}.A"], tensors[f"{block}.B"], tensors.get(f"{block}.v")
        merged[first:last] += _product(a, b, v).reshape(merged[first:last].shape)
    return merged
