"""Resampling of label maps by the nearest voxel, corner-aligned (MONAI) or edge-aligned (nnU-Net), and the size and spacing of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Triple = tuple[float, float, float]

SAME_SPACING_MM = 1e-3
"""Spacings this close are the same: the axis is left as it is (as in MONAI)."""


def effective_spacing(old_mm: Triple, new_mm: Triple) -> Triple:
    """The spacing that an axis gets: `new_mm`, or `old_mm` where that is the same within SAME_SPACING_MM."""
    x, y, z = (old if abs(old - new) <= SAME_SPACING_MM else new for old, new in zip(old_mm, new_mm, strict=True))
    return x, y, z


def resampled_size(n: int, old_mm: float, new_mm: float) -> int:
    """round((n - 1) * old / new) + 1.

    Where (n - 1) * old / new ends in exactly .5, MONAI adds the 1 before rounding half to even; so it is done here.
    """
    return int(np.round((n - 1) * (old_mm / new_mm) + 1.0))


@dataclass(frozen=True)
class Sampling:
    """Where the voxels of another grid lie along one axis.

    Attributes:
        positions: of their centres, in voxels of the old grid.
        nearest: the old voxel next to each.
        step: from one to the next, in old voxels.
    """

    positions: np.ndarray
    nearest: np.ndarray
    step: float


def corner_aligned(n: int, old_mm: float, new_mm: float) -> Sampling:
    """The first voxel's centre stays where it is: the grid of `resample_linear`.

    A position half-way between two voxels takes the even index. (MONAI's rule too, but its position there is only as exact
    as its arithmetic: on spacings with such ties, say 1.0 to 1.5 mm, it takes either neighbour.)
    """
    positions = np.arange(resampled_size(n, old_mm, new_mm)) * (new_mm / old_mm)
    # rounded, so that a position half-way between two voxels is exactly that
    return Sampling(positions, np.clip(np.rint(np.round(positions, 6)), 0, n - 1).astype(np.intp), new_mm / old_mm)


def edge_aligned(n: int, n_new: int) -> Sampling:
    """The volume's outer edges stay where they are, as in nnU-Net; half-way between two voxels the higher one, but for rounding."""
    positions = (n / n_new) * (np.arange(n_new) + 0.5) - 0.5
    return Sampling(positions, np.clip(np.floor(positions + 0.5), 0, n - 1).astype(np.intp), n / n_new)


def corner_aligned_axes(shape: tuple[int, ...], spacing_old: Triple, spacing_new: Triple) -> list[Sampling]:
    """All three axes; those whose spacing is the same stay as they are."""
    spacings = zip(shape, spacing_old, effective_spacing(spacing_old, spacing_new), strict=True)
    return [corner_aligned(n, old, new) for n, old, new in spacings]


def edge_aligned_axes(shape: tuple[int, ...], shape_new: tuple[int, ...]) -> list[Sampling]:
    """All three axes."""
    return [edge_aligned(n, n_new) for n, n_new in zip(shape, shape_new, strict=True)]


def take_nearest(array: np.ndarray, axes: Sequence[Sampling]) -> np.ndarray:
    """The nearest voxel, for labels; C-contiguous, the type of `array`."""
    return np.ascontiguousarray(array[np.ix_(*(axis.nearest for axis in axes))])


def edge_aligned_shape(shape: tuple[int, ...], spacing_old: Triple, spacing_new: Triple) -> tuple[int, int, int]:
    """round(n old / new), at least one voxel."""
    x, y, z = (max(1, round(old / new * n)) for n, old, new in zip(shape, spacing_old, spacing_new, strict=True))
    return x, y, z


def resample_nearest(array: np.ndarray, spacing_old: Triple, spacing_new: Triple) -> np.ndarray:
    """The nearest voxel on a corner-aligned grid: that of `resample_linear`."""
    return take_nearest(array, corner_aligned_axes(array.shape, spacing_old, spacing_new))
