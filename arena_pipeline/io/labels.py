"""Counting and finding the labels of a segmentation."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

UNLABELLED = 65_535
"""In the segmentation of a preprocessed case: a voxel that nobody annotated (nnU-Net's `ignore`). No structure has this integer."""
Box = tuple[slice, slice, slice]
CHUNK_VOXELS = 1 << 20  # numpy's bincount turns its input into 64-bit integers: eight bytes per voxel of a whole-body CT are too many


def count_labels(segmentation: np.ndarray, minlength: int = 0) -> np.ndarray:
    """Voxels of every label: (n,) int64, n at least `minlength`, with `counts[label]`; memory stays small.

    Args:
        segmentation: of any shape, of unsigned integers.
    """
    flat = segmentation.ravel(order="K")
    counts = np.zeros(max(minlength, int(flat.max(initial=0)) + 1), np.int64)
    for start in range(0, flat.size, CHUNK_VOXELS):
        counts += np.bincount(flat[start : start + CHUNK_VOXELS], minlength=len(counts))
    return counts


def labels_present(segmentation: np.ndarray) -> list[int]:
    """The integers in a segmentation, ascending, 0 among them where it is there."""
    return [int(label) for label in np.flatnonzero(count_labels(segmentation))]


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box around a boolean mask (x, y, z); None where it is empty. Much faster than `label_boxes`."""
    columns: np.ndarray = np.any(mask, axis=2)
    if not columns.any():
        return None
    extents = [np.flatnonzero(line) for line in (columns.any(axis=1), columns.any(axis=0), mask.any(axis=(0, 1)))]
    x, y, z = (slice(int(found[0]), int(found[-1]) + 1) for found in extents)
    return x, y, z


def label_boxes(segmentation: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """The smallest box around every label that is there, ascending, without the background.

    scipy walks an array in the order of its axes, ten times slower where that is not the order in memory (as in what nibabel
    reads), so the axes are turned and the boxes turned back.

    Args:
        segmentation: of any shape, of integers or booleans.
    """
    order = np.argsort([-stride for stride in segmentation.strides], kind="stable")
    found = ndimage.find_objects(segmentation.view(np.uint8 if segmentation.dtype == bool else segmentation.dtype).transpose(order))
    back = np.argsort(order)
    return {label: tuple(box[axis] for axis in back) for label, box in enumerate(found, start=1) if box is not None}
