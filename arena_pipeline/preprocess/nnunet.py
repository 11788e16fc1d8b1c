"""nnU-Net's way of preparing an image: crop to what is not zero, normalise, resample between the voxels' edges.

On resampling, the volume's outer edges stay where they are (half-pixel-centred): output voxel i lies at (i + 1/2) n_in / n_out - 1/2 of the
input, where n_out = round(n_in old / new). Where spacings are anisotropic, the coarse axis is resampled apart from the planes across it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from arena_pipeline.errors import ImageError
from arena_pipeline.foundations import Scheme
from arena_pipeline.foundations.nnunet_scheme import NnunetScheme
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.labels import bounding_box
from arena_pipeline.io.nearest import edge_aligned, edge_aligned_shape
from arena_pipeline.io.orientation import AxisOrder
from arena_pipeline.preprocess.grid import GridMap

Shape = tuple[int, int, int]

LEAST_DEVIATION = 1e-8  # of a constant image, whose normalised values are then 0


def preprocess_nnunet(image: Image, scheme: Scheme, conventions: NnunetScheme) -> tuple[np.ndarray, GridMap]:
    """The volume that a network of nnU-Net expects, and the way back.

    Args:
        image: HU, in any orientation and spacing.

    Returns:
        float32 in the network's axis order, C-contiguous; the GridMap, whose triples are in that order.

    Raises:
        ImageError: every voxel is zero.
    """
    order = axis_order(image.geometry.affine, scheme, conventions)
    array = order.apply(image.array)
    box = bounding_box(array != 0)
    if box is None:
        raise ImageError("every voxel is 0", advice="expected a CT in Hounsfield units (air about -1000, soft tissue about 40)")
    cropped = array[box].astype(np.float32)
    native = order.ordered(image.geometry.spacing_mm)
    shape = edge_aligned_shape(cropped.shape, native, scheme.spacing_mm)
    coarse = conventions.coarse_axis(native, scheme.spacing_mm)
    normalise_(cropped, scheme.window_hu, conventions)
    volume = resample(cropped, shape, conventions.order, coarse, conventions.order_z)
    back = conventions.coarse_axis(scheme.spacing_mm, native)
    grid = GridMap(
        native_shape=image.geometry.shape,
        slant=image.geometry.slant,
        axes=order.axes,
        flips=order.flips,
        native_spacing_mm=native,
        scheme_spacing_mm=scheme.spacing_mm,
        resampled_shape=volume.shape,
        crop_start=(0, 0, 0),
        crop_stop=volume.shape,
        native_start=tuple(side.start for side in box),
        native_stop=tuple(side.stop for side in box),
        nearest_axis=back if conventions.order_z_back == 0 else None,
    )
    return volume, grid


def axis_order(affine: np.ndarray, scheme: Scheme, conventions: NnunetScheme) -> AxisOrder:
    """How an image's own axes become the network's."""
    oriented = AxisOrder.of(affine) if scheme.orientation == "RAS" else AxisOrder((0, 1, 2), (False, False, False))
    a, b, c = conventions.axes
    axes, flips = oriented.axes, oriented.flips
    return AxisOrder((axes[a], axes[b], axes[c]), (flips[a], flips[b], flips[c]))


def normalise_(array: np.ndarray, window_hu: tuple[float, float], conventions: NnunetScheme) -> None:
    """In place; `array` is float32 in HU."""
    if conventions.normalization == "CTNormalization":
        np.clip(array, *window_hu, out=array)
        array -= np.float32(conventions.mean_hu)
        array /= np.float32(max(conventions.std_hu, LEAST_DEVIATION))
    elif conventions.normalization == "ZScoreNormalization":
        inside = ndimage.binary_fill_holes(array != 0) if conventions.masked else np.ones((), dtype=bool)
        values = array[inside] if conventions.masked else array
        mean, deviation = values.mean(), max(values.std(), LEAST_DEVIATION)
        np.subtract(array, mean, out=array, where=inside)
        np.divide(array, deviation, out=array, where=inside)


def resample(array: np.ndarray, shape: Shape, order: int, coarse_axis: int | None, coarse_order: int) -> np.ndarray:
    """Splines of `order`, and of `coarse_order` along the coarse axis where there is one, to `shape`; values stay in their range, plane by plane.

    Returns:
        float32, C-contiguous.
    """
    if array.shape == shape:
        return np.ascontiguousarray(array, dtype=np.float32)
    if coarse_axis is None:
        return _zoomed(array, shape, order)
    planes = np.moveaxis(array, coarse_axis, 0)
    edges = tuple(length for axis, length in enumerate(shape) if axis != coarse_axis)
    across = np.stack([_zoomed(plane, edges, order) for plane in planes])
    if len(across) != shape[coarse_axis]:
        across = along_first_axis(across, shape[coarse_axis], linear=coarse_order == 1)
    return np.ascontiguousarray(np.moveaxis(across, 0, coarse_axis))


def along_first_axis(array: np.ndarray, n_out: int, linear: bool) -> np.ndarray:
    """The nearest plane, or the mean of the two around, at the output's positions."""
    sampling = edge_aligned(len(array), n_out)
    if not linear:
        return array[sampling.nearest]
    position = np.clip(sampling.positions, 0, len(array) - 1)
    lower = np.floor(position).astype(np.intp)
    weight = (position - lower).astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
    return array[lower] * (1 - weight) + array[np.minimum(lower + 1, len(array) - 1)] * weight


def _zoomed(array: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    zoomed = ndimage.zoom(array, factors, output=np.float32, order=order, mode="nearest", grid_mode=True)
    return np.clip(zoomed, array.min(), array.max(), out=zoomed) if order > 1 else zoomed
