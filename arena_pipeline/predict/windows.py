"""A gaussian sliding window over a preprocessed volume.

Overlapping windows are averaged as logits, each voxel weighted by a gaussian around its window's centre; the activation
comes once, after the average. (Averaging first is what the published evaluation does: the activation follows the window.)

Windows go along the volume layer by layer: sums are held for one layer's depth only, and what no later window touches is
finished and handed out. So beside the probabilities themselves little is in memory, however long the volume.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from arena_pipeline.ahead import one_ahead
from arena_pipeline.model.device import free_bytes
from arena_pipeline.model.out_of_memory import FittingBatch
from arena_pipeline.model.precision import Precision

Activation = Literal["sigmoid", "softmax", "margin"]
"""What follows the logits; a margin is a softmax whose first channel is the structure, held against the highest of the others."""
Network = Callable[[Tensor], Tensor]
Box = tuple[slice, ...]
Watch = Callable[[int, int, Box, np.ndarray], None]
SIGMA_SHARE = 0.125  # of the patch's edge
PIECE_VOXELS = 32  # along x: what is finished is handed out in pieces, since the activation copies its input more than once
NNUNET_LEAST_IMPORTANCE = 6e-9  # the least number of half precision, where the largest weight is 10
LEAST_IMPORTANCE = 1e-3  # of a voxel in a window's corner: keeps the division by the summed weights well conditioned


@dataclass(frozen=True, eq=False)
class Windows:
    """How a volume is covered.

    Attributes:
        overlap: share of the patch that neighbouring windows have in common, in [0, 1).
        batch: windows run at once.
        precision: of the networks; None: float32.
        as_nnunet: steps of one length and weights as nnU-Net has them, instead of a shorter last step.
    """

    patch_size: tuple[int, int, int]
    overlap: float
    activation: Activation
    batch: FittingBatch
    device: torch.device
    as_nnunet: bool = False
    precision: Precision | None = None


def axis_starts(shape: Sequence[int], patch: Sequence[int], overlap: float, as_nnunet: bool = False) -> list[list[int]]:
    """Per axis the first voxels of the windows that cover a volume of `shape` (each axis at least the patch's).

    They step by int(patch * (1 - overlap)), at least 1; the last one is moved back to end with the volume. `as_nnunet`: as many as
    that takes, evenly spread instead.
    """
    axes = []
    for length, edge in zip(shape, patch, strict=True):
        last = length - edge
        if as_nnunet:
            steps = math.ceil(last / (edge * (1 - overlap)))
            axes.append([round(last / steps * number) for number in range(steps)] + [last])
        else:
            axes.append([*range(0, last, max(int(edge * (1 - overlap)), 1)), last])
    return axes


def importance(patch: Sequence[int], as_nnunet: bool = False) -> Tensor:
    """(x, y, z) float32 weights: a gaussian around the centre with sigma an eighth of each edge, at least LEAST_IMPORTANCE.

    `as_nnunet`: as nnU-Net has it, around voxel edge // 2 and down to what half precision can hold.
    """
    weights = torch.ones(())
    for edge in patch:
        offset = torch.arange(edge, dtype=torch.float32) - (edge // 2 if as_nnunet else (edge - 1) / 2)
        weights = weights[..., None] * torch.exp(-0.5 * (offset / (SIGMA_SHARE * edge)) ** 2)
    return weights.clamp(min=NNUNET_LEAST_IMPORTANCE if as_nnunet else LEAST_IMPORTANCE)


@dataclass(frozen=True, eq=False)
class Bundle:
    """Networks that see every window together.

    Attributes:
        network: (batch, 1, *patch_size) -> their logits beside each other on the channels' axis, equally many of each.
        means: for each network, the index of the mean that it contributes to.
    """

    network: Network
    means: tuple[int, ...]


def means_over_bundles(bundles: Iterable[Bundle], volume: np.ndarray, windows: Windows, watch: Watch | None = None) -> list[np.ndarray]:
    """The means of the probabilities of several networks, each (channels, x, y, z) float32; however many they are, each mean is in memory once.

    `watch(mean, network, box, probabilities)` sees every part of every network's own probabilities, (channels, x, y, z), and may change it in place.
    """
    totals, counts = dict[int, np.ndarray](), Counter[int]()
    for bundle in bundles:
        numbers = []
        for mean in bundle.means:
            numbers.append(counts[mean])
            counts[mean] += 1
        slabs = probability_slabs(bundle.network, volume, windows, len(bundle.means))
        # a GPU goes on with the next windows while the last ones are fetched and added; a CPU's cores are busy with the windows anyway
        for box, slab in one_ahead(slabs) if windows.device.type == "cuda" else slabs:
            for mean, number, part in zip(bundle.means, numbers, np.split(slab, len(bundle.means)), strict=True):
                if watch is not None:
                    watch(mean, number, box, part)
                if mean not in totals:
                    totals[mean] = np.zeros((len(part), *volume.shape), np.float32)
                _add_(totals[mean], box, part)
    if not totals:
        raise ValueError("no probabilities to average")
    for mean in (mean for mean, count in counts.items() if count > 1):
        totals[mean] /= counts[mean]
    return [totals[mean] for mean in sorted(totals)]


def _add_(total: np.ndarray, box: Box, part: np.ndarray) -> None:
    if len(part) != len(total):
        raise ValueError(f"probabilities of {len(total)} and {len(part)} channels can't be averaged")
    total[(slice(None), *box)] += part


@torch.inference_mode()
def probability_slabs(network: Network, volume: np.ndarray, windows: Windows, networks: int = 1) -> Iterator[tuple[Box, np.ndarray]]:
    """Probabilities of a whole volume, part by part.

    Args:
        network: (batch, 1, *patch_size) -> logits (batch, channels, *patch_size), on the windows' device, in eval mode; they are changed in place.
        volume: (x, y, z) float32, preprocessed; zero-padded on both sides where it is smaller than the patch.
        networks: whose logits `network` gives beside each other, each with a softmax of its own.

    Yields:
        disjoint boxes that make up the volume, and each one's (channels, x, y, z) float32 in [0, 1].
    """
    padded, offset = _pad(volume, windows.patch_size)
    along = int(np.argmin([edge / length for edge, length in zip(windows.patch_size, padded.shape, strict=True)]))
    for first, logits in _finished_logits(network, padded, windows, along):
        begins = [first if axis == along else 0 for axis in range(3)]
        inside = [
            slice(max(0, before - begin), min(length, before + inner - begin))
            for begin, length, before, inner in zip(begins, logits.shape[1:], offset, volume.shape, strict=True)
        ]
        part = logits[(slice(None), *inside)]
        x, y, z = (begin + where.start - before for begin, where, before in zip(begins, inside, offset, strict=True))
        for piece in part.split(PIECE_VOXELS, dim=1) if part.numel() else ():
            softmax = windows.activation != "sigmoid"
            probabilities = torch.softmax(piece.unflatten(0, (networks, -1)), dim=1).flatten(0, 1) if softmax else torch.sigmoid(piece)
            box = tuple(slice(start, start + length) for start, length in zip((x, y, z), piece.shape[1:], strict=True))
            x += piece.shape[1]
            yield box, probabilities.cpu().numpy()


def _pad(volume: np.ndarray, patch: tuple[int, int, int]) -> tuple[Tensor, list[int]]:
    """The volume zero-padded to at least the patch, and where its first voxel went; odd padding puts the extra voxel at the end."""
    missing = [max(edge - length, 0) for edge, length in zip(patch, volume.shape, strict=True)]
    padding = [(total // 2, total - total // 2) for total in missing]
    array = np.pad(volume, padding) if any(missing) else np.ascontiguousarray(volume)
    return torch.from_numpy(array.astype(np.float32, copy=False)), [before for before, _ in padding]


def _finished_logits(network: Network, volume: Tensor, windows: Windows, along: int) -> Iterator[tuple[int, Tensor]]:
    """(first voxel on axis `along`, (channels, x, y, z) averaged logits from there on), in order; valid until the next one.

    Sums and weights cover one layer of windows. After each layer, what lies before the next one is finished and moves out.
    """
    patch, starts = windows.patch_size, axis_starts(volume.shape, windows.patch_size, windows.overlap, windows.as_nnunet)
    importances = importance(patch, windows.as_nnunet).to(windows.device)
    across = [[0] if axis == along else starts[axis] for axis in range(3)]
    depth = [patch[axis] if axis == along else volume.shape[axis] for axis in range(3)]
    sums = weights = torch.zeros(())
    for first, following in itertools.pairwise([*starts[along], volume.shape[along]]):
        layer = volume.narrow(along, first, patch[along])
        for boxes in _batches([_box(start, patch) for start in itertools.product(*across)], windows.batch.size or 1):
            outputs = _run(network, _on(windows.device, torch.stack([layer[box] for box in boxes])[:, None]), windows)
            outputs *= importances
            if not sums.ndim:
                home = _room_for(outputs.shape[1] * int(np.prod(depth)) * 4, windows.device)
                sums, weights = torch.zeros((outputs.shape[1], *depth), device=home), torch.zeros(depth, device=home)
            for box, output in zip(boxes, outputs, strict=True):
                sums[(slice(None), *box)] += output.to(sums.device)
                weights[box] += importances.to(sums.device)
        finished = following - first
        yield first, sums.narrow(along + 1, 0, finished).div_(weights.narrow(along, 0, finished))
        for held, axis in ((sums, along + 1), (weights, along)):
            _shift_(held, axis, finished)


def _run(network: Network, inputs: Tensor, windows: Windows) -> Tensor:
    """The network on all inputs, as many at once as the device has room for; logits in float32."""

    def run(size: int) -> Tensor:
        parts = [network(part).float() for part in inputs.split(size)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    with (windows.precision or Precision(windows.device)).autocast():
        return windows.batch.run(run)


def _on(device: torch.device, patches: Tensor) -> Tensor:
    """The same on the device, on its way there while the one before is computed."""
    return patches.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else patches


def _shift_(tensor: Tensor, axis: int, by: int) -> None:
    """Moves the content towards the beginning of `axis`; zeros follow."""
    kept = tensor.shape[axis] - by
    if kept:
        tensor.narrow(axis, 0, kept).copy_(tensor.narrow(axis, by, kept).clone())
    tensor.narrow(axis, kept, by).zero_()


def _box(start: tuple[int, ...], patch: tuple[int, int, int]) -> Box:
    return tuple(slice(first, first + edge) for first, edge in zip(start, patch, strict=True))


def _batches(windows: list[Box], batch: int) -> Iterator[list[Box]]:
    for first in range(0, len(windows), batch):
        yield windows[first : first + batch]


def _room_for(bytes_needed: int, device: torch.device) -> torch.device:
    """The GPU while the sums take at most a third of its free memory (the network needs the rest), else the CPU."""
    return device if device.type == "cuda" and 3 * bytes_needed <= free_bytes(device) else torch.device("cpu")
