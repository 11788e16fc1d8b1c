"""Where an array's voxels lie in the patient.

One axis order inside the package: arrays are (x, y, z), NIfTI's voxel indices, and an affine maps a voxel index to
millimetres in RAS+ (+x right, +y anterior, +z superior).
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of one volume.

    Attributes:
        shape: voxels along (x, y, z).
        affine: (4, 4) float64, voxel index -> mm in RAS+.
        header: the NIfTI header that a file on the same grid should carry (sform, qform, their codes, units);
            None where the volume did not come from NIfTI.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    header: nib.Nifti1Header | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along the array's own (x, y, z) axes: the lengths of the affine's columns."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def direction(self) -> np.ndarray:
        """(3, 3) unit columns: the patient directions of the array axes, as written (perhaps not orthonormal)."""
        return self.affine[:3, :3] / np.asarray(self.spacing_mm)

    @property
    def orientation(self) -> str:
        """The three letters that nibabel calls axis codes, e.g. RAS or LPS: where each array axis points to."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def is_orthonormal(self) -> bool:
        """Whether the axes stand at right angles, within ITK's tolerance."""
        return bool(np.allclose(self.direction.T @ self.direction, np.eye(3), atol=1e-4))

    @property
    def is_oblique(self) -> bool:
        """Whether any axis deviates from the nearest patient axis by more than about half a degree."""
        return bool(np.abs(self.direction).max(axis=0).min() < np.cos(np.deg2rad(0.5)))

    @property
    def voxel_volume_ml(self) -> float:
        """|det(affine)| in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)


@dataclass(frozen=True, eq=False)
class Image:
    """A volume: `array` (x, y, z) on `geometry`'s grid."""

    array: np.ndarray
    geometry: Geometry
