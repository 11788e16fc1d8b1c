"""Hounsfield units to the [0, 1] that the foundation saw."""

from __future__ import annotations

import numpy as np


def window_to_unit_(array: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """(array - low) / (high - low), clipped to [0, 1]; in place.

    Args:
        array: float32, HU.
        window_hu: (low, high).
    """
    low, high = window_hu
    array -= np.float32(low)
    array /= np.float32(high - low)
    return np.clip(array, 0, 1, out=array)
