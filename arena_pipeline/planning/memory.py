"""How much fits into memory: estimates from measured bytes per voxel.

Peak memory of this package's Swin UNETR in float32, per voxel of a patch and per unit of feature_size (python -m benchmarks.activations):

    feature_size, window, patch    forward and backward, all weights trained    with activations computed again    forward alone
    48, 7, 96^3                    121 bytes                                    57 bytes                           29 bytes
    48, 7, 64^3                    133 bytes                                    85 bytes                           37 bytes
    24, 7, 64^3                    232 bytes                                    172 bytes                          40 bytes
    12, 4, 64^3                    169 bytes                                    106 bytes                          53 bytes

(resident memory above the network's own, torch 2.13 on a CPU; two patches take twice as much). The numbers below are above those of every
foundation there is; the third line, where the windows of the coarse levels are mostly padding, is none. A frozen decoder needs less. So a
96^3 patch at feature_size 48 is planned with 7.9 GiB in training and 2.8 GiB in prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.machine import Machine

TRAINING_BYTES = 200
"""Per voxel of a patch and unit of feature_size, forward and backward."""
RECOMPUTING_BYTES = 135
"""Likewise with activations computed again in the backward pass (arena_pipeline.model.recompute)."""
PREDICTION_BYTES = 70
"""Likewise, forward alone."""
PARAMETERS_PER_SQUARED_FEATURE = 27_000
"""Parameters of a Swin UNETR / feature_size^2: 62.19 million at 48, 3.91 million at 12."""
TRAINED_PARAMETER_BYTES = 16
"""A weight, its gradient and AdamW's two moments, float32."""
DEVICE_SHARE = 0.8
"""Of an accelerator's memory: the rest is for the driver, fragmentation and the display."""
MAIN_SHARE = 0.5
"""Of the main memory: the rest is for the cases and for other programs."""
CASE_BYTES_PER_NATIVE_VOXEL = 24
"""Preprocessing or export of one case: the volume as read and in float32, its segmentation, copies on the way."""
CASE_BYTES_PER_SCHEME_VOXEL = 16
"""Likewise, per voxel of the resampled volume."""
PROBABILITY_BYTES = 8
"""Per output channel and voxel: probabilities and what they are accumulated in."""


def network_memory_bytes(machine: Machine) -> int:
    """What the network and its activations may take: a share of the accelerator's memory, or of the main memory without one."""
    if machine.device_memory_bytes is None:
        return int(MAIN_SHARE * machine.memory_bytes)
    return int(DEVICE_SHARE * machine.device_memory_bytes)


def training_patch_bytes(preset: FoundationPreset, recompute: bool = False) -> int:
    """Activations and gradients of one patch."""
    return (RECOMPUTING_BYTES if recompute else TRAINING_BYTES) * preset.architecture.feature_size * math.prod(preset.scheme.patch_size_voxels)


def training_patches_that_fit(preset: FoundationPreset, machine: Machine, recompute: bool = False) -> int:
    """Patches of one micro-batch beside a network whose weights are all trained; 0 where not even one is sure to fit."""
    network = TRAINED_PARAMETER_BYTES * PARAMETERS_PER_SQUARED_FEATURE * preset.architecture.feature_size**2
    return max(0, network_memory_bytes(machine) - network) // training_patch_bytes(preset, recompute)


def adaptation_bytes(preset: FoundationPreset, patches: int) -> int:
    """An adaptation that runs `patches` at once and trains all weights; one that trains fewer takes less."""
    return TRAINED_PARAMETER_BYTES * PARAMETERS_PER_SQUARED_FEATURE * preset.architecture.feature_size**2 + patches * training_patch_bytes(preset)


def window_bytes(preset: FoundationPreset) -> int:
    """Activations of one window in prediction."""
    return PREDICTION_BYTES * preset.architecture.feature_size * math.prod(preset.scheme.patch_size_voxels)


def windows_that_fit(preset: FoundationPreset, machine: Machine, out_channels: int) -> int:
    """Windows that the network can predict at once; 0 where not even one is sure to fit."""
    network = 4 * PARAMETERS_PER_SQUARED_FEATURE * preset.architecture.feature_size**2
    per_voxel = PREDICTION_BYTES * preset.architecture.feature_size + PROBABILITY_BYTES * out_channels
    return max(0, network_memory_bytes(machine) - network) // (per_voxel * math.prod(preset.scheme.patch_size_voxels))


def case_bytes(shape: Sequence[int], spacing_mm: Sequence[float], scheme_spacing_mm: Sequence[float], channels: int = 0) -> int:
    """One case in the hands of one worker process; `channels` of probabilities on the scheme's grid where it is exported."""
    native = math.prod(shape)
    resampled = math.prod(size * old / new for size, old, new in zip(shape, spacing_mm, scheme_spacing_mm, strict=True))
    return int(CASE_BYTES_PER_NATIVE_VOXEL * native + (CASE_BYTES_PER_SCHEME_VOXEL + PROBABILITY_BYTES * channels) * resampled)
