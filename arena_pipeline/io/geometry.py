"""Where an array's voxels lie in the patient.

One axis order inside the package: arrays are (x, y, z), NIfTI's voxel indices, and an affine maps a voxel index to
millimetres in RAS+ (+x right, +y anterior, +z superior).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from arena_pipeline.errors import ImageError
from arena_pipeline.machine import memory_bytes

LARGEST_EXTENT_MM = 10_000  # of a volume along one axis; a whole body has 2,000
SMALLEST_SPACING_MM = 0.001
GRID_TOLERANCE_VOXELS = 0.1  # headers are rounded in many ways; a tenth of a voxel is no other grid
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


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
    def slant(self) -> float:
        """|det(affine)| over the product of the spacings: 1 for axes at right angles, less for others."""
        return round(float(abs(np.linalg.det(self.direction))), 6)

    @property
    def voxel_volume_ml(self) -> float:
        """|det(affine)| in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)


@dataclass(frozen=True, eq=False)
class Image:
    """A volume: `array` (x, y, z) on `geometry`'s grid."""

    array: np.ndarray
    geometry: Geometry


def broken_link(path: Path) -> str | None:
    """In words, for a link that leads to no file; None for everything else."""
    if not path.is_symlink() or path.exists():
        return None
    try:
        path.stat()
    except FileNotFoundError:
        return f"a link to {path.readlink()}, which is not there (plug in the disk, or copy the file)"
    except OSError:
        pass
    return "a link that leads nowhere"


def not_there(path: Path) -> str:
    """Why nothing can be opened at `path`, and what to do where that is known."""
    return broken_link(path) or "no such file"


def spans_volume(affine: np.ndarray) -> bool:
    """Whether the affine is finite and its axes do not lie in one plane."""
    with np.errstate(all="ignore"):  # what overflows spans no volume
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        return bool(np.isfinite(affine).all() and min(lengths) > 0 and abs(np.linalg.det(affine[:3, :3] / lengths)) >= 1e-3)


def check_geometry(path: Path, geometry: Geometry) -> None:
    """Raises ImageError for a grid that no scan of a person has: axes in one plane, NaN or infinity, voxels of no size or of metres."""
    affine = geometry.affine
    if not spans_volume(affine):
        raise ImageError(f"the header's affine spans no volume ({affine[:3].tolist()})", file=path, advice="export it again with its orientation")
    lengths = np.asarray(geometry.spacing_mm)
    if min(lengths) < SMALLEST_SPACING_MM or max(lengths * geometry.shape) > LARGEST_EXTENT_MM:
        size, voxels = " x ".join(f"{length:.3g}" for length in lengths), " x ".join(map(str, geometry.shape))
        raise ImageError(f"{voxels} voxels of {size} mm are no scan of a person", file=path, advice="correct the voxel size in the header")


def check_memory(path: Path, voxel_bytes: int) -> None:
    """Raises ImageError, before any memory is taken, for a volume that this machine can't hold."""
    if voxel_bytes > memory_bytes():
        needed, there = voxel_bytes / 2**30, memory_bytes() / 2**30
        raise ImageError(
            f"{needed:,.1f} GiB of voxels, this machine has {there:.1f} GiB of memory", file=path, advice="check the file, or use a larger machine"
        )
