"""What an adaptation trains: parameters in groups with their rates, and the gates of the proximal step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from arena_pipeline.errors import PlansError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.model.adapter import UPDATE, WEIGHT
from arena_pipeline.model.low_rank import KeyValueUpdate, add_updates_, low_rank_matrices
from arena_pipeline.model.network import CONVOLUTIONAL_ENCODER, DECODER, head, head_parameters
from arena_pipeline.model.task_head import new_head, pretrained_head, set_head_
from arena_pipeline.planning import TaskPlan
from arena_pipeline.settings import AdaptationSettings


@dataclass
class Trainable:
    """Everything about one method that the loop needs.

    Attributes:
        groups: base rate -> the parameters that AdamW moves at it.
        gates: the vectors v, moved by the step of `arena_pipeline.adapt.proximal` (empty for methods without gates).
        updates: the low-rank updates by layer.
        whole: parameters saved as they are, by their name in the network.
    """

    groups: list[tuple[float, list[Tensor]]]
    gates: list[Tensor] = field(default_factory=list)
    updates: dict[str, KeyValueUpdate] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for _, parameters in self.groups for p in parameters) + sum(v.numel() for v in self.gates if not self._in_groups(v))

    def _in_groups(self, tensor: Tensor) -> bool:
        return any(tensor is p for _, parameters in self.groups for p in parameters)

    def effective_rank(self) -> dict[str, int]:
        """ "<layer>.<key|value>" -> number of v != 0."""
        return {name: matrix.effective_rank for name, matrix in low_rank_matrices(self.updates)}

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, in the adapter's names."""
        saved = {f"{UPDATE}{name}.{part}": tensor for name, matrix in low_rank_matrices(self.updates) for part, tensor in matrix.compact().items()}
        return saved | {f"{WEIGHT}{name}": parameter.detach().clone() for name, parameter in self.whole.items()}


def prepare_(network: nn.Module, preset: FoundationPreset, task: TaskPlan, settings: AdaptationSettings, generator: torch.Generator) -> Trainable:
    """Freezes the network, gives it the task's head and the method's parameters, and returns what is to be trained.

    Raises:
        PlansError: unknown method, with the known ones; or a decoder that was never trained is to stay frozen.
    """
    if settings.method not in METHODS:
        raise PlansError(f"unknown method {settings.method}; known: {', '.join(METHODS)}")
    if preset.pretrained_parts == "encoder" and not task.train_decoder:
        raise PlansError(
            f"task {task.name}: {preset.name} has no pre-trained decoder, so it must be trained; set train_decoder to true in plans.json"
        )
    network.requires_grad_(False)
    softmax = task.activation == "softmax"
    if task.head == "pretrained":
        set_head_(network, pretrained_head(network, preset, list(task.structures), softmax, generator))
    else:
        old = head(network)
        set_head_(network, new_head(old.in_channels, task.out_channels, generator).to(old.weight.device))
    whole = head_parameters(network)
    if task.train_decoder:
        parts = _trained_parts(preset)
        whole |= {name: p for name, p in network.named_parameters() if name.startswith(parts)}
    for parameter in whole.values():
        parameter.requires_grad_(True)
    trainable = METHODS[settings.method](network, settings, generator)
    rate = settings.decoder_learning_rate if task.train_decoder else settings.learning_rate
    trainable.groups.append((rate, list(whole.values())))
    trainable.whole = whole
    return trainable


def _trained_parts(preset: FoundationPreset) -> tuple[str, ...]:
    """The decoder; with a foundation that is a Swin encoder alone also the convolutions that join the two, which are as new."""
    return DECODER if preset.pretrained_parts == "encoder_decoder" else DECODER + CONVOLUTIONAL_ENCODER


def _arena(network: nn.Module, settings: AdaptationSettings, generator: torch.Generator) -> Trainable:
    """Key and value updates with gates."""
    updates = add_updates_(network, settings.rank, generator)
    matrices = [matrix for _, matrix in low_rank_matrices(updates)]
    factors = [factor for matrix in matrices for factor in (matrix.A, matrix.B)]
    gates: list[Tensor] = [matrix.v for matrix in matrices]
    if settings.gate_optimizer == "adamw":
        factors = factors + [matrix.v for matrix in matrices]
    elif settings.gate_step == 0:
        for gate in gates:  # the data do not move v: no gradient of it is needed
            gate.requires_grad_(False)
    return Trainable([(settings.learning_rate, list(factors))], gates, updates)


METHODS: dict[str, Callable[[nn.Module, AdaptationSettings, torch.Generator], Trainable]] = {"arena": _arena}
