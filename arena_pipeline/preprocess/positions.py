"""The voxels that patches are centred on: a limited draw of each label's, so that a large organ takes no more room than a small one."""

from __future__ import annotations

import numpy as np

from arena_pipeline.io.labels import UNLABELLED

MAXIMAL_LABEL_POSITIONS = 20_000


def label_positions(segmentation: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Label of a segmentation (x, y, z), as text -> the positions to draw from, without those that are UNLABELLED."""
    flat = np.flatnonzero((segmentation > 0) & (segmentation != UNLABELLED))
    values = segmentation.ravel()[flat]
    order = np.argsort(values, kind="stable")
    labels, starts = np.unique(values[order], return_index=True)
    groups = np.split(flat[order], starts[1:])
    return {str(label): draw_positions(group, MAXIMAL_LABEL_POSITIONS, segmentation.shape, rng) for label, group in zip(labels, groups, strict=False)}


def draw_positions(flat: np.ndarray, limit: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A uniform draw without replacement of at most `limit` flat indices, as (n, 3) int32, sorted."""
    if len(flat) > limit:
        flat = flat[np.sort(rng.choice(len(flat), limit, replace=False, shuffle=False))]
    return np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int32)
