"""Distances between the surfaces of two masks: computed once, queried at any tolerance.

The surface is the marching-cubes one: a mask is a function on the voxel centres, and every 2x2x2 neighbourhood that holds
both inside and outside voxels carries one surface element, placed at the neighbourhood's centre and weighing the area that
marching cubes puts there (Nikolov et al., arXiv 1809.04430, who introduced the normalised surface distance in this form).
Weighing by area and not counting voxels makes the numbers independent of how a slanted or anisotropic surface is sampled.
Areas are MONAI's (`get_code_to_measure_table`), so that NSD equals `monai.metrics.compute_surface_dice(use_subvoxels=True)`.

Only array axes and their spacing enter: on an oblique grid the axes are still at right angles, so distances stay exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import KDTree

from arena_pipeline.io.labels import bounding_box

# Spacings come from float32 headers: 1 mm reads as 1.0000001. A distance that equals the tolerance but for that is within it.
TOLERANCE_SLACK_MM = 1e-4


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Per surface element its area and its distance to the other surface.

    Attributes:
        reference_mm: (n,) float64, from each element of the reference's surface to the nearest of the prediction's;
            infinite where the prediction is empty.
        reference_mm2: (n,) float64, the area of each of those elements.
        prediction_mm, prediction_mm2: (m,), the same from the prediction's surface to the reference's.
    """

    reference_mm: np.ndarray
    reference_mm2: np.ndarray
    prediction_mm: np.ndarray
    prediction_mm2: np.ndarray

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface distance: share of the area of both surfaces within `tolerance_mm` of the other.

        In [0, 1]; 0 where only one mask is empty; NaN where both are (absent).
        """
        total = self.reference_mm2.sum() + self.prediction_mm2.sum()
        if total == 0:
            return math.nan
        limit = tolerance_mm + TOLERANCE_SLACK_MM
        within = self.reference_mm2[self.reference_mm <= limit].sum() + self.prediction_mm2[self.prediction_mm <= limit].sum()
        return float(within / total)

    def hausdorff(self, percent: float = 100.0) -> float:
        """The larger of the two directions' area-weighted percentiles, in mm.

        A direction's percentile is the smallest of its distances within which at least `percent` of its area lies. NaN where
        either mask is empty: there is no distance to a surface that does not exist.
        """
        if len(self.reference_mm) == 0 or len(self.prediction_mm) == 0:
            return math.nan
        return max(
            _weighted_percentile(self.reference_mm, self.reference_mm2, percent),
            _weighted_percentile(self.prediction_mm, self.prediction_mm2, percent),
        )

    def hd95(self) -> float:
        """The 95th percentile Hausdorff distance in mm; see `hausdorff`."""
        return self.hausdorff(95.0)


def surface_distances(reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, float, float]) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Outside the array counts as outside the mask, so a structure cut off by the field of view is closed there.

    Args:
        reference, prediction: (x, y, z) boolean, on one grid.
        spacing_mm: voxel size along (x, y, z), any anisotropy.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} are not on one grid")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    reference_points, reference_area = _surface(reference, spacing_mm)
    prediction_points, prediction_area = _surface(prediction, spacing_mm)
    return SurfaceDistances(
        _nearest_mm(reference_points, prediction_points, spacing),
        reference_area,
        _nearest_mm(prediction_points, reference_points, spacing),
        prediction_area,
    )


def _surface(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Grid positions (n, 3) int64 and areas (n,) in mm2 of the surface elements.

    Position p stands for the point between voxels p - 1 and p.
    """
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3), dtype=np.int64), np.zeros(0)
    padded = np.pad(mask[box].astype(np.uint8), 1)
    size = tuple(n - 1 for n in padded.shape)
    codes = np.zeros(size, dtype=np.uint8)
    for bit, corner in enumerate(np.ndindex(2, 2, 2)):
        window = tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))
        codes |= padded[window] << np.uint8(7 - bit)
    # Codes 0 and 255 lie wholly outside and inside; subtracting 1 in uint8 sends both above 253.
    positions = np.argwhere(codes - np.uint8(1) < 254)
    areas = area_of_code(spacing_mm)[codes[tuple(positions.T)]]
    return positions + np.array([side.start for side in box]), areas


@lru_cache(maxsize=16)
def area_of_code(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """(256,) float64: mm2 of marching-cubes surface in a 2x2x2 neighbourhood; its first voxel is the code's highest bit, z runs fastest."""
    # Imported here because it brings torch along, which reading and reporting an evaluation does not need.
    from monai.metrics.utils import get_code_to_measure_table

    table, _ = get_code_to_measure_table(tuple(float(s) for s in spacing_mm))
    return table.numpy().astype(np.float64)


def _nearest_mm(points: np.ndarray, others: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """(n,) distance in mm from each grid position to the nearest of the others."""
    if len(others) == 0 or len(points) == 0:
        return np.full(len(points), np.inf)
    distances = np.zeros(len(points))
    # Two good masks share most of their surface: those distances are 0 without a search.
    apart = ~np.isin(_keys(points), _keys(others))
    if apart.any():
        distances[apart] = KDTree(others * spacing).query(points[apart] * spacing)[0]
    return distances


def _keys(points: np.ndarray) -> np.ndarray:
    """One integer per grid position: 21 bits per axis, enough for any volume that fits into memory."""
    return (points[:, 0] << 42) | (points[:, 1] << 21) | points[:, 2]


def _weighted_percentile(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    order = np.argsort(distances)
    covered = np.cumsum(areas[order])
    # Rounding of the running sum must not push a percentile of exactly 100 past the last element.
    place = np.searchsorted(covered, covered[-1] * (percent / 100.0) * (1 - 1e-12))
    return float(distances[order[min(int(place), len(order) - 1)]])
