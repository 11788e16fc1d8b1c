"""Where a phantom's anatomy lies in the scanner.

Two coordinate systems, both in RAS millimetres (+x right, +y anterior, +z superior):
canonical: the anatomy is described in it; origin in the middle of the L1/L2 disc's level, in the centre of the second lumbar vertebra;
scanner: the canonical anatomy after scaling, a slight rotation and a smooth random deformation. Voxel grids live in it.

Smooth quantities (the deformation, distances to the body wall) are kept on one lattice that covers the torso, and interpolated
onto any voxel grid: so a phantom has the same anatomy at every spacing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

LATTICE_PITCH_MM = 10.0
LATTICE_LOW_MM = np.array([-320.0, -240.0, -470.0])
LATTICE_SHAPE = (65, 49, 90)
DEFORMATION_PITCH_MM = 60.0
CORNERS = np.array(list(np.ndindex(2, 2, 2)))


def lattice_axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scanner coordinates of the lattice along x, y, z, in mm."""
    x, y, z = (low + LATTICE_PITCH_MM * np.arange(n) for low, n in zip(LATTICE_LOW_MM, LATTICE_SHAPE, strict=True))
    return x, y, z


def cubic_weights(positions: np.ndarray, size: int, periodic: bool = False) -> np.ndarray:
    """(positions, size) Catmull-Rom interpolation matrix from `size` unit-spaced samples to fractional `positions`."""
    base = np.floor(positions).astype(int)
    t = (positions - base)[:, None]
    kernel = np.concatenate([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1) / 2
    columns = base[:, None] + np.arange(-1, 3)
    columns = columns % size if periodic else np.clip(columns, 0, size - 1)
    weights = np.zeros((len(positions), size), np.float32)
    np.add.at(weights, (np.arange(len(positions))[:, None], columns), kernel.astype(np.float32))
    return weights


def interpolate(lattice: np.ndarray, weights: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Separable interpolation of a (lx, ly, lz) lattice with one (n, l) matrix per axis to (nx, ny, nz) float32."""
    used = [np.flatnonzero(w.any(axis=0)) for w in weights]
    cuts = tuple(slice(u[0], u[-1] + 1) for u in used)
    part = lattice[cuts].astype(np.float32, copy=False)
    along_x, along_y, along_z = (np.ascontiguousarray(w[:, cut]) for w, cut in zip(weights, cuts, strict=True))
    out = np.matmul(along_y, part @ along_z.T)
    return (along_x @ out.reshape(out.shape[0], -1)).reshape(len(along_x), *out.shape[1:])


@dataclass(frozen=True, eq=False)
class Frame:
    """Scanner <-> canonical: canonical = matrix @ scanner + deformation(scanner).

    Attributes:
        matrix: (3, 3) inverse scaling and rotation.
        deformation: (3, lx, ly, lz) float32 in mm on the lattice.
    """

    matrix: np.ndarray
    deformation: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, scale: np.ndarray, strength: float) -> Frame:
        """A frame of a body `scale` times the canonical size; `strength` 1 deforms by about 5 mm (standard deviation)."""
        angles = np.deg2rad(rng.normal(0, [2.0, 1.5, 3.0]))
        rotation = _rotation(0, angles[0]) @ _rotation(1, angles[1]) @ _rotation(2, angles[2])
        matrix = np.diag(1 / scale) @ rotation
        coarse_shape = [int(np.ceil((n - 1) * LATTICE_PITCH_MM / DEFORMATION_PITCH_MM)) + 2 for n in LATTICE_SHAPE]
        coarse = rng.normal(0, 7.0 * strength, (3, *coarse_shape)).astype(np.float32)
        coarse = ndimage.gaussian_filter(coarse, (0, 0.6, 0.6, 0.8), mode="nearest")
        weights = tuple(
            cubic_weights(np.arange(n) * LATTICE_PITCH_MM / DEFORMATION_PITCH_MM, c) for n, c in zip(LATTICE_SHAPE, coarse_shape, strict=True)
        )
        return cls(matrix, np.stack([interpolate(c, weights) for c in coarse]))  # type: ignore[arg-type]

    def canonical_lattice(self) -> np.ndarray:
        """(3, lx, ly, lz) float32 canonical coordinates of the lattice points."""
        x, y, z = np.meshgrid(*lattice_axes(), indexing="ij", sparse=True)
        rows = [row[0] * x + row[1] * y + row[2] * z for row in self.matrix]
        return np.stack(rows).astype(np.float32) + self.deformation

    def to_scanner(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) canonical mm -> (n, 3) scanner mm."""
        points = np.asarray(points, float).reshape(-1, 3)
        inverse = np.linalg.inv(self.matrix)
        found = points @ inverse.T
        for _ in range(3):  # the deformation's slope is well below 1, so this contracts
            found = (points - self._deformation_at(found)) @ inverse.T
        return found

    def _deformation_at(self, where: np.ndarray) -> np.ndarray:
        """(n, 3) scanner mm -> (n, 3) mm, linear between lattice points and constant outside."""
        index = np.clip((where - LATTICE_LOW_MM) / LATTICE_PITCH_MM, 0, np.array(LATTICE_SHAPE) - 1.001)
        corner = index.astype(int)
        t = index - corner
        x, y, z = (corner + CORNERS[:, None]).transpose(2, 0, 1)
        weights = np.where(CORNERS[:, None], t, 1 - t).prod(axis=2)
        return np.einsum("cn,dcn->nd", weights, self.deformation[:, x, y, z])

    @property
    def scale(self) -> np.ndarray:
        """(3,) scanner mm per canonical mm along x, y, z."""
        return 1 / np.linalg.norm(self.matrix, axis=1)


def _rotation(axis: int, angle: float) -> np.ndarray:
    i, j = [(1, 2), (0, 2), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix
