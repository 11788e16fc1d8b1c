"""Slices that somebody skipped while contouring, filled in between their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage

from arena_pipeline.words import pluralize


def bridge_(mask: np.ndarray, drawn: Sequence[int], spacing_mm: tuple[float, float, float], largest_mm: float) -> list[str]:
    """Fills the slices between drawn ones where these overlap and are at most `largest_mm` apart: the mean of both signed distances,
    weighted by place (Raya and Udupa, IEEE TMI 9 (1990) 32). Only the parts that overlap go on; what ends on one side ends there.

    Args:
        mask: boolean (x, y, z).
        drawn: the slices with contours, ascending.

    Returns:
        in words, what was filled and what was left empty.
    """
    filled: list[int] = []
    left: list[int] = []
    for low, high in pairwise(drawn):
        if high - low == 1:
            continue
        overlap = mask[:, :, low] & mask[:, :, high]
        if not overlap.any() or (high - low) * spacing_mm[2] > largest_mm:
            left += range(low + 1, high)
            continue
        below, above = (_signed_distance(_parts_in(mask[:, :, index], overlap), spacing_mm[:2]) for index in (low, high))
        for index in range(low + 1, high):
            share = (index - low) / (high - low)
            mask[:, :, index] = (1 - share) * below + share * above > 0
        filled += range(low + 1, high)
    notes = [f"{pluralize(len(filled), 'slice')} without contours filled in between ({_slice_numbers(filled)})"] if filled else []
    return notes + ([f"{pluralize(len(left), 'slice')} without contours between drawn ones left empty ({_slice_numbers(left)})"] if left else [])


def _parts_in(plane: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    parts, _ = ndimage.label(plane)
    return np.isin(parts, parts[overlap])


def _signed_distance(plane: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    return ndimage.distance_transform_edt(plane, spacing_mm) - ndimage.distance_transform_edt(~plane, spacing_mm)


def _slice_numbers(slices: Sequence[int]) -> str:
    """Counted from 1, as viewers do."""
    return ", ".join(str(index + 1) for index in slices[:5]) + (", ..." if len(slices) > 5 else "")
