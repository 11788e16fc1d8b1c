"""Slices of a query with two outlines: what the reference says and what the adapted network says."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from PIL import Image as Picture

from arena_pipeline.errors import ImageError
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.images import grid_difference, read_segmentation
from arena_pipeline.io.segmentations import aligned
from arena_pipeline.predict.preview import PLANES, Plane
from arena_pipeline.preprocess.orientation import to_ras
from arena_pipeline.research.compare.report_data import Example

SHOWN = ("axial", "coronal")
MARGIN_MM = 35.0
SMALLEST_SIDE_MM = 130.0
LARGEST_SIDE_PIXELS = 224
"""Of a stored slice: enough for half a phone's width, and small enough that a report of many structures stays below 3 MB."""
GREY_LEVELS = 48
"""Steps of 9 HU in a window of 425: finer ones are hardly seen on a screen, and noise that is not seen costs most of a file."""


@dataclass(frozen=True)
class OverlaySlice:
    """A slice as the page draws it, in mm from its upper left corner.

    Attributes:
        png: data URI, grey.
        reference, prediction: the outlines as SVG path data; empty where the mask has nothing in this slice.
        letters: at left, right, top, bottom.
    """

    title: str
    width_mm: float
    height_mm: float
    png: str
    reference: str
    prediction: str
    letters: tuple[str, str, str, str]


@dataclass(frozen=True)
class Overlay:
    """One example with its slices and the volumes of both masks."""

    example: Example
    slices: tuple[OverlaySlice, ...]
    reference_ml: float
    prediction_ml: float


def draw_overlay(example: Example, ct: Image) -> Overlay:
    """Reads both segmentations and cuts the slices in which the reference (where it is empty, the prediction) is largest.

    Args:
        ct: the image of the example, in HU.

    Raises:
        ImageError: a segmentation is unreadable, or not on the CT's grid.
    """
    masks = [_mask(path, example, ct) for path in (example.reference, example.prediction)]
    volume, order = to_ras(ct.array, ct.geometry.affine)
    spacing = tuple(ct.geometry.spacing_mm[axis] for axis in order.axes)
    reference, prediction = (order.apply(mask) for mask in masks)
    leading = reference if reference.any() else prediction
    slices = tuple(_slice(plane, (volume, reference, prediction), spacing, _fullest(leading, plane.across), example.window_hu) for plane in _planes())
    ml = ct.geometry.voxel_volume_ml
    return Overlay(example, slices, float(reference.sum() * ml), float(prediction.sum() * ml))


def _planes() -> list[Plane]:
    return [plane for plane in PLANES if plane.title in SHOWN]


def _mask(path: Path, example: Example, ct: Image) -> np.ndarray:
    segmentation = aligned(read_segmentation(path), ct.geometry)
    difference = grid_difference(ct.geometry, segmentation.geometry)
    if difference is not None:
        raise ImageError(f"{example.case}: the segmentation's grid differs from the CT's: {difference} in {path}; predict the case again")
    return np.asarray(segmentation.array == example.label)


def _fullest(mask: np.ndarray, across: int) -> int:
    """The slice with most of the mask in it; the middle one of an empty mask."""
    areas = mask.sum(axis=tuple(axis for axis in range(3) if axis != across))
    return int(areas.argmax()) if areas.any() else len(areas) // 2


def _slice(plane: Plane, volumes: Sequence[np.ndarray], spacing: Sequence[float], position: int, window_hu: tuple[float, float]) -> OverlaySlice:
    """Rows from top to bottom, columns from left to right as a radiologist sees them: R (A) on the left, A (S) above."""
    ct, reference, prediction = (plane.cut(volume, position)[::-1] for volume in volumes)
    mm = (spacing[plane.vertical], spacing[plane.horizontal])
    box = _crop(reference | prediction, mm)
    ct, reference, prediction = ct[box], reference[box], prediction[box]
    height, width = (length * size for length, size in zip(ct.shape, mm, strict=True))
    title = f"{plane.title}, slice {position + 1} of {volumes[0].shape[plane.across]}"
    return OverlaySlice(title, width, height, _png(ct, (height, width), window_hu), _outline(reference, mm), _outline(prediction, mm), plane.letters)


def _crop(mask: np.ndarray, mm: tuple[float, float]) -> tuple[slice, slice]:
    """Both outlines with MARGIN_MM around them, at least SMALLEST_SIDE_MM; all of the slice where both are empty."""
    if not mask.any():
        return slice(None), slice(None)
    box = []
    for axis, size in enumerate(mm):
        hit = np.flatnonzero(mask.any(axis=1 - axis))
        half = max((hit[-1] - hit[0] + 1) * size / 2 + MARGIN_MM, SMALLEST_SIDE_MM / 2) / size
        middle = (hit[0] + hit[-1] + 1) / 2
        box.append(slice(max(0, round(middle - half)), min(mask.shape[axis], round(middle + half))))
    return box[0], box[1]


def _png(ct: np.ndarray, size_mm: tuple[float, float], window_hu: tuple[float, float]) -> str:
    """(rows, columns) in HU -> data URI of a grey PNG with square pixels, as fine as the CT but not above LARGEST_SIDE_PIXELS."""
    low, high = window_hu
    grey = np.clip((ct.astype(np.float32) - low) / (high - low), 0, 1)
    levels = np.round(grey * (GREY_LEVELS - 1)) * (255 / (GREY_LEVELS - 1))
    picture = Picture.fromarray(levels.astype(np.uint8))
    pixel_mm = max(min(size_mm[0] / ct.shape[0], size_mm[1] / ct.shape[1]), max(size_mm) / LARGEST_SIDE_PIXELS)
    picture = picture.resize((round(size_mm[1] / pixel_mm), round(size_mm[0] / pixel_mm)), Picture.Resampling.BOX)
    buffer = io.BytesIO()
    picture.quantize(GREY_LEVELS).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _outline(mask: np.ndarray, mm: tuple[float, float]) -> str:
    """The contour between inside and outside voxels, closed at the slice's edge."""
    if not mask.any():
        return ""
    lines: Any = contourpy.contour_generator(z=np.pad(mask, 1).astype(np.float64)).lines(0.5)
    # A voxel's centre is half a voxel from its edge; the padding shifts by one voxel.
    paths = ["M" + "L".join(f"{(x - 0.5) * mm[1]:.1f} {(y - 0.5) * mm[0]:.1f}" for x, y in line) + "Z" for line in lines]
    return "".join(paths)
