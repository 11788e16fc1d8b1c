"""Weights of a foundation: safetensors in MONAI's names, filled exactly or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.model.network import build_network


def load_foundation_network(preset: FoundationPreset, weights_path: Path) -> nn.Module:
    """The pre-trained network in eval mode.

    Raises:
        FoundationError: the file can't be read, or does not fill the network with tensors of the right shapes.
    """
    try:
        state = load_file(weights_path)
    except (OSError, SafetensorError) as error:
        raise FoundationError(f"foundation {preset.name}: {weights_path} is not a readable safetensors file ({error}); install the foundation again") from None
    network = build_network(preset.architecture)
    fill_(network, state, f"foundation {preset.name}: {weights_path}")
    return network


def fill_(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Copies `state` into the network; every tensor of both must find its partner. `what` starts the error's message."""
    own = network.state_dict()
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    misshapen = [f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}" for name in own if name in state and state[name].shape != own[name].shape]
    if missing or unexpected or misshapen:
        faults = [f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                  for fault, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)) if names]
        raise FoundationError(f"{what} does not fit the network: {len(own) - len(missing) - len(misshapen)} of {len(own)} tensors match; {'; '.join(faults)}")
    network.load_state_dict(state)


def sha256(path: Path) -> str:
    """The checksum by which an adapter knows its foundation."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
