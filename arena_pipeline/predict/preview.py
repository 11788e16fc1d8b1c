"""A picture per case: slices that show every structure of the segmentation with its outline, as a radiologist expects to see them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.labels import label_boxes
from arena_pipeline.predict.labels import RGB

PREVIEW_FOLDER = "previews"
WIDTH_INCHES, LARGEST_ROW_INCHES = 12.0, 9.0  # of the three panels of a row together, which share one scale
MOST_ROWS = 6
TITLE_INCHES, LEGEND_ROW_INCHES = 0.75, 0.24
GAP_INCHES, ROW_GAP_INCHES = 0.4, 0.5  # between panels: room for the letters, and between rows for a title too
LEGEND_COLUMNS = 5
CHECK_COLOUR = "#ffc14d"
DOTS_PER_INCH = 110
Labels = Mapping[str, tuple[int, RGB]]


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

    def cut(self, volume: np.ndarray, position: int) -> np.ndarray:
        """The slice of a volume (x, y, z) in RAS as (vertical, horizontal), upwards and to the right: a view, with R (or A) on the left."""
        flat = volume[(slice(None),) * self.across + (position,)]
        return flat.T[:, ::-1]


PLANES = (
    Plane("axial", 2, 0, 1, ("R", "L", "A", "P")),
    Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    Plane("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


def write_preview(
    path: Path,
    case: str,
    image: Image,
    segmentation: np.ndarray,
    labels: Labels,
    window_hu: tuple[float, float],
    check: Collection[str] = (),
) -> None:
    """Writes the PNG: rows of three slices, as many as show every structure that was found (at most MOST_ROWS).

    Args:
        image: the CT, in HU.
        segmentation: (x, y, z) integers on the CT's grid.
        labels: structure -> (integer, colour).
        window_hu: shown from black to white.
        check: the structures that a person should look at; their names are marked.
    """
    turn = nib.io_orientation(image.geometry.affine)
    ct = nib.apply_orientation(image.array, turn)
    labelled = nib.apply_orientation(segmentation, turn)
    spacing = tuple(float(image.geometry.spacing_mm[axis]) for axis in np.argsort(turn[:, 0]))
    size_mm = tuple(n * mm for n, mm in zip(ct.shape, spacing, strict=True))
    areas = _cross_sections(labelled)
    rows, unseen = _rows(areas, labelled.shape)
    figure, panels = _figure(size_mm, len(rows), math.ceil(len(labels) / LEGEND_COLUMNS))
    for row, positions in zip(panels, rows, strict=True):
        for axes, plane in zip(row, PLANES, strict=True):
            draw_slice(axes, plane, ct, spacing, positions[plane.across], window_hu)
            shown = plane.cut(labelled, positions[plane.across])
            for label, colour in labels.values():
                draw_outline(axes, shown == label, _unit(colour))
    found = "" if areas else "   NOTHING FOUND"
    missing = f"   not in these slices: {', '.join(name for name, (label, _) in labels.items() if label in unseen)}" if unseen else ""
    extent = " x ".join(f"{length:.0f}" for length in size_mm)
    title = f"{case}{found}   {extent} mm, window {window_hu[0]:.0f} to {window_hu[1]:.0f} HU{missing}"
    figure.suptitle(title, y=1 - 0.12 / figure.get_figheight(), color="white", fontsize=11, wrap=True)
    volumes_ml = {label: along_x.sum() * image.geometry.voxel_volume_ml for label, (along_x, _, _) in areas.items()}
    _legend(figure, volumes_ml, labels, check)
    with replace_when_done(path) as temporary:
        figure.savefig(temporary, facecolor="black")


def _figure(size_mm: tuple[float, ...], rows: int, legend_rows: int) -> tuple[Figure, list[list[Axes]]]:
    """A black figure whose panels have the slices' proportions at one scale, three in a row, with room for a title and a legend."""
    widths = [size_mm[plane.horizontal] for plane in PLANES]
    heights = [size_mm[plane.vertical] for plane in PLANES]
    scale = min((WIDTH_INCHES - 4 * GAP_INCHES) / sum(widths), LARGEST_ROW_INCHES / max(heights))
    below, row_height = ROW_GAP_INCHES + legend_rows * LEGEND_ROW_INCHES, max(heights) * scale + ROW_GAP_INCHES
    height = rows * row_height + below + TITLE_INCHES - ROW_GAP_INCHES
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="black")
    panels: list[list[Axes]] = []
    for row in range(rows):
        left = (WIDTH_INCHES - sum(widths) * scale - 2 * GAP_INCHES) / 2
        panels.append([])
        for wide, high in zip(widths, heights, strict=True):
            bottom = below + (rows - 1 - row) * row_height + (max(heights) - high) * scale / 2
            box = (left / WIDTH_INCHES, bottom / height, wide * scale / WIDTH_INCHES, high * scale / height)
            panels[-1].append(figure.add_axes(box))
            left += wide * scale + GAP_INCHES
    return figure, panels


def _rows(areas: Mapping[int, Sequence[np.ndarray]], shape: tuple[int, ...]) -> tuple[list[tuple[int, int, int]], set[int]]:
    """The slices (x, y, z) of each row, and the labels that are in none of them.

    A row shows most of what the rows before it did not: the first one most of all structures, each counted as its share of its own
    largest cross-section.

    Args:
        areas: as `_cross_sections` gives them, of a segmentation of this shape.
    """
    unseen, rows = set(areas), list[tuple[int, int, int]]()
    while not rows or (unseen and len(rows) < MOST_ROWS):
        scores = [sum((areas[label][axis] / areas[label][axis].max() for label in unseen), np.zeros(n)) for axis, n in enumerate(shape)]
        x, y, z = (int(score.argmax()) if unseen else len(score) // 2 for score in scores)
        rows.append((x, y, z))
        unseen -= {label for label in unseen if any(areas[label][axis][at] for axis, at in enumerate((x, y, z)))}
    return rows, unseen


def _cross_sections(labelled: np.ndarray) -> dict[int, list[np.ndarray]]:
    """Label -> per axis its voxels in every slice."""
    found = {}
    for label, box in label_boxes(labelled).items():
        mask = labelled[box] == label
        found[label] = [np.zeros(length, np.int64) for length in labelled.shape]
        for axis, counts in enumerate(found[label]):
            counts[box[axis]] = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    return found


def draw_slice(axes: Axes, plane: Plane, ct: np.ndarray, spacing: tuple[float, ...], position: int, window_hu: tuple[float, float]) -> None:
    """The slice of a CT in RAS, with the letters of the directions around it, not on it; axes in voxels."""
    low, high = window_hu
    aspect = spacing[plane.vertical] / spacing[plane.horizontal]
    axes.imshow(plane.cut(ct, position), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"{plane.title} {position}", color="white", fontsize=9, loc="left", y=1)
    places = (
        (0, 0.5, "right", "center", -3, 0),
        (1, 0.5, "left", "center", 3, 0),
        (0.5, 1, "center", "bottom", 0, 2),
        (0.5, 0, "center", "top", 0, -2),
    )
    for letter, (x, y, horizontal, vertical, right, up) in zip(plane.letters, places, strict=True):
        style_of_letter: dict[str, Any] = {"color": "gold", "fontsize": 10, "ha": horizontal, "va": vertical, "annotation_clip": False}
        axes.annotate(letter, (x, y), (right, up), "axes fraction", "offset points", **style_of_letter)


def draw_outline(axes: Axes, mask: np.ndarray, colour: Any, line: str = "solid") -> None:
    """The border of a slice's mask, as `Plane.cut` gives it, closed at the image's edge too: for that it is padded by one voxel."""
    if mask.any():
        extent = (-1.5, mask.shape[1] + 0.5, -1.5, mask.shape[0] + 0.5)
        axes.contour(np.pad(mask, 1), levels=[0.5], colors=[colour], linewidths=1.2, linestyles=line, extent=extent, origin="lower")
        axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(-0.5, mask.shape[0] - 0.5))


def _legend(figure: Figure, volumes_ml: Mapping[int, float], labels: Labels, check: Collection[str]) -> None:
    lines, names = [], []
    for name, (label, colour) in labels.items():
        lines.append(Line2D([], [], color=_unit(colour), linewidth=3))
        found = f"{name} {_volume(volumes_ml[label])}" if label in volumes_ml else f"{name} not found"
        names.append(f"{found} - check" if name in check else found)
    if lines:
        colours = [CHECK_COLOUR if name in check else "white" for name in labels]
        columns = min(LEGEND_COLUMNS, len(lines))
        figure.legend(lines, names, loc="lower center", ncols=columns, fontsize=8, frameon=False, labelcolor=colours)


def _volume(millilitres: float) -> str:
    return f"{millilitres:.0f} ml" if millilitres >= 10 else f"{millilitres:.2g} ml"


def _unit(colour: RGB) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
