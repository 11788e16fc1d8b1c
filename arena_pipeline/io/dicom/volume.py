"""The slices of one CT series -> a volume in HU on a straight grid, or a refusal that names the slices.

A reader that fills gaps or takes the mean distance for the spacing makes every volume wrong from then on: what is no regular grid is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from arena_pipeline.errors import ImageError
from arena_pipeline.io.dicom.decoders import decoded
from arena_pipeline.io.dicom.headers import read_header
from arena_pipeline.io.dicom.series import CTSeries
from arena_pipeline.io.geometry import LPS_TO_RAS, Geometry, Image, check_geometry, check_memory
from arena_pipeline.words import listed

AIR_HU = -1024
NEEDED = ("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "BitsAllocated", "PixelRepresentation")
PHASE_TAGS = ("AcquisitionNumber", "TemporalPositionIdentifier")
HEADER_TAGS = ["SOPClassUID", *NEEDED, "RescaleSlope", "RescaleIntercept", "RescaleType", *PHASE_TAGS]
STEP_TOLERANCE = 0.02  # of the slice distance, besides what headers round
ROUNDING_MM = 0.02
SPACING_TOLERANCE = 1e-4  # of PixelSpacing, which headers round
SIDEWAYS_DEGREES = 0.5  # from one slice to the next, where that is more than ROUNDING_MM
SIDEWAYS_PIXELS = 0.5  # from the first slice to any: half a pixel is no more than what rounding a mask's outline costs


def read_series(series: CTSeries) -> Image:
    """The volume of a series: (x, y, z) in HU, int16 where all are whole numbers, else float32; padding and all below -1024 HU are air.

    Each slice has its own slope, intercept and stored type; slices are sorted along the normal of their plane.

    Raises:
        ImageError: it is no regular, straight grid of slices (missing, doubled or uneven ones, a tilted gantry, other sizes), or a slice can't be
            decoded or is not known to be in HU.
    """
    with _errors_without_patient_words(series):
        ordered, headers, geometry = _sorted_slices(series)
        return Image(_voxels(series, ordered, headers, geometry), geometry)


def series_geometry(series: CTSeries) -> Geometry:
    """The grid alone, from the headers. Raises ImageError as `read_series`."""
    with _errors_without_patient_words(series):
        return _sorted_slices(series)[2]


def sorted_files(series: CTSeries) -> list[Path]:
    """The files in the order of the volume's z axis. Raises ImageError as `read_series`."""
    with _errors_without_patient_words(series):
        return _sorted_slices(series)[0]


def sorted_headers(series: CTSeries, tags: Sequence[str]) -> list[Dataset]:
    """Some tags of every slice, in the order of the volume's z axis. Raises ImageError as `read_series`."""
    files = sorted_files(series)
    with _errors_without_patient_words(series):
        return [_header(path, ["SOPClassUID", *tags]) for path in files]


@contextmanager
def _errors_without_patient_words(series: CTSeries) -> Iterator[None]:
    """Errors are about the case, and about one of its files by its name: the folders above may bear the patient's, and errors go into logs."""
    try:
        yield
    except ImageError as error:
        file = None if error.file is None else Path(error.file)
        error.case, error.file = series.name, series.shown(file) if file in series.files else None
        raise


def _sorted_slices(series: CTSeries) -> tuple[list[Path], list[Dataset], Geometry]:
    headers = [_slice_header(path) for path in series.files]
    if len(headers) < 2:
        raise ImageError("one slice is no volume", file=series.files[0], advice="export the whole series")
    for tag, count in (("Rows", 1), ("Columns", 1), ("PixelSpacing", 2)):
        _require_same(series, headers, tag, count)
    row, column = _axes(series, headers)
    normal = np.cross(row, column)
    positions = np.array([_numbers(header, "ImagePositionPatient", 3) for header in headers])
    order = np.argsort(positions @ normal, kind="stable")
    ordered, positions = [series.files[i] for i in order], positions[order]
    step = _step(series, ordered, [headers[i] for i in order], positions, normal)
    row_mm, column_mm = _numbers(headers[0], "PixelSpacing", 2)  # distance between rows, between columns
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.column_stack([row * column_mm, column * row_mm, normal * step])
    affine[:3, 3] = LPS_TO_RAS @ positions[0]
    geometry = Geometry((int(headers[0].Columns), int(headers[0].Rows), len(headers)), affine)
    check_geometry(series.files[0], geometry)
    return ordered, [headers[i] for i in order], geometry


def _header(path: Path, tags: list[str]) -> Dataset:
    header = read_header(path, tags)
    if header is None:
        raise ImageError("no readable DICOM file", file=path, advice="export the series again")
    return header


def _slice_header(path: Path) -> Dataset:
    header = _header(path, HEADER_TAGS)
    missing = [tag for tag in NEEDED if header.get(tag) in (None, "")]
    if missing:
        raise ImageError(f"a slice without {', '.join(missing)}", file=path, advice="export the original series, not a derived one")
    return header


def _numbers(header: Dataset, tag: str, count: int) -> np.ndarray:
    try:
        values = np.array([float(value) for value in np.atleast_1d(header[tag].value)])
    except (TypeError, ValueError, KeyError):
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ImageError(f"{tag}: expected {count} numbers, found {header.get(tag)}", file=header.filename, advice="export the series again")
    return values


def _require_same(series: CTSeries, headers: Sequence[Dataset], tag: str, count: int) -> None:
    """One number, or several, in all slices, however they are written: 0.90 is 0.9."""
    found = [tuple(_numbers(header, tag, count).tolist()) for header in headers]
    usual = Counter(found).most_common(1)[0][0]
    odd = [path for path, own in zip(series.files, found, strict=True) if not np.allclose(own, usual, rtol=SPACING_TOLERANCE, atol=0)]
    if odd:
        most = " x ".join(f"{value:g}" for value in usual)
        raise ImageError(f"{tag} {most} in most slices, another in {_first_files(series, odd)}", advice="export one series without them")


def _axes(series: CTSeries, headers: Sequence[Dataset]) -> tuple[np.ndarray, np.ndarray]:
    """Unit directions (LPS) in which the column index and the row index grow."""
    orientations = np.array([_numbers(header, "ImageOrientationPatient", 6) for header in headers])
    usual = np.median(orientations, axis=0)
    odd = [path for path, own in zip(series.files, orientations, strict=True) if np.abs(own - usual).max() > 1e-3]
    if odd:
        raise ImageError(f"slices of other orientations: {_first_files(series, odd)}", advice="put each orientation into a folder of its own")
    row, column = usual[:3], usual[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if np.abs(np.array(lengths) - 1).max() > 1e-2 or abs(row @ column) > 1e-3:
        found = f"ImageOrientationPatient {usual.tolist()} is not two directions at right angles"
        raise ImageError(found, advice="export the series again")
    return row / lengths[0], column / lengths[1]


def _step(series: CTSeries, files: Sequence[Path], headers: Sequence[Dataset], positions: np.ndarray, normal: np.ndarray) -> float:
    """The distance between slices in mm, the same everywhere."""
    along = positions @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    doubled = [files[i + 1] for i in np.flatnonzero(steps < ROUNDING_MM).tolist()]
    if doubled:
        phases = max(len({str(header.get(tag)) for header in headers if tag in header}) for tag in PHASE_TAGS)
        what = f"{phases} acquisitions in one series" if phases > 1 else "two slices in one place"
        raise ImageError(f"{what}: {_first_files(series, doubled)}", advice="put each acquisition or phase into a folder of its own")
    _refuse_tilt(positions, normal, usual, min(_numbers(headers[0], "PixelSpacing", 2)))
    uneven = np.flatnonzero(np.abs(steps - usual) > STEP_TOLERANCE * usual + ROUNDING_MM).tolist()
    if uneven:
        gaps = [f"{steps[i]:.2f} mm between {series.shown(files[i])} and {series.shown(files[i + 1])}" for i in uneven[:3]]
        more = f" and {len(uneven) - 3} more" if len(uneven) > 3 else ""
        missing = np.allclose(steps[uneven] / usual, np.round(steps[uneven] / usual), atol=0.05)
        what = "slices are missing" if missing else "slices are unevenly spaced"
        raise ImageError(f"{what}: expected {usual:.2f} mm everywhere, found {'; '.join(gaps)}{more}", advice="export the whole series again")
    return float(along[-1] - along[0]) / (len(along) - 1)


def _refuse_tilt(positions: np.ndarray, normal: np.ndarray, step: float, pixel: float) -> None:
    """A small shift from slice to slice adds up over hundreds of them, so both are checked: each step, and the place of the last slice."""
    sideways = positions - positions[0]
    sideways -= np.outer(sideways @ normal, normal)
    each, total = np.linalg.norm(np.diff(sideways, axis=0), axis=1).max(), np.linalg.norm(sideways, axis=1).max()
    if each <= max(ROUNDING_MM, np.tan(np.radians(SIDEWAYS_DEGREES)) * step) and total <= SIDEWAYS_PIXELS * pixel:
        return
    mean = sideways[-1] / (len(sideways) - 1)
    degrees = np.degrees(np.arctan2(np.linalg.norm(mean), step))
    if np.linalg.norm(sideways - np.outer(np.arange(len(sideways)), mean), axis=1).max() < 0.1 * np.linalg.norm(sideways[-1]):
        raise ImageError(
            f"a gantry tilted by {degrees:.1f} degrees: the slices are no straight grid",
            advice="resample it to a straight grid first (dcm2niix does, into a file that ends with _Tilt), and give that file",
        )
    raise ImageError("the slices are shifted against each other", advice="export one series whose slices lie in one stack")


def _voxels(series: CTSeries, files: Sequence[Path], headers: Sequence[Dataset], geometry: Geometry) -> np.ndarray:
    whole = all(_rescale(header)[i] == int(_rescale(header)[i]) for header in headers for i in (0, 1))
    columns, rows, slices = geometry.shape
    check_memory(series.files[0], columns * rows * slices * (2 if whole else 4))
    array = np.empty((slices, rows, columns), np.float32)
    for index, path in enumerate(files):
        array[index] = _slice_hu(path, (rows, columns))
    low, high = float(array.min()), float(array.max())
    if whole and np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max:
        array = array.astype(np.int16)
    return array.transpose(2, 1, 0)


def _rescale(header: Dataset) -> tuple[float, float]:
    try:
        slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    except (AttributeError, TypeError, ValueError):
        raise ImageError(
            "no RescaleSlope and RescaleIntercept, so nobody knows its HU", file=header.filename, advice="export the original series"
        ) from None
    kind = str(header.get("RescaleType", "HU")) or "HU"
    if kind not in ("HU", "US") or slope == 0 or not (math.isfinite(slope) and math.isfinite(intercept)):
        found = f"values in {kind} with slope {slope:g} and intercept {intercept:g}, expected HU"
        raise ImageError(found, file=header.filename, advice="export the original CT series")
    return slope, intercept


def _slice_hu(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """One slice in HU, (rows, columns) float32; PixelPaddingValue (to PixelPaddingRangeLimit) and all below -1024 HU are air."""
    try:
        dataset = pydicom.dcmread(path, force=True)
        stored = decoded(dataset)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  decoders raise what they like on damaged pixels
        reason = " ".join(str(error).replace(str(path), "the file").split())[:200]
        raise ImageError(f"its pixels can't be decoded ({type(error).__name__}: {reason})", file=path, advice="export the series again") from None
    if stored.shape != shape:
        raise ImageError(f"pixels of shape {stored.shape}, expected {shape}", file=path, advice="export the series again")
    slope, intercept = _rescale(dataset)
    with np.errstate(over="ignore"):
        hu = (stored * np.float64(slope) + intercept).astype(np.float32)
    if not np.isfinite(hu).all():
        raise ImageError(f"values that can't be HU, with slope {slope:g} and intercept {intercept:g}", file=path, advice="export the series again")
    hu[_is_padding(stored, dataset)] = AIR_HU
    return np.maximum(hu, AIR_HU, out=hu)


def _is_padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    if dataset.get("PixelPaddingValue") in (None, ""):
        return np.zeros(stored.shape, bool)
    tags = ("PixelPaddingValue", *(["PixelPaddingRangeLimit"] if dataset.get("PixelPaddingRangeLimit") else []))
    limits = [_numbers(dataset, tag, 1)[0] for tag in tags]
    return (stored >= min(limits)) & (stored <= max(limits))


def _first_files(series: CTSeries, files: Sequence[Path]) -> str:
    return listed(map(series.shown, files), 3)
