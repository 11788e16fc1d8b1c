"""A picture per case: three slices through the segmentation with its outlines, as a radiologist expects to see them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import ndimage

from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.labels import count_labels
from arena_pipeline.predict.labels import RGB

PREVIEW_FOLDER = "previews"
WIDTH_INCHES, LARGEST_HEIGHT_INCHES = 12.0, 9.0  # of the three panels together, which share one scale
TITLE_INCHES, LEGEND_ROW_INCHES, GAP_INCHES = 0.75, 0.24, 0.25
LEGEND_COLUMNS = 5
DOTS_PER_INCH = 110


@dataclass(frozen=True)
class Plane:
    """A panel: the RAS axis it is cut across, the axes shown to the right and upwards, and the letters at left, right, top, bottom.

    Axial and coronal slices show the patient's right on the left, a sagittal slice has the face on the left.
    """

    title: str
    across: int
    horizontal: int
    vertical: int
    letters: tuple[str, str, str, str]


PLANES = (
    Plane("axial", 2, 0, 1, ("R", "L", "A", "P")),
    Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    Plane("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


def write_preview(
    path: Path, case: str, image: Image, segmentation: np.ndarray, labels: Mapping[str, tuple[int, RGB]], window_hu: tuple[float, float]
) -> None:
    """Writes the PNG.

    Args:
        image: the CT, in HU.
        segmentation: (x, y, z) integers on the CT's grid.
        labels: structure -> (integer, colour).
        window_hu: shown from black to white.
    """
    turn = nib.io_orientation(image.geometry.affine)
    ct = nib.apply_orientation(image.array, turn)
    labelled = nib.apply_orientation(segmentation, turn)
    order = np.argsort(turn[:, 0])
    spacing = tuple(float(image.geometry.spacing_mm[axis]) for axis in order)
    size_mm = tuple(n * mm for n, mm in zip(ct.shape, spacing, strict=True))
    figure, panels = _figure(size_mm, math.ceil(len(labels) / LEGEND_COLUMNS))
    position = _fullest_slices(labelled)
    for axes, plane in zip(panels, PLANES, strict=True):
        _draw(axes, plane, (ct, labelled), spacing, position[plane.across], (labels, window_hu))
    found = "" if labelled.any() else "   NOTHING FOUND"
    extent = " x ".join(f"{length:.0f}" for length in size_mm)
    figure.suptitle(f"{case}{found}   {extent} mm, window {window_hu[0]:.0f} to {window_hu[1]:.0f} HU", color="white", fontsize=11)
    _legend(figure, labelled, labels, image.geometry.voxel_volume_ml)
    with replace_when_done(path) as temporary:
        figure.savefig(temporary, facecolor="black")


def _figure(size_mm: tuple[float, ...], legend_rows: int) -> tuple[Figure, list[Axes]]:
    """A black figure whose three panels have the slices' proportions at one scale, with room for a title and a legend."""
    widths = [size_mm[plane.horizontal] for plane in PLANES]
    heights = [size_mm[plane.vertical] for plane in PLANES]
    scale = min((WIDTH_INCHES - 4 * GAP_INCHES) / sum(widths), LARGEST_HEIGHT_INCHES / max(heights))
    below = GAP_INCHES + legend_rows * LEGEND_ROW_INCHES
    height = max(heights) * scale + below + TITLE_INCHES
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="black")
    FigureCanvasAgg(figure)
    left = (WIDTH_INCHES - sum(widths) * scale - 2 * GAP_INCHES) / 2
    panels = []
    for wide, high in zip(widths, heights, strict=True):
        bottom = below + (max(heights) - high) * scale / 2
        box = (left / WIDTH_INCHES, bottom / height, wide * scale / WIDTH_INCHES, high * scale / height)
        panels.append(figure.add_axes(box))
        left += wide * scale + GAP_INCHES
    return figure, panels


def _fullest_slices(labelled: np.ndarray) -> tuple[int, int, int]:
    """Per axis the slice that shows most: the sum over structures of each one's share of its own largest cross-section."""
    scores = [np.zeros(length) for length in labelled.shape]
    for label, box in enumerate(ndimage.find_objects(labelled), start=1):
        if box is None:
            continue
        mask = labelled[box] == label
        for axis in range(3):
            areas = mask.sum(axis=tuple(a for a in range(3) if a != axis))
            scores[axis][box[axis]] += areas / areas.max()
    x, y, z = (int(score.argmax()) if score.any() else len(score) // 2 for score in scores)
    return x, y, z


def _draw(
    axes: Axes,
    plane: Plane,
    volumes: tuple[np.ndarray, np.ndarray],
    spacing: tuple[float, ...],
    position: int,
    style: tuple[Mapping[str, tuple[int, RGB]], tuple[float, float]],
) -> None:
    """One panel. RAS: x grows to the patient's right, so x (and, in a sagittal slice, y) is mirrored to show R (A) on the left."""
    ct, labelled = (_slice(volume, plane, position) for volume in volumes)
    labels, (low, high) = style
    aspect = spacing[plane.vertical] / spacing[plane.horizontal]
    axes.imshow(ct, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect, interpolation="nearest")
    for label, colour in labels.values():
        mask = labelled == label
        if mask.any():
            axes.contour(np.pad(mask, 1), levels=[0.5], colors=[_unit(colour)], linewidths=1.2, extent=_extent(mask), origin="lower")
    axes.set_xlim(-0.5, ct.shape[1] - 0.5)
    axes.set_ylim(-0.5, ct.shape[0] - 0.5)
    axes.set_axis_off()
    axes.set_title(f"{plane.title} {position}", color="white", fontsize=9)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, horizontal, vertical) in zip(plane.letters, places, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, color="gold", fontsize=10, ha=horizontal, va=vertical)


def _slice(volume: np.ndarray, plane: Plane, position: int) -> np.ndarray:
    """(vertical, horizontal), the horizontal axis mirrored."""
    flat = volume.take(position, axis=plane.across)
    return (flat.T if plane.horizontal < plane.vertical else flat)[:, ::-1]


def _extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Of the mask padded by one voxel, so that outlines close at the image's edge: where contour puts its outer cells."""
    return -1.5, mask.shape[1] + 0.5, -1.5, mask.shape[0] + 0.5


def _legend(figure: Figure, labelled: np.ndarray, labels: Mapping[str, tuple[int, RGB]], voxel_ml: float) -> None:
    counts = count_labels(labelled, minlength=max((label for label, _ in labels.values()), default=0) + 1)
    lines, names = [], []
    for name, (label, colour) in labels.items():
        lines.append(Line2D([], [], color=_unit(colour), linewidth=3))
        names.append(f"{name} {_volume(counts[label] * voxel_ml)}" if counts[label] else f"{name} not found")
    if lines:
        figure.legend(lines, names, loc="lower center", ncols=min(LEGEND_COLUMNS, len(lines)), fontsize=8, frameon=False, labelcolor="white")


def _volume(millilitres: float) -> str:
    return f"{millilitres:.0f} ml" if millilitres >= 10 else f"{millilitres:.2g} ml"


def _unit(colour: RGB) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
