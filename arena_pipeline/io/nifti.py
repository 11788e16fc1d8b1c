"""NIfTI files (.nii, .nii.gz): headers through nibabel, voxels read once into memory, nothing allocated on a header's word alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, igzip_lib
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from arena_pipeline.errors import ImageError
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.geometry import Geometry, check_geometry, check_memory, not_there, spans_volume

logger = logging.getLogger(__name__)

HEADER_BYTES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
OTHER_UNITS = {1: "metre", 3: "micrometre"}  # NIfTI's codes; 0 is unknown, 2 is the millimetre
MAXIMAL_DEFLATE_RATIO = 1032  # what one byte of a deflate stream can expand to at most
LARGEST_OFFSET = 2**40
SIZE_TOLERANCE = 1e-3  # of the voxel size: sform and pixdim may differ by so much, from rounding
OTHER_FILES = {  # first bytes -> what it is
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive (unpack it)",
    b"vers": "a Git LFS pointer (run: git lfs pull)",
}
SKIPPED_BYTES = 1 << 20
SFORM_FIELDS = ("sform_code", "srow_x", "srow_y", "srow_z")
QFORM_FIELDS = ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def read_nifti_geometry(path: Path) -> Geometry:
    """The grid, from the header alone.

    Raises:
        ImageError: not a readable NIfTI file, not one 3D volume, or a geometry that makes no sense.
    """
    with _opened(path) as stream:
        geometry = _geometry(_read_header(stream, path), path)
    check_geometry(path, geometry)
    return geometry


def read_nifti(path: Path) -> tuple[np.ndarray, float, float, Geometry]:
    """The stored voxels (x, y, z), slope, intercept and the grid; value = stored * slope + intercept.

    Raises:
        ImageError: as read_nifti_geometry, or the file is cut short or damaged.
    """
    with _opened(path) as stream:
        header = _read_header(stream, path)
        geometry = _geometry(header, path)
        dtype = header.get_data_dtype()
        if dtype.fields is not None or dtype.kind not in "iuf":
            raise ImageError(
                f"voxels of type {dtype} (colour or complex); expected one number per voxel, export the CT in Hounsfield units", file=path
            )
        offset = int(header.get_data_offset())
        voxel_bytes = math.prod(geometry.shape) * dtype.itemsize
        _check_promise(path, offset + voxel_bytes)
        check_geometry(path, geometry)
        check_memory(path, voxel_bytes)
        stored = np.empty(geometry.shape, dtype, order="F")
        stream.seek(offset)
        _fill(stream, memoryview(stored.reshape(-1, order="F").view(np.uint8).data), path)
    slope, intercept = scaling(header)
    if not dtype.isnative:
        stored = stored.astype(dtype.newbyteorder("="))
    return stored, slope, intercept, geometry


def read_encoding(path: Path) -> tuple[bool, float, float]:
    """Whether the voxels are stored as fractions, slope and intercept, from the header alone. Raises ImageError as read_nifti_geometry."""
    header = read_nifti_geometry(path).header
    return (False, 1.0, 0.0) if header is None else (header.get_data_dtype().kind == "f", *scaling(header))


def write_nifti(path: Path, array: np.ndarray, geometry: Geometry, comment: str | None = None) -> None:
    """Writes `array` (x, y, z), whole file or none, with the grid of `geometry` and its header's sform, qform, codes and units.

    Args:
        comment: text for a NIfTI comment extension.
    """
    header = output_header(geometry)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_slope_inter(1, 0)
    if comment is not None:
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", comment.encode()))
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = image_class(array, None, header)
    with replace_when_done(path) as temporary, open(temporary, "wb") as file:
        if path.name.endswith(".gz"):
            # no file name and no time inside: equal volumes give equal files
            with igzip.IGzipFile(filename="", mode="wb", fileobj=file, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(file)


def output_header(geometry: Geometry) -> nib.Nifti1Header:
    """A header that puts a new file on `geometry`'s grid for every reader: where it has a header, with that one's sform and qform.

    nibabel takes the sform where there is one. SimpleITK wants right angles and otherwise falls back to the qform; a CT with a
    sheared sform and no qform does not open there at all. Such a file gets the nearest right-angled qform, its sform stays.
    """
    given = geometry.header
    if given is None or not np.allclose(given.get_best_affine(), geometry.affine, atol=1e-4):
        header = nib.Nifti1Header()
        header.set_data_shape(geometry.shape)
        header.set_qform(geometry.affine, code="scanner", strip_shears=True)
        header.set_sform(geometry.affine, code="scanner")
        header.set_xyzt_units("mm")
        return header
    header = type(given)()
    header.set_data_shape(geometry.shape)
    header["pixdim"][:4] = given["pixdim"][:4]
    for field in (*SFORM_FIELDS, *QFORM_FIELDS, "xyzt_units"):
        header[field] = given[field]
    if int(given["qform_code"]) == 0 and int(given["sform_code"]) > 0 and not geometry.is_orthonormal:
        header.set_qform(geometry.affine, code=int(given["sform_code"]), strip_shears=True)
    return header


def oddities(geometry: Geometry) -> list[str]:
    """In a sentence each, what is accepted but should be known: a grid that readers may take differently."""
    header, found = geometry.header, []
    if not geometry.is_orthonormal:
        found.append("the axes do not stand at right angles; they are taken as if they did, and the file's own affine is kept on output")
    if header is None:
        return found
    found += _oddities_of_forms(geometry, header)
    if not np.isfinite(header["scl_slope"]):
        found.append(f"the header's slope is {float(header['scl_slope'])}; the values are taken as they are stored")
    unit = OTHER_UNITS.get(int(header["xyzt_units"]) % 8)
    if unit is not None:
        found.append(f"the header's unit of length is the {unit}; its numbers are taken as millimetres")
    return found


def _oddities_of_forms(geometry: Geometry, header: nib.Nifti1Header) -> list[str]:
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code <= 0:
        return [] if qform_code > 0 else ["the header has neither sform nor qform; the first axis is taken to point to the left, as nibabel does"]
    if not spans_volume(header.get_sform()):
        return ["the sform spans no volume (zeros or NaN); the qform is used instead"]
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if not np.allclose(sizes, geometry.spacing_mm, rtol=SIZE_TOLERANCE, atol=0):
        used, other = (" x ".join(f"{mm:.4g}" for mm in lengths) for lengths in (geometry.spacing_mm, sizes))
        return [f"voxels of {used} mm by the sform, of {other} mm by pixdim; the sform is used (SimpleITK uses pixdim), correct the wrong one"]
    if qform_code > 0 and geometry.is_orthonormal:
        distance = _distance_to_qform_mm(geometry, header)
        if not distance <= 0.1 * min(geometry.spacing_mm):
            return [f"sform and qform place voxels up to {distance:.1f} mm apart; the sform is used (SimpleITK may use the qform)"]
    return []


def _distance_to_qform_mm(geometry: Geometry, header: nib.Nifti1Header) -> float:
    """NaN for an invalid qform."""
    try:
        with np.errstate(all="ignore"):
            return largest_distance_mm(geometry, header.get_qform())
    except (HeaderDataError, ValueError):
        return math.nan


def largest_distance_mm(geometry: Geometry, affine: np.ndarray) -> float:
    """How far from its place another affine puts a voxel of this volume, at most (so at one of the corners)."""
    corners = np.array([(*corner, 1.0) for corner in product(*((0, n - 1) for n in geometry.shape))])
    return float(np.linalg.norm(corners @ (affine - geometry.affine).T, axis=1).max())


def is_gzip(path: Path) -> bool:
    """By its content, whatever its name."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes; the content, not the name, says whether it is gzip. Raises ImageError for every kind of damage."""
    try:
        with igzip.open(path, "rb") if is_gzip(path) else open(path, "rb") as stream:
            yield stream
    except FileNotFoundError:
        raise ImageError(not_there(path), file=path) from None
    except (EOFError, igzip_lib.IsalError, OSError) as error:  # type: ignore[misc]  # the stub calls it an instance
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"can't be read ({error.strerror})", file=path, advice="check the link or the disk, and who may read it") from None
        raise ImageError(f"cut short or damaged ({error})", file=path, advice="copy or download it again") from None


def _read_header(stream: BinaryIO, path: Path) -> nib.Nifti1Header:
    start = stream.read(4)
    if len(start) < 4:
        raise ImageError("an empty file", file=path, advice="copy or download it again")
    sizes = {int.from_bytes(start, order) for order in ("little", "big")} & set(HEADER_BYTES)
    if not sizes:
        kind = next((words for bytes_, words in OTHER_FILES.items() if start.startswith(bytes_)), None)
        kind = kind or ("a web page" if b"<" in start else f"something else, it starts with {start!r}")
        raise ImageError(f"not a NIfTI file but {kind}", file=path, advice="export it as .nii.gz")
    size = sizes.pop()
    # The header alone: extensions say how long they are, and a damaged one may say anything.
    # unchecked: nibabel's check would replace a voxel size of 0 by 1 before it can be noticed
    try:
        header = HEADER_BYTES[size](start + stream.read(size - len(start)), check=False)
    except (WrapStructError, ValueError) as error:
        raise ImageError(f"the NIfTI header is cut short or invalid ({error})", file=path, advice="copy or download it again") from None
    if not bytes(header["magic"]).startswith(b"n+"):
        raise ImageError("a header without its voxels (.hdr/.img pair)", file=path, advice="convert it to one .nii.gz file")
    return header


def _geometry(header: nib.Nifti1Header, path: Path) -> Geometry:
    try:
        shape = tuple(int(n) for n in header.get_data_shape())
    except HeaderDataError as error:
        raise _invalid(path, error) from None
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise ImageError(f"expected one 3D volume, found shape {shape}", file=path, advice="export a single CT series as a 3D file")
    spacing = np.abs(header["pixdim"][1:4])
    if not (spacing > 0).all():
        raise ImageError(
            f"the voxels have no volume (spacing {spacing.tolist()} mm)", file=path, advice="correct the header's voxel size, or export it again"
        )
    return Geometry(shape, _affine(header, path), header)


def _affine(header: nib.Nifti1Header, path: Path) -> np.ndarray:
    """The sform where there is one that spans a volume, else the qform, else the voxel size alone; of a header with nothing invalid in it."""
    offset = float(header["vox_offset"])
    try:
        if not float(header["sizeof_hdr"]) <= offset < LARGEST_OFFSET:
            raise HeaderDataError(f"voxels from byte {offset:g}")
        header.check_fix(logger=logger, error_level=40)
        with np.errstate(all="ignore"):  # NaN and infinity are found when the grid is checked
            if int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0 and not spans_volume(header.get_sform()):
                return np.asarray(header.get_qform(), dtype=np.float64)
            return np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise _invalid(path, error) from None


def _invalid(path: Path, error: Exception) -> ImageError:
    return ImageError(f"the NIfTI header is invalid ({error})", file=path, advice="export it again")


def scaling(header: nib.Nifti1Header) -> tuple[float, float]:
    """Slope and intercept. TotalSegmentator has files with slope 1 and intercept NaN, which nibabel itself refuses: NaN means 0, as in SimpleITK."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    return slope, intercept if np.isfinite(intercept) else 0.0


def _check_promise(path: Path, promised: int) -> None:
    """Refuses, before any memory is taken, a header that promises more than the file can hold."""
    size = path.stat().st_size
    if promised > size * (MAXIMAL_DEFLATE_RATIO if is_gzip(path) else 1):
        raise ImageError(
            f"the header promises {promised:,} bytes, more than the file of {size:,} bytes can hold", file=path, advice="copy or download it again"
        )


def _fill(stream: BinaryIO, target: memoryview, path: Path) -> None:
    done = 0
    while done < len(target):
        count = stream.readinto(target[done:])  # type: ignore[attr-defined]
        if not count:
            raise ImageError(f"cut short, {done:,} of {len(target):,} bytes of voxels are there", file=path, advice="copy or download it again")
        done += count
    # To the end, where gzip compares its checksum. A file that goes on long after the last voxel does not belong to this header.
    for _ in range(max(1, len(target) // SKIPPED_BYTES) + 1):
        if not stream.read(SKIPPED_BYTES):
            return
    raise ImageError(f"goes on after the {len(target):,} bytes that its header promises", file=path, advice="export it again")
