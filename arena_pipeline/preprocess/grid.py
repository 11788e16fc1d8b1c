"""The way from an image's own grid to its preprocessed one, as numbers: what is needed to bring a result back."""

from __future__ import annotations

from arena_pipeline.preprocess.orientation import AxisOrder
from arena_pipeline.settings import Frozen

Index = tuple[int, int, int]


class GridMap(Frozen):
    """All triples are (x, y, z) in RAS order, except `native_shape`.

    The RAS voxel r of the native grid lies at r * native_spacing_mm / scheme_spacing_mm - crop_start on the preprocessed one.

    Attributes:
        native_shape: voxels along the image's own axes.
        axes: the image's own axis that became x, y, z.
        flips: whether it was turned round.
        native_spacing_mm: before resampling.
        scheme_spacing_mm: after it; the scheme's, or the native one where both are the same within 0.001 mm.
        resampled_shape: after resampling, before cropping.
        crop_start, crop_stop: the kept box; first voxel, and one past the last.
    """

    native_shape: Index
    axes: Index
    flips: tuple[bool, bool, bool]
    native_spacing_mm: tuple[float, float, float]
    scheme_spacing_mm: tuple[float, float, float]
    resampled_shape: Index
    crop_start: Index
    crop_stop: Index

    @property
    def axis_order(self) -> AxisOrder:
        return AxisOrder(self.axes, self.flips)

    @property
    def ras_shape(self) -> Index:
        """Voxels of the native grid along (x, y, z) in RAS."""
        return self.native_shape[self.axes[0]], self.native_shape[self.axes[1]], self.native_shape[self.axes[2]]

    @property
    def cropped_shape(self) -> Index:
        """Voxels of the preprocessed volume."""
        x, y, z = (stop - start for start, stop in zip(self.crop_start, self.crop_stop, strict=True))
        return x, y, z

    @property
    def crop(self) -> tuple[slice, slice, slice]:
        """The kept box as slices of the resampled volume."""
        x, y, z = (slice(start, stop) for start, stop in zip(self.crop_start, self.crop_stop, strict=True))
        return x, y, z
