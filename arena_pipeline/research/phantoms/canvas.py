"""The voxel grid that organs are painted on, with soft edges: a voxel's HU is a mixture where a surface passes through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from arena_pipeline.research.phantoms.frame import LATTICE_LOW_MM, LATTICE_PITCH_MM, LATTICE_SHAPE, cubic_weights, interpolate

TILE_SIZE = 48
TILE_PITCH_MM = 3.0
AIR_HU = -1000.0
BLOCK_VOXELS = 250_000


@dataclass(frozen=True, eq=False)
class Grid:
    """An axis-aligned voxel grid in scanner mm: `origin_mm` is the centre of voxel (0, 0, 0)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    def axis_mm(self, axis: int) -> np.ndarray:
        return self.origin_mm[axis] + self.spacing_mm[axis] * np.arange(self.shape[axis])


@dataclass(frozen=True, eq=False)
class Box:
    """A block of the grid: index slices and the scanner coordinates of its voxels, ready to broadcast."""

    slices: tuple[slice, slice, slice]
    x: np.ndarray  # (n, 1, 1) float32, mm
    y: np.ndarray  # (1, n, 1)
    z: np.ndarray  # (1, 1, n)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.shape[0], self.y.shape[1], self.z.shape[2]


@dataclass(frozen=True, eq=False)
class Region:
    """A shape sampled in a box: `distance` is about the signed distance to its surface in mm, negative inside."""

    box: Box
    distance: np.ndarray

    def grown(self, amount_mm: float) -> Region:
        return Region(self.box, self.distance - np.float32(amount_mm))

    def within(self, distance: np.ndarray) -> Region:
        """The intersection with another shape sampled in the same box."""
        return Region(self.box, np.maximum(self.distance, distance))

    def without(self, distance: np.ndarray) -> Region:
        return Region(self.box, np.maximum(self.distance, -distance))


class Canvas:
    """HU image and label map under construction, and the smooth fields on the lattice that shapes refer to."""

    def __init__(self, grid: Grid, rng: np.random.Generator) -> None:
        self.grid = grid
        self.image = np.full(grid.shape, AIR_HU, np.float32)
        self.labels = np.zeros(grid.shape, np.uint8)
        self.fields: dict[str, np.ndarray] = {}
        self.edge_mm = float(np.clip(np.prod(grid.spacing_mm) ** (1 / 3), 1.0, 6.0))
        tile = rng.standard_normal((2, TILE_SIZE, TILE_SIZE, TILE_SIZE)).astype(np.float32)
        self._tiles = {
            "fine": _unit(ndimage.gaussian_filter(tile[0], 0.9, mode="wrap")),
            "coarse": _unit(ndimage.gaussian_filter(tile[1], 2.5, mode="wrap")),
        }
        self._lattice_weights = [cubic_weights((grid.axis_mm(a) - LATTICE_LOW_MM[a]) / LATTICE_PITCH_MM, LATTICE_SHAPE[a]) for a in range(3)]
        self._tile_weights = [cubic_weights(grid.axis_mm(a) / TILE_PITCH_MM, TILE_SIZE, periodic=True) for a in range(3)]

    def box(self, low_mm: np.ndarray, high_mm: np.ndarray) -> Box | None:
        """The voxels between two corners in scanner mm; None when they lie outside the grid."""
        slices, axes = [], []
        for a in range(3):
            start = max(0, int(np.ceil((low_mm[a] - self.grid.origin_mm[a]) / self.grid.spacing_mm[a])))
            stop = min(self.grid.shape[a], int(np.floor((high_mm[a] - self.grid.origin_mm[a]) / self.grid.spacing_mm[a])) + 1)
            if stop <= start:
                return None
            slices.append(slice(start, stop))
            axes.append((self.grid.origin_mm[a] + self.grid.spacing_mm[a] * np.arange(start, stop)).astype(np.float32))
        return Box((slices[0], slices[1], slices[2]), axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :])

    def blocks(self, points: np.ndarray | None = None, margin_mm: float = 0.0) -> Iterator[Box]:
        """Yields boxes that cover the voxels around scanner points (n, 3), or the whole grid: slabs along x that fit the processor's cache."""
        low, high = (np.full(3, -1e6), np.full(3, 1e6)) if points is None else (points.min(0) - margin_mm, points.max(0) + margin_mm)
        box = self.box(low, high)
        if box is None:
            return
        x, y, z = box.slices
        step = max(1, BLOCK_VOXELS // (box.shape[1] * box.shape[2]))
        for start in range(0, box.shape[0], step):
            part = box.x[start : start + step]
            yield Box((slice(x.start + start, x.start + start + len(part)), y, z), part, box.y, box.z)

    def field(self, name: str, box: Box) -> np.ndarray:
        """The named lattice field interpolated in a box, float32."""
        x, y, z = (self._lattice_weights[a][box.slices[a]] for a in range(3))
        return interpolate(self.fields[name], (x, y, z))

    def texture(self, name: str, box: Box) -> np.ndarray:
        """Unit-variance noise in a box, "fine" (about 5 mm grain) or "coarse" (about 15 mm)."""
        x, y, z = (self._tile_weights[a][box.slices[a]] for a in range(3))
        return interpolate(self._tiles[name], (x, y, z))

    def paint(self, region: Region, hu: float | np.ndarray, label: int | None = 0) -> None:
        """Covers a region with `hu`; the label map gets `label` inside (None: it stays as it is)."""
        inside = self.image[region.box.slices]
        cover = region.distance * np.float32(-1 / self.edge_mm)
        cover += np.float32(0.5)
        np.clip(cover, 0, 1, out=cover)
        cover *= hu - inside
        inside += cover
        if label is not None:
            self.labels[region.box.slices][region.distance < 0] = label


def _unit(noise: np.ndarray) -> np.ndarray:
    return (noise / noise.std()).astype(np.float32)
