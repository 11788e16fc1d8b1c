"""The methods that train some of the network's own parameters, and save them as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.model.network import SWIN_ENCODER
from arena_pipeline.settings import AdaptationSettings


def linear_probe(network: nn.Module, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """Nothing in the encoder: only what every method trains, the head and, for a novel task, the decoder."""
    return Trainable()


def bitfit(network: nn.Module, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """The biases of attention (qkv, proj) and MLP (linear1, linear2) in the Swin encoder; not the relative position biases, which are a table."""
    found = {name: p for name, p in _swin(network).items() if (".attn." in name or ".mlp." in name) and name.endswith(".bias")}
    return _selected(found, "bias of attention or MLP")


def affine_ln(network: nn.Module, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """Weights and biases of the layer norms in the Swin encoder: two in each block and one in each patch merging."""
    norms = tuple(f"{name}." for name, module in network.named_modules() if name.startswith(SWIN_ENCODER) and isinstance(module, nn.LayerNorm))
    return _selected({name: p for name, p in _swin(network).items() if name.startswith(norms)}, "layer norm")


def fft(network: nn.Module, settings: AdaptationSettings, generator: torch.Generator, iterations: int) -> Trainable:
    """Everything, the decoder of a base task too."""
    return _selected(dict(network.named_parameters()), "parameter")


def _swin(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in network.named_parameters() if name.startswith(SWIN_ENCODER)}


def _selected(found: dict[str, Tensor], what: str) -> Trainable:
    if not found:
        raise NoTargetLayers(f"no {what} in the Swin encoder of this network")
    return Trainable(own=list(found.values()), whole=found)
