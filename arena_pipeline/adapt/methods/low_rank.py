"""The methods that add a low-rank update to every layer that the architecture names for it: ARENA and LoRA."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arena_pipeline.adapt.proximal import proximal_step_
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.model.architectures import Architecture
from arena_pipeline.model.low_rank import add_updates_, arena_matrices, lora_matrices, low_rank_matrices
from arena_pipeline.settings import AdaptationSettings


@dataclass
class ArenaTrainable(Trainable):
    """After each step of AdamW: v <- S(v - gate_step dL/dv, rate l1_weight)."""

    gate_step: float = 0.0
    l1_weight: float = 0.0

    def after_step_(self, iteration: int, rate: float) -> None:
        """The proximal step, after which v's gradient is discarded."""
        proximal_step_(self.gates, self.gate_step, rate * self.l1_weight)
        for gate in self.gates:
            gate.grad = None


def arena(network: nn.Module, architecture: Architecture, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """Updates of blocks of rows, with gates v; `gate_optimizer` and `gate_step` say what moves v besides the soft threshold."""
    updates = add_updates_(network, architecture, arena_matrices, settings.rank, generator)
    matrices = [matrix for _, matrix in low_rank_matrices(updates)]
    own: list[Tensor] = [factor for matrix in matrices for factor in (matrix.A, matrix.B)]
    gates: list[Tensor] = [matrix.v for matrix in matrices if matrix.v is not None]
    by_adamw = settings.gate_optimizer == "adamw"
    if by_adamw:
        own += gates
    elif settings.gate_step == 0:
        for gate in gates:  # only the soft threshold moves v: no gradient is needed
            gate.requires_grad_(False)
    return ArenaTrainable(own=own, gates=gates, updates=updates, gate_step=0.0 if by_adamw else settings.gate_step, l1_weight=settings.l1_weight)


def lora(network: nn.Module, architecture: Architecture, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """ARENA with v fixed at one, on all rows at once: W0 + B A, and no alpha/r scaling."""
    updates = add_updates_(network, architecture, lora_matrices, settings.rank, generator)
    return Trainable(own=[factor for _, matrix in low_rank_matrices(updates) for factor in (matrix.A, matrix.B)], updates=updates)
