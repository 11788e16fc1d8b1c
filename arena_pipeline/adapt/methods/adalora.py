"""AdaLoRA: W0 + B diag(E) A whose budget of directions shrinks while it trains, allotted by the allocator of `peft`.

The update, its initial values and its defaults are peft's: E zero, A and B normal with deviation 0.02, E counting times
lora_alpha / (init_r + 1e-5). The allocator scores each direction by the sensitivities |w dL/dw| of its E, its row of A and its
column of B, and sets the E of the lowest to zero, until target_r per layer are left on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import PlansError
from arena_pipeline.model.architectures import Architecture, Target
from arena_pipeline.model.low_rank import LowRankMatrix, ScaledMatrix, add_updates_, low_rank_matrices
from arena_pipeline.settings import AdaptationSettings

PEFT_ADAPTER_NAME = "default"  # peft's name of an adapter, part of the parameters' names that its allocator looks for
STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what the allocator remembers: sensitivities, their running means and uncertainties


@dataclass
class AdaLoraTrainable(Trainable):
    """Trainable with peft's RankAllocator. Attributes: config: peft's AdaLoraConfig."""

    config: Any = None
    allocator: Any = field(init=False)

    def __post_init__(self) -> None:
        from peft.tuners.adalora import RankAllocator

        self.allocator = RankAllocator(self, self.config, PEFT_ADAPTER_NAME)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """A, B and E in peft's names: this is the model that the allocator sees."""
        for layer, matrix in low_rank_matrices(self.updates):
            for part, letter in (("A", "A"), ("B", "B"), ("v", "E")):
                yield f"{layer}.lora_{letter}.{PEFT_ADAPTER_NAME}", getattr(matrix, part)

    def penalty(self) -> Tensor:
        """orth_reg_weight times the mean over all A and B of ||A A^T - I|| and ||B^T B - I|| (Frobenius)."""
        matrices = [matrix for _, matrix in low_rank_matrices(self.updates)]
        products = [product for matrix in matrices for product in (matrix.A @ matrix.A.T, matrix.B.T @ matrix.B)]
        norms = [torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device, dtype=product.dtype)) for product in products]
        return self.config.orth_reg_weight * torch.stack(norms).mean()

    def after_step_(self, iteration: int, rate: float) -> None:
        """Scores the directions with this iteration's gradients, and masks those beyond its budget."""
        self.allocator.update_and_allocate(self, iteration)

    def may_stop(self, iteration: int) -> bool:
        """Only once the budget has reached its final value."""
        return bool(self.allocator.budget_schedule(iteration)[0] <= self.allocator.target_bgt)

    def method_state(self) -> dict[str, Any]:
        """The allocator's memory, by peft's names of the parameters."""
        return {name: {key: tensor.clone() for key, tensor in getattr(self.allocator, name).items()} for name in STATE}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Puts the allocator's memory back, on the parameters' device."""
        devices = {name: parameter.device for name, parameter in self.named_parameters()}
        for name in STATE:
            setattr(self.allocator, name, {key: tensor.to(devices[key], copy=True) for key, tensor in state[name].items()})


def adalora(network: nn.Module, architecture: Architecture, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """Updates of all rows; `rank` is init_r, of which two thirds stay (peft's 12 and 8). `iterations` is total_step.

    Raises:
        PlansError: a rank too small to be reduced.
    """
    from peft import AdaLoraConfig

    if settings.rank < 2:
        raise PlansError(f"adalora with rank {settings.rank}", advice="expected a rank of at least 2, of which two thirds stay")
    config = AdaLoraConfig(init_r=settings.rank, target_r=settings.rank * 2 // 3, total_step=iterations)
    updates = add_updates_(network, architecture, partial(_matrices, config.lora_alpha), settings.rank, generator)
    own: list[Tensor] = [tensor for _, matrix in low_rank_matrices(updates) for tensor in matrix.parameters()]
    return AdaLoraTrainable(own=own, updates=updates, config=config)


def _matrices(lora_alpha: float, target: Target, rank: int, generator: torch.Generator | None) -> dict[str, LowRankMatrix]:
    a, b = (torch.empty(shape).normal_(0, 0.02, generator=generator) for shape in ((rank, target.columns), (target.rows, rank)))
    return {target.whole: ScaledMatrix(a, b, torch.zeros(rank, 1), lora_alpha / (rank + 1e-5))}
