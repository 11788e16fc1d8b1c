"""A case's volumes as a page shows them: in RAS, as small gzipped NIfTI files in memory."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from isal import igzip

from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.orientation import AxisOrder

MOST_BYTES = 200 * 2**20  # of the CT's voxels, two bytes each: a browser's tab holds several copies
GZIP_LEVEL = 2  # of igzip: a person waits for the page, and zlib at its fastest takes four times as long for 3 % less
SEEN_HU = (-160.0, 240.0)  # in the header, so that NiiVue looks for no range of its own; the page sets its windows
INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class ShownGrid:
    """The grid of a page: the CT's own turned to RAS, of large volumes every n-th voxel along some axes.

    Attributes:
        order: how a native array becomes a RAS one.
        steps: per RAS axis, 1 where every voxel is shown.
        shape, affine: of what is shown.
    """

    order: AxisOrder
    steps: tuple[int, int, int]
    shape: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def of(cls, geometry: Geometry, most_bytes: int | None = MOST_BYTES) -> ShownGrid:
        """`most_bytes`: of the CT's voxels; None: every voxel is shown."""
        order = AxisOrder.of(geometry.affine)
        spacing = np.array(order.ordered(geometry.spacing_mm))
        full = np.array(order.ordered(geometry.shape))
        steps = np.ones(3, int)
        while most_bytes is not None and np.prod(-(-full // steps)) * INT16.dtype.itemsize > most_bytes:
            steps[np.argmin(spacing * steps)] += 1
        shape = -(-full // steps)
        affine = _ras_affine(geometry, order)
        affine[:3, :3] *= steps
        return cls(order, _three(steps), _three(shape), affine)

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The shown voxels of an array on the native grid: a view in RAS."""
        return self.order.apply(array)[tuple(slice(None, None, step) for step in self.steps)]

    @property
    def is_whole(self) -> bool:
        return self.steps == (1, 1, 1)

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.shape, self.affine)


def packed_ct(array: np.ndarray, grid: ShownGrid) -> bytes:
    """A CT (x, y, z) in HU on the native grid: HU rounded to whole numbers, and clipped to what int16 can hold."""
    shown = grid.cut(array)
    if shown.dtype != np.int16:
        shown = np.clip(np.rint(shown), INT16.min, INT16.max).astype(np.int16)
    return _packed(shown, grid.affine, SEEN_HU)


def packed_labels(array: np.ndarray, grid: ShownGrid) -> bytes:
    """A segmentation (x, y, z) on the native grid, of integers to 255."""
    return _packed(grid.cut(array).astype(np.uint8, copy=False), grid.affine)


def packed_map(array: np.ndarray, grid: ShownGrid) -> bytes:
    """Any other numbers (x, y, z) on the native grid, as float32."""
    return _packed(grid.cut(array).astype(np.float32, copy=False), grid.affine)


def _packed(array: np.ndarray, affine: np.ndarray, seen: tuple[float, float] | None = None) -> bytes:
    image = nib.Nifti1Image(np.asfortranarray(array), affine)
    if seen is not None:
        image.header["cal_min"], image.header["cal_max"] = seen
    return bytes(igzip.compress(image.to_bytes(), GZIP_LEVEL, mtime=0))


def _ras_affine(geometry: Geometry, order: AxisOrder) -> np.ndarray:
    affine = geometry.affine.copy()
    affine[:, :3] = geometry.affine[:, list(order.axes)]
    for axis, flip in enumerate(order.flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (geometry.shape[order.axes[axis]] - 1)
            affine[:3, axis] *= -1
    return affine


def _three(values: np.ndarray) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)
    return x, y, z
