"""One volume through all of the preprocessing: RAS, resampled, windowed to [0, 1], cropped to the patient."""

from __future__ import annotations

import math

import numpy as np

from arena_pipeline.errors import ImageError
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.labels import UNLABELLED, bounding_box
from arena_pipeline.io.nearest import corner_aligned_axes, edge_aligned_axes, effective_spacing, resampled_size, take_nearest
from arena_pipeline.io.orientation import to_ras
from arena_pipeline.machine import memory_bytes
from arena_pipeline.preprocess.body import body_mask
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.nnunet import preprocess_nnunet
from arena_pipeline.preprocess.resample import resample_annotated, resample_linear


def preprocess_image(image: Image, scheme: Scheme, threads: int = 1) -> tuple[np.ndarray, GridMap]:
    """The volume that the foundation expects, and the way back.

    Equal to MONAI's Orientation("RAS"), Spacing(bilinear), ScaleIntensityRange(clip) and CropForeground(> 0) in this order:
    HU are resampled first and clipped after, so an edge between air and tissue stays where it was. Axes that do not stand
    at right angles are taken as if they did. Where the scheme sets aside what is outside the body, it has the window's lower end.

    Args:
        image: HU, in any orientation and spacing.
        threads: for the resampling.

    Returns:
        (x, y, z) float32 in [0, 1], C-contiguous; the GridMap. For nnU-Net's scheme: see `preprocess_nnunet`.

    Raises:
        ImageError: no voxel lies above the window's lower end, or the resampled volume is larger than the memory.
    """
    if scheme.nnunet is not None:
        _check_memory(image.geometry.shape, image.geometry.spacing_mm, scheme)
        return preprocess_nnunet(image, scheme, scheme.nnunet)
    array, order = to_ras(image.array, image.geometry.affine)
    native_spacing = order.ordered(image.geometry.spacing_mm)
    _check_memory(array.shape, native_spacing, scheme)
    resampled = resample_linear(array, native_spacing, scheme.spacing_mm, threads)
    low, high = scheme.window_hu
    tissue = resampled > low
    if scheme.outside_body == "set_aside" and tissue.any():
        body = body_mask(tissue)
        resampled = np.where(body, resampled, np.float32(low))
        tissue &= body
    box = bounding_box(tissue)
    if box is None:
        raise ImageError(
            f"nothing to see: all intensities ({resampled.min():g} to {resampled.max():g} after resampling) lie at or below "
            f"{low:g} HU, the lower end of the window {low:g} to {high:g}",
            advice="expected a CT in Hounsfield units (soft tissue about 40)",
        )
    grid = GridMap(
        native_shape=image.geometry.shape,
        slant=image.geometry.slant,
        axes=order.axes,
        flips=order.flips,
        native_spacing_mm=native_spacing,
        scheme_spacing_mm=effective_spacing(native_spacing, scheme.spacing_mm),
        resampled_shape=resampled.shape,
        crop_start=tuple(side.start for side in box),
        crop_stop=tuple(side.stop for side in box),
    )
    return window_to_unit_(np.array(resampled[grid.crop], order="C"), scheme.window_hu), grid


def window_to_unit_(array: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """(HU - low) / (high - low), clipped to [0, 1]; of a float32 array, in place."""
    low, high = window_hu
    array -= np.float32(low)
    array /= np.float32(high - low)
    return np.clip(array, 0, 1, out=array)


def _check_memory(shape: tuple[int, ...], spacing_mm: tuple[float, float, float], scheme: Scheme) -> None:
    """A wrong voxel size, 50 mm for 0.5, makes a volume of a million times the voxels."""
    size = [resampled_size(n, old, new) for n, old, new in zip(shape, spacing_mm, scheme.spacing_xyz_mm, strict=True)]
    needed = 4 * math.prod(size)
    if needed > memory_bytes():
        spacing, there = " x ".join(f"{mm:.3g}" for mm in spacing_mm), memory_bytes() / 2**30
        raise ImageError(
            f"voxels of {spacing} mm make {' x '.join(map(str, size))} voxels at the foundation's spacing, {needed / 2**30:,.1f} GiB, where this "
            f"machine has {there:.1f}",
            advice="correct the header's voxel size, or use a larger machine",
        )


def preprocess_segmentation(array: np.ndarray, grid: GridMap, ignore_label: int | None = None) -> np.ndarray:
    """A label map (x, y, z) on the image's own grid, brought to the preprocessed one (nearest voxel); C-contiguous, same type.

    Args:
        ignore_label: the integer of voxels that nobody annotated; where there are any, they are UNLABELLED in the result, of uint16.

    Raises:
        ImageError: the array is not of the grid's native shape.
    """
    if array.shape != grid.native_shape:
        found = f"a segmentation of shape {array.shape} does not fit its CT of shape {grid.native_shape}"
        raise ImageError(found, advice="re-export it on the CT's grid")
    resample = take_nearest
    if ignore_label is not None and (unlabelled := array == ignore_label).any():
        array, resample = np.where(unlabelled, np.uint16(UNLABELLED), array.astype(np.uint16)), resample_annotated
    oriented = grid.axis_order.apply(array)
    if grid.native_start is not None and grid.native_stop is not None:
        kept = oriented[tuple(slice(first, last) for first, last in zip(grid.native_start, grid.native_stop, strict=True))]
        return resample(kept, edge_aligned_axes(kept.shape, grid.resampled_shape))
    resampled = resample(oriented, corner_aligned_axes(oriented.shape, grid.native_spacing_mm, grid.scheme_spacing_mm))
    return np.ascontiguousarray(resampled[grid.crop])
