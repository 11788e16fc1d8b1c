"""Images and segmentations in and out: NIfTI by nibabel; NRRD and MetaImage by SimpleITK; DICOM series."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.io import itk, nifti
from arena_pipeline.io.dicom import CTSeries, only_series, read_series, series_geometry
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.labels import labels_present

logger = logging.getLogger(__name__)

NAMED_VALUES = 5
ImageSource = Path | CTSeries
READABLE_ENDINGS = nifti.ENDINGS + itk.ENDINGS
SLOPE_ROUNDING = 1e-6  # relative: NIfTI holds a slope in float32
GRID_TOLERANCE_VOXELS = 0.1  # headers are rounded in many ways; a tenth of a voxel is no other grid


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
    if path.is_dir() and not path.name.lower().endswith(READABLE_ENDINGS):
        return read_series(only_series(path))
    if _is_nifti(path):
        stored, slope, intercept, geometry = nifti.read_nifti(path)
        array = _as_hu(stored, slope, intercept)
    else:
        stored, geometry = itk.read_itk(path)
        array = _as_hu(stored, 1.0, 0.0)
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
    within the slope's rounding: nibabel writes a mask held as floats into a file of integers so.

    Raises:
        ImageError: as read_image, or values that are no labels (fractions, negative, above 65,535).
    """
    path = Path(path)
    tolerance = 0.0
    if _is_nifti(path):
        stored, slope, intercept, geometry = nifti.read_nifti(path)
        if (slope, intercept) != (1.0, 0.0):
            stored = stored * slope + intercept
            tolerance = (abs(slope) / 2 if abs(slope) < 1 else 0) + SLOPE_ROUNDING * max(1.0, float(np.abs(stored).max()))
    else:
        stored, geometry = itk.read_itk(path)
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
    if _is_nifti(path):
        header = nifti.read_nifti_geometry(path).header
        as_float = header is not None and header.get_data_dtype().kind == "f"
        slope, intercept = (1.0, 0.0) if header is None else nifti.scaling(header)
    else:
        as_float, slope, intercept = itk.is_stored_as_float(path), 1.0, 0.0
    if (slope, intercept) != (1.0, 0.0):
        return f"stored with a slope of {slope:.6g} and an intercept of {intercept:.6g}, whose rounding is taken off"
    return "stored as fractions, all of them whole numbers" if as_float else None


def read_geometry(path: str | Path | CTSeries) -> Geometry:
    """The grid alone, without reading voxels. Raises ImageError as read_image."""
    if isinstance(path, CTSeries):
        return series_geometry(path)
    path = Path(path)
    if path.is_dir() and not path.name.lower().endswith(READABLE_ENDINGS):
        return series_geometry(only_series(path))
    return nifti.read_nifti_geometry(path) if _is_nifti(path) else itk.read_itk_geometry(path)


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
    _write(Path(path), array, image.geometry, level=1)


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
    _write(path, compact, geometry, level=6, comment=None if labels is None else json.dumps({"labels": dict(labels)}))


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


def _is_nifti(path: Path) -> bool:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ImageError("a pipe or a device, expected a file", file=path)
    if path.is_dir() and path.name.lower().endswith(READABLE_ENDINGS):
        raise ImageError(
            "a folder where a file was expected", file=path, advice="if the file is in it, move it out, else rename or remove the folder"
        )
    if path.name.lower().endswith(itk.ENDINGS):
        return False
    if path.name.lower().endswith(nifti.ENDINGS):
        return True
    raise ImageError(f"unknown kind of image; known: {', '.join(READABLE_ENDINGS)} and DICOM folders", file=path)


def _write(path: Path, array: np.ndarray, geometry: Geometry, level: int, comment: str | None = None) -> None:
    if _is_nifti(path):
        nifti.write_nifti(path, array, geometry, level, comment)
    else:
        itk.write_itk(path, array, geometry)


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
