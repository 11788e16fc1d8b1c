"""What is done to a finished segmentation: keep a structure's largest component where its support labels are all one piece."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, NamedTuple

import cc3d
import numpy as np

from arena_pipeline.io.labels import count_labels, label_boxes

logger = logging.getLogger(__name__)

COMPARABLE: Final = 0.25  # of the kept component's voxels: what is removed may be a second kidney rather than noise
CONNECTIVITY: Final = 26  # voxels that share a corner belong together
APPLIED_KEY: Final = "largest component alone"  # in the source of labels.json


class Components(NamedTuple):
    """Voxels of a structure's largest component, which is kept, of the next one, and of all that are removed."""

    kept: int
    second: int
    removed: int


def keep_largest_component_(segmentation: np.ndarray, label: int, box: tuple[slice, ...] | None = None) -> Components:
    """In place. `box` is a region known to hold every voxel of the label."""
    region = segmentation[box] if box is not None else segmentation
    mask = region == label
    components = cc3d.connected_components(mask, connectivity=CONNECTIVITY)
    sizes = count_labels(components)
    sizes[0] = 0
    if len(sizes) <= 2:
        return Components(int(sizes.sum()), 0, 0)
    largest = _first_of_the_largest(components, sizes)
    mask &= components != largest
    region[mask] = 0
    return Components(int(sizes[largest]), int(np.partition(sizes, -2)[-2]), int(sizes.sum() - sizes[largest]))


def _first_of_the_largest(components: np.ndarray, sizes: np.ndarray) -> int:
    """Component numbers depend on the array's memory order, so a tie is settled by position."""
    tied = np.flatnonzero(sizes == sizes.max())
    if len(tied) == 1:
        return int(tied[0])
    return int(min(tied, key=lambda number: tuple(np.argwhere(components == number)[0])))


def postprocess_segmentation_(
    segmentation: np.ndarray, labels: Mapping[str, int], keep_largest: Mapping[str, bool], case: str = ""
) -> dict[str, int]:
    """Applies the plans' rule to a label map in place, and warns where a component that is removed could be part of the structure.

    Args:
        segmentation: (x, y, z) integers.
        labels: structure -> integer.
        keep_largest: structure -> whether only its largest component stays; structures not named here are left alone.
        case: its name, for the warning.

    Returns:
        structure -> voxels removed, for the structures that the rule applies to.
    """
    boxes = label_boxes(segmentation)
    removed = {}
    for name, label in labels.items():
        if label and keep_largest.get(name, False):
            found = keep_largest_component_(segmentation, label, boxes[label]) if label in boxes else Components(0, 0, 0)
            removed[name] = found.removed
            if found.second >= COMPARABLE * max(found.kept, 1):
                logger.warning(
                    "%s: %s: a component of %d voxels is removed beside the largest one of %d; --no_postprocessing (always: keep_largest in "
                    "plans.json) keeps it",
                    *(case, name, found.second, found.kept),
                )
    logger.debug("%s: voxels outside the largest component, removed: %s", case, removed)
    return removed


def applied_in_words(keep_largest: Mapping[str, bool]) -> dict[str, str]:
    """The rule as labels.json has it, so that no folder mixes segmentations made by two rules."""
    return {APPLIED_KEY: ", ".join(name for name, alone in keep_largest.items() if alone) or "of no structure"}
