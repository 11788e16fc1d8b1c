"""What is done to a finished segmentation: keep a structure's largest component where its support labels are all one piece."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import cc3d
import numpy as np
from scipy import ndimage

from arena_pipeline.io.labels import count_labels

logger = logging.getLogger(__name__)

CONNECTIVITY: Final = 26  # voxels that share a corner belong together


def keep_largest_component_(segmentation: np.ndarray, label: int, box: tuple[slice, ...] | None = None) -> int:
    """In place; returns the number of voxels removed. `box` is a region known to hold every voxel of the label."""
    region = segmentation[box] if box is not None else segmentation
    mask = region == label
    components = cc3d.connected_components(mask, connectivity=CONNECTIVITY)
    sizes = count_labels(components)
    if len(sizes) <= 2:
        return 0
    sizes[0] = 0
    largest = _first_of_the_largest(components, sizes)
    mask &= components != largest
    region[mask] = 0
    return int(sizes.sum() - sizes[largest])


def _first_of_the_largest(components: np.ndarray, sizes: np.ndarray) -> int:
    """Component numbers depend on the array's memory order, so a tie is settled by position."""
    tied = np.flatnonzero(sizes == sizes.max())
    if len(tied) == 1:
        return int(tied[0])
    return int(min(tied, key=lambda number: tuple(np.argwhere(components == number)[0])))


def postprocess_segmentation_(segmentation: np.ndarray, labels: Mapping[str, int], keep_largest: Mapping[str, bool]) -> dict[str, int]:
    """Applies the plans' rule to a label map in place.

    Args:
        segmentation: (x, y, z) integers.
        labels: structure -> integer.
        keep_largest: structure -> whether only its largest component stays; structures not named here are left alone.

    Returns:
        structure -> voxels removed, for the structures that the rule applies to.
    """
    boxes = ndimage.find_objects(segmentation)
    removed = {}
    for name, label in labels.items():
        if label and keep_largest.get(name, False):
            box = boxes[label - 1] if label <= len(boxes) else None
            removed[name] = keep_largest_component_(segmentation, label, box) if box is not None else 0
    return removed
