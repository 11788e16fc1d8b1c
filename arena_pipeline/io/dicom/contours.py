"""Closed contours in one plane -> the voxels inside, and back. All coordinates are voxel indices: a voxel's centre is a whole number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

SNAP = 256  # parts of a voxel: a contour along voxel centres is seen as such, whatever its file has rounded


def fill(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The voxels whose centres lie in an odd number of contours, or on one: holes are contours in contours, or keyholes.

    A centre on a contour counts as inside, since programs that trace the outermost voxels draw through their centres, around holes too.

    Args:
        contours: (points, 2) each, closed by the first point.
        shape: of the plane.

    Returns:
        boolean, of `shape`.
    """
    toggles = np.zeros((shape[0] + 1, shape[1]), bool)
    edge = np.zeros(shape, bool)
    for contour in contours:
        points = np.round(contour * SNAP) / SNAP
        _cross_(toggles, edge, points, np.roll(points, -1, axis=0))
    return np.logical_xor.accumulate(toggles[:-1], axis=0) | edge


def _cross_(toggles: np.ndarray, edge: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """Marks where lines along the first axis cross the edges, and the voxel centres that lie on these."""
    (columns, rows), whole = edge.shape, np.ceil
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first, last = np.clip(whole(low), 0, rows).astype(int), np.clip(whole(high), 0, rows).astype(int)  # rows low <= y < high
    which = np.repeat(np.arange(len(start)), last - first)
    y = np.arange(len(which)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[which]
    slope = (y - start[which, 1]) / (end[which, 1] - start[which, 1])
    x = start[which, 0] + slope * (end[which, 0] - start[which, 0])
    np.logical_xor.at(toggles, (np.clip(whole(x), 0, columns).astype(int), y), True)
    on = np.abs(x - np.round(x)) < 1 / SNAP**2
    _mark_(edge, np.round(x[on]), y[on])
    level = (start[:, 1] == end[:, 1]) & (start[:, 1] % 1 == 0)
    for one, other in zip(start[level], end[level], strict=True):
        ends = np.clip((one[0], other[0]), -1, columns)
        x = np.arange(whole(ends.min()), np.floor(ends.max()) + 1)
        _mark_(edge, x, np.full(len(x), one[1]))
    _mark_(edge, *start[(start % 1 == 0).all(axis=1)].T)


def _mark_(edge: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    inside = (x >= 0) & (x < edge.shape[0]) & (y >= 0) & (y < edge.shape[1])
    edge[x[inside].astype(int), y[inside].astype(int)] = True


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """The outlines of a mask, half-way between the voxels inside and outside, so that `fill` gives the mask back.

    Holes are joined to the outline around them by a channel of no width, the keyhole that DICOM's CLOSED_PLANAR asks for.

    Args:
        mask: (x, y), boolean.

    Returns:
        (points, 2) each, not closed.
    """
    from contourpy import FillType, contour_generator

    padded = np.pad(mask, 1).T.astype(np.float32)  # contourpy's arrays are (y, x)
    filled: Any = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, 2)  # outlines, and where their holes begin
    return [_with_keyholes([_corners(ring[:-1] - 1) for ring in np.split(points, at[1:-1])], mask) for points, at in zip(*filled, strict=True)]


def _corners(points: np.ndarray) -> np.ndarray:
    """Without those that lie on a straight line between their neighbours."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _with_keyholes(rings: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """One polygon of an outline and its holes, nearest first."""
    joined, holes = rings[0], rings[1:]
    while holes:
        nearest, at, start = _channel(joined, holes, mask)
        hole = np.roll(holes.pop(nearest), -start, axis=0)
        joined = np.concatenate([joined[: at + 1], hole, hole[:1], joined[at:]])
    return joined


def _channel(joined: np.ndarray, holes: list[np.ndarray], mask: np.ndarray) -> tuple[int, int, int]:
    """Which hole is joined next, and the two points: the shortest way that meets no voxel centre outside the mask, which would count as inside."""
    distances = [cdist(joined, hole) for hole in holes]
    while True:
        nearest = int(np.argmin([distance.min() for distance in distances]))
        at, start = divmod(int(distances[nearest].argmin()), len(holes[nearest]))
        centres = _centres_between(joined[at], holes[nearest][start])
        if mask[tuple(centres.T)].all() or np.isinf(distances[nearest][at, start]):
            return nearest, at, start
        distances[nearest][at, start] = np.inf


def _centres_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, 2) integers: the voxel centres on the line between two corners, whose coordinates are whole or half."""
    start, end = (2 * one).astype(int), (2 * other).astype(int)
    steps = max(1, int(np.gcd(*(end - start))))
    halves = start + np.outer(np.arange(steps + 1), (end - start) // steps)
    return halves[(halves % 2 == 0).all(axis=1)] // 2
