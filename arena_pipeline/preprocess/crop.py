"""The box that holds all of the patient."""

from __future__ import annotations

import numpy as np

Index = tuple[int, int, int]


def bounding_box(mask: np.ndarray) -> tuple[Index, Index] | None:
    """First voxel and one past the last voxel of the smallest box (x, y, z) around `mask`; None where it is empty."""
    columns: np.ndarray = np.any(mask, axis=2)
    if not columns.any():
        return None
    (x0, x1), (y0, y1), (z0, z1) = _extent(columns, 1), _extent(columns, 0), _extent(mask, (0, 1))
    return (x0, y0, z0), (x1, y1, z1)


def _extent(mask: np.ndarray, other_axes: int | tuple[int, ...]) -> tuple[int, int]:
    found = np.flatnonzero(np.any(mask, axis=other_axes))
    return int(found[0]), int(found[-1]) + 1
