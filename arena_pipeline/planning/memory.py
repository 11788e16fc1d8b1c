"""How much fits into memory. What a network takes, its architecture says; what the volumes of a case take is measured here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.machine import Machine

WEIGHT_BYTES = 4
"""float32."""
TRAINED_PARAMETER_BYTES = 16
"""A weight, its gradient and AdamW's two moments, float32."""
HALF_SHARE = 0.65
"""Of what activations take in float32, in 16 bits: more than half, since the head and the loss keep float32. A guess; no GPU has measured it."""
DEVICE_SHARE = 0.8
"""Of an accelerator's memory: the rest is for the driver, fragmentation and the display."""
MAIN_SHARE = 0.5
"""Of the main memory: the rest is for the cases and for other programs."""
CASE_BYTES_PER_NATIVE_VOXEL = 24
"""Preprocessing of one case: the volume as read and in float32, its segmentation, copies on the way."""
CASE_BYTES_PER_SCHEME_VOXEL = 16
"""Likewise, per voxel of the resampled volume."""
PROBABILITY_BYTES = 8
"""Per output channel and voxel: probabilities and what they are accumulated in."""


def network_memory_bytes(machine: Machine) -> int:
    """What the network and its activations may take: a share of the accelerator's memory, or of the main memory without one."""
    if machine.device_memory_bytes is None:
        return int(MAIN_SHARE * machine.memory_bytes)
    return int(DEVICE_SHARE * machine.device_memory_bytes)


def training_patch_bytes(preset: FoundationPreset, recompute: bool = False, half: bool = False) -> int:
    """Activations and gradients of one patch; `half`: of a network that computes in 16 bits."""
    return int(preset.architecture.training_bytes(preset.scheme.patch_size_voxels, recompute) * (HALF_SHARE if half else 1))


def training_patches_that_fit(preset: FoundationPreset, machine: Machine, recompute: bool = False, half: bool = False) -> int:
    """Patches of one micro-batch beside a network whose weights are all trained; 0 where not even one is sure to fit."""
    network = TRAINED_PARAMETER_BYTES * preset.architecture.parameters
    return max(0, network_memory_bytes(machine) - network) // training_patch_bytes(preset, recompute, half)


def adaptation_bytes(preset: FoundationPreset, patches: int) -> int:
    """An adaptation that runs `patches` at once and trains all weights; one that trains fewer takes less."""
    return TRAINED_PARAMETER_BYTES * preset.architecture.parameters + patches * training_patch_bytes(preset)


def window_bytes(preset: FoundationPreset, half: bool = False) -> int:
    """Activations of one window in prediction."""
    return int(preset.architecture.window_bytes(preset.scheme.patch_size_voxels) * (HALF_SHARE if half else 1))


def windows_that_fit(preset: FoundationPreset, machine: Machine, out_channels: int, half: bool = False) -> int:
    """Windows that the network can predict at once; 0 where not even one is sure to fit."""
    network = WEIGHT_BYTES * preset.architecture.parameters
    window = window_bytes(preset, half) + PROBABILITY_BYTES * out_channels * math.prod(preset.scheme.patch_size_voxels)
    return max(0, network_memory_bytes(machine) - network) // window


def case_bytes(shape: Sequence[int], spacing_mm: Sequence[float], scheme_spacing_mm: Sequence[float]) -> int:
    """One case that one worker process preprocesses."""
    native = math.prod(shape)
    resampled = math.prod(size * old / new for size, old, new in zip(shape, spacing_mm, scheme_spacing_mm, strict=True))
    return int(CASE_BYTES_PER_NATIVE_VOXEL * native + CASE_BYTES_PER_SCHEME_VOXEL * resampled)
