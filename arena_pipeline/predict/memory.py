"""What predicting one volume takes in main memory, beside the network: told before it starts, and checked once it is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import psutil

from arena_pipeline.errors import ArenaError
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.nearest import effective_spacing, resampled_size
from arena_pipeline.machine import free_memory_bytes
from arena_pipeline.words import memory_size, pluralize

FLOAT = 4
PROCESS_BYTES = 512 * 2**20
"""Of a process that predicts, beside what a window takes: Python, torch and a small network. 729 MiB were the peak of one whose window took 210."""
SUMS_COPIES = 3  # of the depth of one window: the sums of logits, and the outputs that are added to them
SEGMENTATION_BYTES = 2
EXPORT_BYTES = 6
"""Per native voxel: the segmentation, and the highest probability so far where a structure has been."""
KEPT_BYTES = 6
"""Likewise, where probabilities are written: a map in float32, and in float16."""
COMPONENT_BYTES = 10
"""Per native voxel, after the probabilities are gone: masks and numbered components of a structure as large as the volume."""


def case_parts(
    geometry: Geometry,
    scheme_spacing_mm: tuple[float, float, float],
    patch: Sequence[int],
    channels: int,
    keeps_probabilities: bool,
    summed_channels: int | None = None,
) -> dict[str, int]:
    """Bytes of each part, at the moment when most is held, for a volume that is all patient: what is cropped away comes off.

    Args:
        channels: outputs of the network, the background among them.
        keeps_probabilities: whether they are handed out on the native grid.
        summed_channels: of all networks that see a window together; None: as many as `channels`.
    """
    native = math.prod(geometry.shape)
    header = geometry.header
    stored = FLOAT if header is None else header.get_data_dtype().itemsize
    held = stored if header is not None and header.get_data_dtype().kind in "iu" else FLOAT
    spacing = effective_spacing(geometry.spacing_mm, scheme_spacing_mm)
    shape = [resampled_size(n, old, new) for n, old, new in zip(geometry.shape, geometry.spacing_mm, spacing, strict=True)]
    parts = {"CT": held * native, "preprocessed": FLOAT * math.prod(shape)}
    parts |= working_parts(shape, geometry.shape, patch, channels, keeps_probabilities, summed_channels)
    # Before and after, when there are no probabilities, something else may be larger: reading floats, or cleaning the segmentation.
    elsewhere = native * max(stored + FLOAT, held + 1 + COMPONENT_BYTES)
    return parts if sum(parts.values()) >= elsewhere else {"reading, components": elsewhere}


def working_parts(
    shape: Sequence[int],
    native_shape: Sequence[int],
    patch: Sequence[int],
    channels: int,
    keeps_probabilities: bool,
    summed_channels: int | None = None,
) -> dict[str, int]:
    """Bytes beyond the CT and its preprocessed volume of `shape`."""
    voxels, native = math.prod(shape), math.prod(native_shape)
    layer = min(1.0, min(edge / length for edge, length in zip(patch, shape, strict=True)))
    sums = int(SUMS_COPIES * FLOAT * (summed_channels or channels) * voxels * layer)
    kept = KEPT_BYTES if keeps_probabilities else 0
    # Several channels are one task, after which the highest probabilities are gone; other tasks of one channel may follow.
    export = (max(EXPORT_BYTES, SEGMENTATION_BYTES + kept) if channels > 1 else EXPORT_BYTES + kept) * native
    return {f"probabilities of {pluralize(channels, 'channel')}": FLOAT * channels * voxels, "windows or export": max(sums, export)}


def most_that_fit(wanted: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `wanted` that `fits`; 1 where none does."""
    return next((number for number in range(wanted, 1, -1) if fits(number)), 1)


def memory_in_words(parts: Mapping[str, int]) -> str:
    """4.7 GiB of memory beside the network (CT 512 MiB, preprocessed 1.2 GiB, ...)."""
    listed = ", ".join(f"{name} {memory_size(part)}" for name, part in parts.items())
    return f"{memory_size(sum(parts.values()))} of memory beside the network ({listed})"


def require_memory(parts: Mapping[str, int]) -> None:
    """Raises ArenaError where memory and swap together are not enough: the system would end the process in the middle."""
    free, swap = free_memory_bytes(), psutil.swap_memory().free
    if sum(parts.values()) > free + swap:
        raise ArenaError(
            f"predicting takes {memory_in_words(parts)}, and {memory_size(free)} of memory and {memory_size(swap)} of swap are free; "
            f"close other programs, crop the CT, or use a machine with more memory"
        )
