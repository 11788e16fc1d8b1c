"""A safetensors file that somebody else may have made: sizes, names, shapes and types are judged from its header, then its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arena_pipeline.words import listed

FLOATS = ("F32", "F16", "BF16")  # in safetensors' words
HEADER_BYTES = 4 * 2**20  # names, shapes and types of some 30,000 tensors
LENGTH_BYTES = 8  # of the header's length, in front of it
NAMES_SHOWN = 3


class UnfitTensors(ValueError):
    """Why a file is not taken, in words without its path: the caller knows what it was meant to be."""


@dataclass(frozen=True)
class TensorFacts:
    """One tensor as the header describes it; `dtype` in safetensors' words, such as F32."""

    shape: tuple[int, ...]
    dtype: str


def read_tensors(path: Path, max_bytes: int, faults: Callable[[Mapping[str, TensorFacts]], Sequence[str]]) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, all floating-point values finite.

    Args:
        max_bytes: the largest file that is read at all.
        faults: what is wrong with the tensors that the header describes, in words; nothing is loaded if there is anything.

    Raises:
        UnfitTensors: too large, not a whole safetensors file, `faults`, or values that are not finite.
        OSError: the file can't be read.
    """
    _check_sizes(path, max_bytes)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
            facts = {name: TensorFacts(tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
            if found := faults(facts):
                raise UnfitTensors(listed(found, NAMES_SHOWN, "; "))
            tensors = {name: file.get_tensor(name) for name in facts}
    except SafetensorError as error:
        raise UnfitTensors(f"not a whole safetensors file: {error}") from None
    wild = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not all_finite(tensor)]
    if wild:
        raise UnfitTensors(f"{listed(wild, NAMES_SHOWN)}: values that are not finite")
    return tensors


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite: either shows in the extremes, which are found in one pass and without a copy."""
    return tensor.numel() == 0 or all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))


def _check_sizes(path: Path, max_bytes: int) -> None:
    """Of the file and of its header, before either is read."""
    size = path.stat().st_size
    if size > max_bytes:
        raise UnfitTensors(f"{size:,} bytes, at most {max_bytes:,} were expected")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if header > min(HEADER_BYTES, size):
        raise UnfitTensors(f"not a safetensors file, or a damaged one: a header of {header:,} bytes in a file of {size:,}")


def not_floating(facts: Mapping[str, TensorFacts]) -> list[str]:
    """Those tensors that are not of a type that weights have, with what they are."""
    return [f"{name} is {fact.dtype} instead of {', '.join(FLOATS)}" for name, fact in facts.items() if fact.dtype not in FLOATS]
