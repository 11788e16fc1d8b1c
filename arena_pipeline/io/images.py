"""Images and segmentations in and out, from any kind of file (io/formats.py) or a DICOM series."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from arena_pipeline.errors import ArenaError, DatasetError, ImageError
from arena_pipeline.io import endings, nifti
from arena_pipeline.io.dicom import CTSeries, only_series, read_series, series_geometry
from arena_pipeline.io.formats import format_of
from arena_pipeline.io.geometry import GRID_TOLERANCE_VOXELS, Geometry, Image
from arena_pipeline.io.labels import labels_present

logger = logging.getLogger(__name__)

NAMED_VALUES = 5
ImageSource = Path | CTSeries
SLOPE_ROUNDING = 1e-6  # relative: NIfTI holds a slope in float32


def read_image(path: str | Path | CTSeries, warn: bool = True) -> Image:
    """A CT as it is stored: (x, y, z), int16 where all values are such whole numbers (HU usually are), else float32.

    Args:
        path: .nii, .nii.gz, .nrrd, .mha, .mhd, a DICOM series, or a folder that holds one.
        warn: log the oddities of its header.

    Raises:
        ImageError: unreadable, cut short, not one 3D volume of numbers, or NaN or infinity in it.
    """
    if isinstance(path, CTSeries):
        return read_series(path)
    path = Path(path)
    if path.is_dir() and not path.name.lower().endswith(endings.IMAGES):
        return read_series(only_series(path))
    stored, slope, intercept, geometry = format_of(path).read(path)
    array = _as_hu(stored, slope, intercept)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        voxels = "1 voxel is" if bad == 1 else f"{bad:,} voxels are"
        raise ImageError(f"{voxels} NaN or infinite", file=path, advice="replace them (air is -1024 HU) or export the CT again")
    for oddity in nifti.oddities(geometry) if warn else ():
        logger.warning("%s: %s", path, oddity)
    return Image(array, geometry)


def read_segmentation(path: str | Path) -> Image:
    """A label map: (x, y, z), uint8 or, with labels above 255, uint16.

    Float files are fine as long as their values are whole numbers, and so are integers stored with a slope as long as their values are whole
    within the slope's rounding: nibabel writes such files of a mask held as floats.

    Raises:
        ImageError: as read_image, or values that are no labels (fractions, negative, above 65,535).
    """
    path = Path(path)
    tolerance = 0.0
    stored, slope, intercept, geometry = format_of(path).read(path)
    if (slope, intercept) != (1.0, 0.0):
        stored = stored * slope + intercept
        tolerance = (abs(slope) / 2 if abs(slope) < 1 else 0) + SLOPE_ROUNDING * max(1.0, float(np.abs(stored).max()))
    if stored.dtype == np.uint8:
        return Image(stored, geometry)
    if not (stored.min() >= -tolerance and stored.max() <= np.iinfo(np.uint16).max):
        found = f"values from {stored.min()} to {stored.max()}"
        raise ImageError(f"{found}; a segmentation holds whole numbers from 0 to 65,535, is this the CT itself?", file=path)
    whole = np.rint(stored) if stored.dtype.kind == "f" else stored
    if stored.dtype.kind == "f" and (fractions := np.abs(whole - stored) > tolerance).any():
        found = ", ".join(f"{value:.6g}" for value in np.unique(stored[fractions])[:NAMED_VALUES])
        raise ImageError(
            f"values that are not whole numbers ({found})", file=path, advice="a segmentation holds labels, export it without interpolation"
        )
    return Image(whole.astype(np.uint8 if whole.max() <= 255 else np.uint16), geometry)


def storage_fix(path: Path) -> str | None:
    """What reading a segmentation mends in how its numbers are stored, in a sentence, from its header alone; None for plain integers.

    Raises ImageError as read_image.
    """
    as_float, slope, intercept = format_of(path).read_encoding(path)
    if (slope, intercept) != (1.0, 0.0):
        return f"stored with a slope of {slope:.6g} and an intercept of {intercept:.6g}, whose rounding is taken off"
    return "stored as fractions, all of them whole numbers" if as_float else None


def read_geometry(path: str | Path | CTSeries) -> Geometry:
    """The grid alone, without reading voxels. Raises ImageError as read_image."""
    if isinstance(path, CTSeries):
        return series_geometry(path)
    path = Path(path)
    if path.is_dir() and not path.name.lower().endswith(endings.IMAGES):
        return series_geometry(only_series(path))
    return format_of(path).read_geometry(path)


def estimated_voxels(source: ImageSource) -> int:
    """By the header; 0 where that can't be read: the error comes when the image is read."""
    try:
        return math.prod(read_geometry(source).shape)
    except ArenaError:
        return 0


def write_image(path: str | Path, image: Image) -> None:
    """Writes a volume of any kind of number (float64 as float32), whole file or none, on its own grid.

    Raises:
        ImageError: an ending that is not .nii, .nii.gz, .nrrd, .mha or .mhd.
    """
    array = image.array
    if array.dtype in (np.float64, np.float16):
        array = array.astype(np.float32)
    elif array.dtype in (np.int64, np.uint64, np.bool_):
        array = array.astype(np.int32 if array.dtype != np.bool_ else np.uint8)
    path = Path(path)
    format_of(path).write(path, array, image.geometry, None)


def write_segmentation(path: str | Path, array: np.ndarray, geometry: Geometry, labels: Mapping[str, int] | None = None) -> None:
    """Writes a label map (x, y, z) in the smallest integer type, with the sform, qform, codes and units of the CT's header.

    nibabel and SimpleITK each see the spacing, origin and direction that they see in the CT.

    Args:
        geometry: of the CT.
        labels: structure -> integer; written into a NIfTI comment extension.

    Raises:
        ImageError: the array is not on the grid, or has values that `labels` does not name.
    """
    path = Path(path)
    if array.shape != geometry.shape:
        raise ImageError(f"a segmentation of shape {array.shape} does not fit the CT of shape {geometry.shape}", file=path)
    high = int(array.max())
    compact = array.astype(np.uint8 if high <= 255 else np.uint16, copy=False)
    if labels is not None:
        unnamed = sorted(set(labels_present(compact)) - {0, *labels.values()})
        if unnamed:
            raise ImageError(f"labels {unnamed} have no name; known: {dict(labels)}", file=path)
    comment = None if labels is None else json.dumps({"labels": dict(labels)})
    format_of(path).write(path, compact, geometry, comment)


def check_same_grid(case: str, image_geometry: Geometry, segmentation_geometry: Geometry, segmentation_path: str | Path) -> None:
    """Raises DatasetError, saying what differs, unless both grids place every voxel within a tenth of a voxel of each other."""
    difference = grid_difference(image_geometry, segmentation_geometry)
    if difference is not None:
        found = f"label grid differs from the CT: {difference} in {segmentation_path} (the CT's comes first)"
        raise DatasetError(found, case=case, advice="re-export it on the CT's grid")


def grid_difference(expected: Geometry, found: Geometry) -> str | None:
    """In words what differs, expected vs found, or None where every voxel lies within a tenth of a voxel of its place."""
    if expected.shape != found.shape:
        return f"shape {expected.shape} vs {found.shape}"
    if nifti.largest_distance_mm(expected, found.affine) <= GRID_TOLERANCE_VOXELS * min(expected.spacing_mm):
        return None
    if not np.allclose(expected.spacing_mm, found.spacing_mm, rtol=1e-3):
        return f"spacing {rounded(expected.spacing_mm)} vs {rounded(found.spacing_mm)} mm"
    if not np.allclose(expected.direction, found.direction, atol=1e-3):
        one, other = rounded(expected.direction.ravel()), rounded(found.direction.ravel())
        return f"direction {expected.orientation} {one} vs {found.orientation} {other}"
    return f"origin {rounded(expected.affine[:3, 3])} vs {rounded(found.affine[:3, 3])} mm"


def rounded(values: np.ndarray | tuple[float, ...]) -> tuple[float, ...]:
    """For a message."""
    return tuple(round(float(v), 3) for v in values)


def _as_hu(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """The values, stored * slope + intercept: int16 without loss where that is possible, else float32."""
    if stored.dtype.kind in "iu" and slope == 1.0 and intercept == round(intercept):
        limits = np.iinfo(np.int16)
        if stored.dtype == np.int16 and intercept == 0:
            return stored
        low, high = int(stored.min()) + int(intercept), int(stored.max()) + int(intercept)
        if limits.min <= low and high <= limits.max:
            return (stored.astype(np.int32) + int(intercept)).astype(np.int16) if intercept else stored.astype(np.int16)
    with np.errstate(over="ignore", invalid="ignore"):  # what is infinite then is refused
        array = stored.astype(np.float32)
        if (slope, intercept) != (1.0, 0.0):
            array *= np.float32(slope)
            array += np.float32(intercept)
    return array
