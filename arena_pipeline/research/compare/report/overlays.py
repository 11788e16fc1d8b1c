"""Slices of a query with two outlines: the reference's and the prediction's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from arena_pipeline.errors import ImageError
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.images import grid_difference, read_segmentation
from arena_pipeline.io.orientation import to_ras
from arena_pipeline.io.segmentations import aligned
from arena_pipeline.predict.preview import PLANES, draw_outline, draw_slice
from arena_pipeline.research.compare.report_data import Example

SHOWN = [plane for plane in PLANES if plane.title in ("axial", "coronal")]
MARGIN_MM = 35.0
SMALLEST_SIDE_MM = 130.0
WIDTH_INCHES = 5.5
REFERENCE_COLOUR, PREDICTION_COLOUR = "#56b4e9", "#ffb000"


@dataclass(frozen=True, eq=False)
class Overlay:
    """One example with its slices and the volumes of both masks."""

    example: Example
    figure: Figure
    reference_ml: float
    prediction_ml: float


def draw_overlay(example: Example, ct: Image) -> Overlay:
    """Reads both segmentations and draws the slices in which the reference (where it is empty, the prediction) is largest.

    Args:
        ct: the image of the example, in HU.

    Raises:
        ImageError: a segmentation is unreadable, or not on the CT's grid.
    """
    masks = [_mask(path, example, ct) for path in (example.reference, example.prediction)]
    volume, order = to_ras(ct.array, ct.geometry.affine)
    spacing = order.ordered(ct.geometry.spacing_mm)
    reference, prediction = (order.apply(mask) for mask in masks)
    at = {plane: _fullest(reference if reference.any() else prediction, plane.across) for plane in SHOWN}
    mm = {plane: (spacing[plane.vertical], spacing[plane.horizontal]) for plane in SHOWN}
    boxes = {plane: _crop(plane.cut(reference, at[plane]) | plane.cut(prediction, at[plane]), mm[plane]) for plane in SHOWN}
    shapes = [(box[1] - box[0]) * mm[plane][::-1] for plane, box in boxes.items()]  # (width, height) in mm
    proportions = [width / height for width, height in shapes]
    figure = Figure(figsize=(WIDTH_INCHES, 0.4 + (WIDTH_INCHES - 0.6) / sum(proportions)), facecolor="black", layout="constrained")
    for axes, plane in zip(figure.subplots(1, len(SHOWN), width_ratios=proportions), SHOWN, strict=True):
        draw_slice(axes, plane, volume, spacing, at[plane], example.window_hu)
        draw_outline(axes, plane.cut(reference, at[plane]), REFERENCE_COLOUR)
        draw_outline(axes, plane.cut(prediction, at[plane]), PREDICTION_COLOUR, "dashed")
        (left, bottom), (right, top) = boxes[plane]
        axes.set(xlim=(left, right), ylim=(bottom, top))
    ml = ct.geometry.voxel_volume_ml
    return Overlay(example, figure, float(reference.sum() * ml), float(prediction.sum() * ml))


def _mask(path: Path, example: Example, ct: Image) -> np.ndarray:
    segmentation = aligned(read_segmentation(path), ct.geometry)
    if difference := grid_difference(ct.geometry, segmentation.geometry):
        found = f"the segmentation's grid differs from the CT's: {difference}"
        raise ImageError(found, case=example.case, file=path, advice="predict the case again")
    return np.asarray(segmentation.array == example.label)


def _fullest(mask: np.ndarray, across: int) -> int:
    """The slice with most of the mask in it; the middle one of an empty mask."""
    areas = mask.sum(axis=tuple(axis for axis in range(3) if axis != across))
    return int(areas.argmax()) if areas.any() else len(areas) // 2


def _crop(mask: np.ndarray, mm: tuple[float, float]) -> np.ndarray:
    """((left, bottom), (right, top)) in voxels, whose centres are whole numbers.

    The mask with MARGIN_MM around it, at least SMALLEST_SIDE_MM wide and high, within the slice; the whole slice where the mask is empty.
    """
    ends = []
    for axis, size in enumerate(mm):
        hit = np.flatnonzero(mask.any(axis=1 - axis)) if mask.any() else np.array([0, mask.shape[axis] - 1])
        half = max((hit[-1] - hit[0] + 1) * size / 2 + MARGIN_MM, SMALLEST_SIDE_MM / 2) / size
        middle = (hit[0] + hit[-1]) / 2
        ends.append((max(-0.5, middle - half), min(mask.shape[axis] - 0.5, middle + half)))
    return np.array(ends)[::-1].T
