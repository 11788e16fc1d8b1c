"""A gaussian sliding window over a preprocessed volume.

Overlapping windows are averaged as logits, each voxel weighted by a gaussian around its window's centre; the activation
comes once, after the average. (Averaging first is what the published evaluation does: the activation follows the window.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Activation = Literal["sigmoid", "softmax"]
SIGMA_SHARE = 0.125  # of the patch's edge
LEAST_IMPORTANCE = 1e-3  # of a voxel in a window's corner: keeps the division by the summed weights well conditioned


def window_starts(shape: Sequence[int], patch: Sequence[int], overlap: float) -> list[tuple[int, ...]]:
    """First voxels of the windows that cover a volume of `shape` (each axis at least the patch's).

    Along an axis they step by int(patch * (1 - overlap)), at least 1; the last one is moved back to end with the volume.
    """
    axes = []
    for length, edge in zip(shape, patch, strict=True):
        step = max(int(edge * (1 - overlap)), 1)
        axes.append([*range(0, length - edge, step), length - edge])
    return list(itertools.product(*axes))


def importance(patch: Sequence[int]) -> Tensor:
    """(x, y, z) float32 weights: a gaussian around the centre with sigma an eighth of each edge, at least LEAST_IMPORTANCE."""
    weights = torch.ones(())
    for edge in patch:
        offset = torch.arange(edge, dtype=torch.float32) - (edge - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (offset / (SIGMA_SHARE * edge)) ** 2)
    return weights.clamp(min=LEAST_IMPORTANCE)


@torch.inference_mode()
def sliding_window(
    network: Callable[[Tensor], Tensor],
    volume: np.ndarray,
    patch_size: tuple[int, int, int],
    overlap: float,
    activation: Activation,
    batch: int,
    device: torch.device,
) -> np.ndarray:
    """Probabilities of a whole volume.

    Args:
        network: (batch, 1, *patch_size) -> logits (batch, channels, *patch_size), on `device`, in eval mode.
        volume: (x, y, z) float32, preprocessed; zero-padded on both sides where it is smaller than the patch.
        overlap: share of the patch that neighbouring windows have in common, in [0, 1).
        batch: windows run at once.

    Returns:
        (channels, x, y, z) float32 in [0, 1].
    """
    padded, offset = _pad(volume, patch_size)
    logits = _weighted_logits(network, padded, (patch_size, overlap, batch), device)
    inside = tuple(slice(start, start + length) for start, length in zip(offset, volume.shape, strict=True))
    logits = logits[(slice(None), *inside)]
    for x in range(0, logits.shape[1], patch_size[0]):  # in slabs: a softmax of all at once would double the memory
        slab = logits[:, x : x + patch_size[0]]
        slab.copy_(torch.softmax(slab, dim=0) if activation == "softmax" else torch.sigmoid(slab))
    return logits.contiguous().cpu().numpy()


def _pad(volume: np.ndarray, patch: tuple[int, int, int]) -> tuple[Tensor, list[int]]:
    """The volume zero-padded to at least the patch, and where its first voxel went; odd padding puts the extra voxel at the end."""
    missing = [max(edge - length, 0) for edge, length in zip(patch, volume.shape, strict=True)]
    padding = [(total // 2, total - total // 2) for total in missing]
    array = np.pad(volume, padding) if any(missing) else np.ascontiguousarray(volume)
    return torch.from_numpy(array.astype(np.float32, copy=False)), [before for before, _ in padding]


def _weighted_logits(
    network: Callable[[Tensor], Tensor], volume: Tensor, settings: tuple[tuple[int, int, int], float, int], device: torch.device
) -> Tensor:
    """(channels, x, y, z) logits averaged over the windows; on the device if that has room, else in main memory."""
    patch, overlap, batch = settings
    weights = importance(patch).to(device)
    windows = [_box(start, patch) for start in window_starts(volume.shape, patch, overlap)]
    total: Tensor | None = None
    weight_sum = torch.zeros(())
    for boxes in _batches(windows, batch):
        inputs = torch.stack([volume[box] for box in boxes])[:, None].to(device)
        outputs = network(inputs).float() * weights
        if total is None:
            home = _room_for(outputs.shape[1] * volume.numel() * 4, device)
            total = torch.zeros((outputs.shape[1], *volume.shape), device=home)
            weight_sum = torch.zeros(volume.shape, device=home)
        for box, output in zip(boxes, outputs, strict=True):
            total[(slice(None), *box)] += output.to(total.device)
            weight_sum[box] += weights.to(total.device)
    if total is None:
        raise ValueError(f"no windows in a volume of shape {tuple(volume.shape)}")
    return total.div_(weight_sum)


def _box(start: tuple[int, ...], patch: tuple[int, int, int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + edge) for first, edge in zip(start, patch, strict=True))


def _batches(windows: list[tuple[slice, ...]], batch: int) -> Iterator[list[tuple[slice, ...]]]:
    for first in range(0, len(windows), batch):
        yield windows[first : first + batch]


def _room_for(bytes_needed: int, device: torch.device) -> torch.device:
    """The GPU while the sums take at most a third of its free memory (the network needs the rest), else the CPU."""
    if device.type == "cuda" and 3 * bytes_needed <= torch.cuda.mem_get_info(device)[0]:
        return device
    return torch.device("cpu")
