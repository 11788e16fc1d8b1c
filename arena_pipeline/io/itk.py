"""NRRD and MetaImage files, through SimpleITK; ITK's LPS becomes RAS here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from arena_pipeline.errors import ImageError
from arena_pipeline.io import endings
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.geometry import LPS_TO_RAS, Geometry, check_geometry, check_memory, not_there

META_HEADER_BYTES = 4096
NDIMS = re.compile(rb"^\s*NDims\s*=\s*(\d{1,9})\s*$", re.MULTILINE)
SEGMENT_FIELD = re.compile(r"Segment\d+_(Name|LabelValue)")


def read_itk_geometry(path: Path) -> Geometry:
    """Raises ImageError, as read_itk."""
    return _geometry(path, _read_header(path))


def segment_names(path: Path) -> dict[str, int]:
    """Name -> integer of the segments that 3D Slicer wrote into the header of a .nrrd file; empty for every other file."""
    if not path.name.lower().endswith(".nrrd"):
        return {}
    header = _read_header(path)
    fields = {key: header.GetMetaData(key) for key in header.GetMetaDataKeys() if SEGMENT_FIELD.fullmatch(key)}
    names = {key.removesuffix("_Name"): text for key, text in fields.items() if key.endswith("_Name")}
    values = {segment: fields.get(f"{segment}_LabelValue", "") for segment in names}
    return {names[segment]: int(value) for segment, value in values.items() if value.strip().isdecimal()}


def read_encoding(path: Path) -> tuple[bool, float, float]:
    """Whether the voxels are stored as fractions, slope and intercept (of which these files have none), from the header alone. Raises as read_itk."""
    return _read_header(path).GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64), 1.0, 0.0


def read_itk(path: Path) -> tuple[np.ndarray, float, float, Geometry]:
    """Voxels (x, y, z), slope 1, intercept 0, and the grid of a file.

    Raises:
        ImageError: unreadable, or not one 3D volume.
    """
    reader = _read_header(path)
    bytes_each = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    check_memory(path, math.prod(reader.GetSize()) * bytes_each)  # ITK allocates what a header asks for before it looks for the voxels
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), 1.0, 0.0, _geometry(path, image)


def write_itk(path: Path, array: np.ndarray, geometry: Geometry, fields: Mapping[str, str] | None = None) -> None:
    """Writes `array` (x, y, z) compressed, whole file or none, with more `fields` in its header.

    ITK stores right-angled axes only: sheared ones are straightened.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    left, _, right = np.linalg.svd(geometry.direction)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin((LPS_TO_RAS @ geometry.affine[:3, 3]).tolist())
    image.SetDirection((LPS_TO_RAS @ left @ right).ravel().tolist())
    for key, value in (fields or {}).items():
        image.SetMetaData(key, value)
    with replace_when_done(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def _read_header(path: Path) -> sitk.ImageFileReader:
    if path.name.lower().endswith(endings.META):
        _check_dimensions(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        found = f"expected one 3D volume of one number per voxel, found {reader.GetDimension()} dimensions of {reader.GetNumberOfComponents()}"
        raise ImageError(found, file=path, advice="export a single CT series, or one label map whose structures don't overlap")
    return reader


def _check_dimensions(path: Path) -> None:
    """ITK's reader of MetaImage uses NDims unchecked as the length of its fields: -3 or 73 crash the process."""
    try:
        with path.open("rb") as file:
            found = NDIMS.search(file.read(META_HEADER_BYTES))
    except OSError as error:
        raise ImageError(f"can't be read ({error.strerror})", file=path, advice="check the path, and who may read it") from None
    if found is None or int(found.group(1)) not in range(1, 11):
        raise ImageError(
            "not a MetaImage file, or a damaged one: no line NDims = 3 in its header", file=path, advice="export it again, as .nii.gz if possible"
        )


def _unreadable(path: Path, error: RuntimeError) -> ImageError:
    if not path.exists():
        return ImageError(not_there(path), file=path)
    reason = str(error).strip().splitlines()[-1]
    return ImageError(f"SimpleITK can't read it ({reason})", file=path, advice="export it again, as .nii.gz if possible")


def _geometry(path: Path, source: sitk.Image | sitk.ImageFileReader) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.reshape(source.GetDirection(), (3, 3)) * source.GetSpacing()
    affine[:3, 3] = LPS_TO_RAS @ source.GetOrigin()
    x, y, z = source.GetSize()
    geometry = Geometry((x, y, z), affine)
    check_geometry(path, geometry)
    return geometry
