"""Weights of a foundation: safetensors in the network's names, filled exactly or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset, packaged_weights
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.model.architectures import Architecture
from arena_pipeline.model.tensor_files import HEADER_BYTES, TensorFacts, UnfitTensors, not_floating, read_tensors
from arena_pipeline.words import listed

NEW_PARTS_SEED = 0


def load_foundation_network(preset: FoundationPreset, weights_path: Path) -> nn.Module:
    """The pre-trained network in eval mode; parts that the foundation does not bring have random weights, the same ones every time.

    Raises:
        FoundationError: the file can't be read, or does not fill the network with tensors of the right shapes.
    """
    what = f"foundation {preset.name}: {weights_path}"
    _check_packaged(preset, weights_path)
    network = random_network(preset.architecture, NEW_PARTS_SEED)
    own = network.state_dict()
    try:
        most_bytes = HEADER_BYTES + sum(tensor.nbytes for tensor in own.values())
        state = read_tensors(weights_path, most_bytes, lambda facts: _wrong_types(facts, preset.architecture))
    except (OSError, UnfitTensors) as error:
        raise FoundationError(f"{what} is not a readable file of its weights ({error})", advice="install the foundation again") from None
    fill_(network, state, what, new_parts(preset, own))
    if wild := [name for name in state if preset.architecture.is_derived(name) and not preset.architecture.derived_fits(name, state)]:
        raise FoundationError(f"{what}: positions outside their tables in {listed(wild, 3)}", advice="install the foundation again")
    return network


def random_network(architecture: Architecture, seed: int) -> nn.Module:
    """The network in eval mode, with the random weights that its family starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # MONAI initialises from the global generator
        return architecture.build()


def _check_packaged(preset: FoundationPreset, path: Path) -> None:
    """Of the packaged weights the preset has the checksum; others are checked against the adapters and plans made for them."""
    if path != packaged_weights(preset) or preset.weights.sha256 is None:
        return
    found = file_sha256(path)
    if found != preset.weights.sha256:
        raise FoundationError(
            f"foundation {preset.name}: {path} has the SHA-256 {found[:12]}..., its preset says {preset.weights.sha256[:12]}...",
            advice="the file was changed or damaged, reinstall arena-pipeline",
        )


def _wrong_types(facts: Mapping[str, TensorFacts], architecture: Architecture) -> list[str]:
    indices = {name: fact.dtype for name, fact in facts.items() if architecture.is_derived(name)}
    wrong = [f"{name} is {dtype} instead of I64" for name, dtype in indices.items() if dtype != "I64"]
    return wrong + not_floating({name: fact for name, fact in facts.items() if name not in indices})


def new_parts(preset: FoundationPreset, names: Iterable[str]) -> frozenset[str]:
    """Those of a network's tensors that the foundation does not bring: no usable head, or nothing but the encoder was pre-trained."""
    if preset.pretrained_parts == "encoder":
        return frozenset(name for name in names if not name.startswith(preset.architecture.encoder))
    return frozenset(name for name in names if preset.head == "none" and name.startswith(f"{preset.architecture.head}."))


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
        matching = len(own) - len(missing) - len(misshapen)
        raise FoundationError(f"{what} does not fit the network: {matching} of {len(own)} tensors match; {'; '.join(faults)}")
    network.load_state_dict(network.state_dict() | state)
