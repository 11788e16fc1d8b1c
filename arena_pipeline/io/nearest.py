"""Corner-aligned resampling of label maps by the nearest voxel, and the size and spacing of the result."""

from __future__ import annotations

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


def resample_nearest(array: np.ndarray, spacing_old: Triple, spacing_new: Triple) -> np.ndarray:
    """The nearest voxel, for labels; the same grid as `resample_linear`, the type of `array`.

    A position half-way between two voxels takes the even index. (MONAI's rule too, but its position there is only as exact
    as its arithmetic: on spacings with such ties, say 1.0 to 1.5 mm, it takes either neighbour.)
    """
    spacing_new = effective_spacing(spacing_old, spacing_new)
    indices = []
    for n, old, new in zip(array.shape, spacing_old, spacing_new, strict=True):
        position = np.arange(resampled_size(n, old, new)) * (new / old)
        # rounded, so that a position half-way between two voxels is exactly that
        indices.append(np.clip(np.rint(np.round(position, 6)), 0, n - 1).astype(np.intp))
    return array[np.ix_(*indices)]
