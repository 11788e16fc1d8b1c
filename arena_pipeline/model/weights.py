"""Weights of a foundation: safetensors in MONAI's names, filled exactly or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.model.network import HEAD, SWIN_ENCODER, build_network

NEW_PARTS_SEED = 0


def load_foundation_network(preset: FoundationPreset, weights_path: Path) -> nn.Module:
    """The pre-trained network in eval mode; parts that the foundation does not bring have random weights, the same ones every time.

    Raises:
        FoundationError: the file can't be read, or does not fill the network with tensors of the right shapes.
    """
    try:
        state = load_file(weights_path)
    except (OSError, SafetensorError) as error:
        raise FoundationError(
            f"foundation {preset.name}: {weights_path} is not a readable safetensors file ({error}); install the foundation again"
        ) from None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(NEW_PARTS_SEED)  # MONAI initialises from the global generator
        network = build_network(preset.architecture)
    fill_(network, state, f"foundation {preset.name}: {weights_path}", new_parts(preset, network.state_dict()))
    return network


def new_parts(preset: FoundationPreset, names: Iterable[str]) -> frozenset[str]:
    """Those of a network's tensors that the foundation does not bring: no usable head, or nothing but the Swin encoder was pre-trained."""
    if preset.pretrained_parts == "encoder":
        return frozenset(name for name in names if not name.startswith(SWIN_ENCODER))
    return frozenset(name for name in names if preset.head == "none" and name.startswith(HEAD))


def fill_(network: nn.Module, state: dict[str, Tensor], what: str, new: Collection[str] = ()) -> None:
    """Copies `state` into the network; every tensor of both must find its partner, but those in `new`. `what` starts the error's message."""
    own = {name: tensor for name, tensor in network.state_dict().items() if name not in new}
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or misshapen:
        faults = [
            f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for fault, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
            if names
        ]
        raise FoundationError(
            f"{what} does not fit the network: {len(own) - len(missing) - len(misshapen)} of {len(own)} tensors match; {'; '.join(faults)}"
        )
    network.load_state_dict(network.state_dict() | state)


def sha256(path: Path) -> str:
    """The checksum by which an adapter knows its foundation."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
