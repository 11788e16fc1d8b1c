"""The way from an image's own grid to its preprocessed one, as numbers: what is needed to bring a result back."""

from __future__ import annotations

import numpy as np

from arena_pipeline.io.orientation import AxisOrder
from arena_pipeline.settings import Frozen

Index = tuple[int, int, int]


class GridMap(Frozen):
    """All triples are (x, y, z) in RAS order, except `native_shape`; for a network of nnU-Net in the network's axis order.

    The RAS voxel r of the native grid lies at r * native_spacing_mm / scheme_spacing_mm - crop_start on the preprocessed one. With a
    `native_start` (nnU-Net's way) it lies at (r - native_start + 1/2) * resampled_shape / (native_stop - native_start) - 1/2.

    Attributes:
        native_shape: voxels along the image's own axes.
        axes: the image's own axis that became x, y, z.
        flips: whether it was turned round.
        native_spacing_mm: before resampling.
        scheme_spacing_mm: after it; the scheme's, or the native one where both are the same within 0.001 mm.
        resampled_shape: after resampling, before cropping.
        crop_start, crop_stop: the kept box; first voxel, and one past the last.
        native_start, native_stop: the box that was kept before resampling, of the native grid; None: all of it.
        slant: a voxel's volume over the product of its spacings: below 1 where the axes are not at right angles, as with a tilted gantry.
        nearest_axis: along which a native voxel takes the nearest preprocessed one instead of the mean of two.
    """

    native_shape: Index
    axes: Index
    flips: tuple[bool, bool, bool]
    native_spacing_mm: tuple[float, float, float]
    scheme_spacing_mm: tuple[float, float, float]
    resampled_shape: Index
    crop_start: Index
    crop_stop: Index
    native_start: Index | None = None
    native_stop: Index | None = None
    nearest_axis: int | None = None
    slant: float = 1.0

    @property
    def axis_order(self) -> AxisOrder:
        return AxisOrder(self.axes, self.flips)

    @property
    def ras_shape(self) -> Index:
        """Voxels of the native grid along (x, y, z) in RAS."""
        return self.axis_order.ordered(self.native_shape)

    @property
    def cropped_shape(self) -> Index:
        """Voxels of the preprocessed volume."""
        x, y, z = (stop - start for start, stop in zip(self.crop_start, self.crop_stop, strict=True))
        return x, y, z

    def positions(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the native voxels along an axis lie on the preprocessed grid, in its voxels, and which lie in the native box."""
        voxels = np.arange(self.ras_shape[axis])
        inside: np.ndarray = np.ones(len(voxels), dtype=bool)
        last = self.resampled_shape[axis] - 1
        if self.native_start is None or self.native_stop is None:
            position = np.minimum(voxels * (self.native_spacing_mm[axis] / self.scheme_spacing_mm[axis]), last)
        else:
            start, stop = self.native_start[axis], self.native_stop[axis]
            inside = (voxels >= start) & (voxels < stop)
            position = np.clip((voxels - start + 0.5) * ((last + 1) / (stop - start)) - 0.5, 0, last)
        if axis == self.nearest_axis:
            position = np.floor(np.round(position, 6) + 0.5)
        return position - self.crop_start[axis], inside

    @property
    def voxel_volume_ml(self) -> float:
        """Of the preprocessed grid; in cases stored by older versions as if all axes were at right angles."""
        return float(np.prod(self.scheme_spacing_mm)) * self.slant / 1000

    @property
    def crop(self) -> tuple[slice, slice, slice]:
        """The kept box as slices of the resampled volume."""
        x, y, z = (slice(start, stop) for start, stop in zip(self.crop_start, self.crop_stop, strict=True))
        return x, y, z
