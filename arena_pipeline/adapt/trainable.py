"""What an adaptation trains, saves and does after each step: the one interface between the loop and the methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from arena_pipeline.model.adapter import UPDATE, WEIGHT
from arena_pipeline.model.low_rank import LowRankUpdate, low_rank_matrices


@dataclass
class Trainable:
    """Everything about one method that the loop needs; a method overrides what differs from plain AdamW.

    Attributes:
        own: the method's own parameters that AdamW moves, in the encoder.
        rate: their base rate, which the log shows.
        groups: (base rate, the parameters that AdamW moves at it), ...: `own`, and the head with what else the task trains.
        gates: the vectors v, for a method that has a step of its own for them.
        updates: the low-rank updates by layer.
        whole: parameters trained and saved as they are, by their name in the network.
    """

    own: list[Tensor] = field(default_factory=list)
    rate: float = 0.0
    groups: list[tuple[float, list[Tensor]]] = field(default_factory=list)
    gates: list[Tensor] = field(default_factory=list)
    updates: dict[str, LowRankUpdate] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    def penalty(self) -> Tensor | None:
        """A term of the loss besides the task's, a scalar; added once per iteration."""
        return None

    def after_step_(self, iteration: int, rate: float) -> None:
        """What the method does after AdamW's step of iteration 0, 1, ..., while the gradients are still there; `rate` is that of `own`."""

    def may_stop(self, iteration: int) -> bool:
        """Whether early stopping may end the adaptation after this iteration."""
        return True

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All trained tensors by their names in the adapter: the tensors themselves, no copies."""
        for name, matrix in low_rank_matrices(self.updates):
            for part, parameter in matrix.named_parameters():
                yield f"{UPDATE}{name}.{part}", parameter
        for name, tensor in self.whole.items():
            yield f"{WEIGHT}{name}", tensor

    @property
    def parameter_count(self) -> int:
        """Numbers trained."""
        return sum(tensor.numel() for _, tensor in self.named_tensors())

    def effective_rank(self) -> dict[str, int]:
        """ "<layer>.<block of rows>" -> number of directions in use (v != 0)."""
        return {name: matrix.effective_rank for name, matrix in low_rank_matrices(self.updates)}

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, in the adapter's names."""
        saved = {f"{UPDATE}{name}.{part}": tensor for name, matrix in low_rank_matrices(self.updates) for part, tensor in matrix.compact().items()}
        return saved | {f"{WEIGHT}{name}": parameter.detach().clone() for name, parameter in self.whole.items()}

    def state_dict(self) -> dict[str, Any]:
        """The method's state between two iterations: tensors in dictionaries, for `load_state_dict` of one prepared in the same way."""
        return {"tensors": {name: tensor.detach().clone() for name, tensor in self.named_tensors()}, "method": self.method_state()}

    def method_state(self) -> dict[str, Any]:
        """What a method keeps besides its parameters."""
        return {}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies a state back into the same tensors, so that an optimizer keeps holding them.

        Raises:
            KeyError, RuntimeError: the state belongs to another method, network or rank.
        """
        own = dict(self.named_tensors())
        if own.keys() != state["tensors"].keys():
            raise KeyError(f"other tensors: {', '.join(sorted(own.keys() ^ state['tensors'].keys()))}")
        for name, tensor in own.items():
            if tensor.shape != state["tensors"][name].shape:
                raise RuntimeError(f"{name} is {tuple(state['tensors'][name].shape)}, expected {tuple(tensor.shape)}")
            tensor.copy_(state["tensors"][name])
        self.load_method_state(state["method"])

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Takes up what `method_state` gave."""
