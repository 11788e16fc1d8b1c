"""Implicit shapes in scanner millimetres, each evaluated in its own bounding box only. Distances are negative inside."""

from __future__ import annotations

import numpy as np

from arena_pipeline.research.phantoms.canvas import Canvas, Region

MARGIN_MM = 9.0
FAR_MM = 1e3


def smooth_union(a: np.ndarray, b: np.ndarray, radius_mm: float) -> np.ndarray:
    """The union of two shapes with the crease between them filled over about `radius_mm`."""
    h = np.maximum(radius_mm - np.abs(a - b), 0) / radius_mm
    return np.minimum(a, b) - h * h * (radius_mm / 4)


def ellipsoid(
    canvas: Canvas, centre: np.ndarray, radii: tuple[float, float, float], axes: np.ndarray | None = None, margin_mm: float = MARGIN_MM
) -> Region | None:
    """An ellipsoid; `axes` has the unit directions of its three half-axes as rows."""
    centre, axes = np.asarray(centre, float).reshape(3), np.eye(3) if axes is None else axes
    reach = np.sqrt(((axes * np.asarray(radii)[:, None]) ** 2).sum(0)) + margin_mm
    box = canvas.box(centre - reach, centre + reach)
    if box is None:
        return None
    x, y, z = box.x - np.float32(centre[0]), box.y - np.float32(centre[1]), box.z - np.float32(centre[2])
    squares, gradient = np.zeros(box.shape, np.float32), np.zeros(box.shape, np.float32)
    for direction, radius in zip(axes, radii, strict=True):
        along = (x * np.float32(direction[0]) + y * np.float32(direction[1])) + z * np.float32(direction[2])
        along /= np.float32(radius)
        along *= along
        squares += along
        along /= np.float32(radius**2)
        gradient += along
    k = np.sqrt(squares)
    # first-order distance: k (k - 1) / |grad k^2 / 2|, exact near the surface
    return Region(box, k * (k - 1) / np.sqrt(gradient + np.float32(1e-9)))


def curve(points: np.ndarray, radii: np.ndarray | list[float] | float, step_mm: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A smooth curve through (n, 3) points with radii (n,) along it, sampled densely: (m, 3) and (m,)."""
    points = np.asarray(points, float)
    radii = np.broadcast_to(np.asarray(radii, float), (len(points),))
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    step = step_mm or max(1.5, 0.4 * float(radii.mean()))
    along = np.linspace(0, length[-1], max(2, int(np.ceil(length[-1] / step)) + 1))
    sampled = _hermite(length, np.column_stack([points, radii]), along)
    return sampled[:, :3], np.maximum(sampled[:, 3], 0.3)


def _hermite(knots: np.ndarray, values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Cubic Hermite interpolation of (n, d) values with finite-difference slopes."""
    slopes = np.gradient(values, knots, axis=0)
    i = np.clip(np.searchsorted(knots, where, side="right") - 1, 0, len(knots) - 2)
    width = (knots[i + 1] - knots[i])[:, None]
    t = (where - knots[i])[:, None] / width
    rise = t * t * (3 - 2 * t)
    return (1 - rise) * values[i] + rise * values[i + 1] + width * (t * (t - 1) ** 2 * slopes[i] + t * t * (t - 1) * slopes[i + 1])


def tube(
    canvas: Canvas,
    points: np.ndarray,
    radii: np.ndarray | list[float] | float,
    flatten: tuple[float, float, float] = (1, 1, 1),
    margin_mm: float = MARGIN_MM,
) -> Region | None:
    """A tube through (n, 3) scanner points; `flatten` > 1 along an axis squeezes its cross-section there."""
    return beads(canvas, *curve(points, radii), flatten, margin_mm)


def beads(
    canvas: Canvas, points: np.ndarray, radii: np.ndarray, flatten: tuple[float, float, float] = (1, 1, 1), margin_mm: float = MARGIN_MM
) -> Region | None:
    """The union of spheres along a densely sampled curve."""
    reach = (radii + margin_mm)[:, None]
    box = canvas.box((points - reach).min(0), (points + reach).max(0))
    if box is None:
        return None
    distance = np.full(box.shape, FAR_MM, np.float32)
    spacing, first = np.array(canvas.grid.spacing_mm), np.array([box.x.flat[0], box.y.flat[0], box.z.flat[0]])
    starts = np.clip(np.ceil((points - reach - first) / spacing), 0, box.shape).astype(int)
    stops = np.clip(np.floor((points + reach - first) / spacing) + 1, 0, box.shape).astype(int)
    axes = [box.x.ravel(), box.y.ravel(), box.z.ravel()]
    for (cx, cy, cz), radius, (i0, j0, k0), (i1, j1, k1) in zip(points, radii, starts, stops, strict=True):
        if i0 >= i1 or j0 >= j1 or k0 >= k1:
            continue
        x = (axes[0][i0:i1] - np.float32(cx)) * np.float32(flatten[0])
        y = (axes[1][j0:j1] - np.float32(cy)) * np.float32(flatten[1])
        z = (axes[2][k0:k1] - np.float32(cz)) * np.float32(flatten[2])
        new = (x * x)[:, None, None] + ((y * y)[:, None] + (z * z)[None, :])
        np.sqrt(new, out=new)
        new -= np.float32(radius)
        part = distance[i0:i1, j0:j1, k0:k1]
        np.minimum(part, new, out=part)
    return Region(box, distance)


def directions(first: tuple[float, float, float], second: tuple[float, float, float]) -> np.ndarray:
    """Three orthonormal rows: along `first`, `second` made perpendicular to it, and their cross product."""
    a = np.asarray(first, float)
    a = a / np.linalg.norm(a)
    b = np.asarray(second, float)
    b = b - (b @ a) * a
    b = b / np.linalg.norm(b)
    return np.stack([a, b, np.cross(a, b)])
