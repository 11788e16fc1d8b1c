"""The methods that train some of the network's own parameters, and save them as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.model.architectures import Architecture
from arena_pipeline.settings import AdaptationSettings


def linear_probe(
    network: nn.Module, architecture: Architecture, settings: AdaptationSettings, generator: torch.Generator, iterations: int
) -> Trainable:
    """Nothing in the encoder: only what every method trains, the head and, for a novel task, the decoder."""
    return Trainable()


def bitfit(network: nn.Module, architecture: Architecture, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """The biases of the encoder, as its family names them."""
    return _selected(network, architecture.biases(_names(network)), "bias")


def affine_ln(network: nn.Module, architecture: Architecture, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """Weights and biases of the encoder's norms, as its family names them."""
    return _selected(network, architecture.norms(_names(network)), "norm")


def fft(network: nn.Module, architecture: Architecture, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """Everything, the decoder of a base task too."""
    return _selected(network, _names(network), "parameter")


def _names(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def _selected(network: nn.Module, names: Sequence[str], what: str) -> Trainable:
    if not names:
        raise NoTargetLayers(f"no {what} in the encoder of this network")
    found = {name: network.get_parameter(name) for name in names}
    return Trainable(own=list(found.values()), whole=dict(found))
