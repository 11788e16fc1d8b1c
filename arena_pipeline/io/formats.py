"""The kinds of file that hold one volume: NIfTI by nibabel, NRRD and MetaImage by SimpleITK.

Another kind is one more entry in FORMATS, and its endings in io/endings.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arena_pipeline.errors import ImageError
from arena_pipeline.io import endings, itk, nifti
from arena_pipeline.io.geometry import Geometry


@dataclass(frozen=True)
class Format:
    """One kind of file. Whatever can't be read is an ImageError.

    Attributes:
        endings: in lower case.
        read: path -> voxels (x, y, z) as they are stored, slope, intercept and grid; value = stored * slope + intercept.
        read_geometry: path -> the grid, from the header alone.
        read_encoding: path -> whether the voxels are stored as fractions, slope and intercept, from the header alone.
        write: path, voxels (x, y, z), grid and a comment, which not every kind has room for; whole file or none.
    """

    endings: tuple[str, ...]
    read: Callable[[Path], tuple[np.ndarray, float, float, Geometry]]
    read_geometry: Callable[[Path], Geometry]
    read_encoding: Callable[[Path], tuple[bool, float, float]]
    write: Callable[[Path, np.ndarray, Geometry, str | None], None]


def _write_itk(path: Path, array: np.ndarray, geometry: Geometry, _comment: str | None) -> None:
    itk.write_itk(path, array, geometry)


FORMATS = (
    Format(endings.NIFTI, nifti.read_nifti, nifti.read_nifti_geometry, nifti.read_encoding, nifti.write_nifti),
    Format(endings.ITK, itk.read_itk, itk.read_itk_geometry, itk.read_encoding, _write_itk),
)


def format_of(path: Path) -> Format:
    """By its ending.

    Raises:
        ImageError: no such kind, or a folder, a pipe or a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ImageError("a pipe or a device, expected a file", file=path)
    name = path.name.lower()
    found = next((one for one in FORMATS if name.endswith(one.endings)), None)
    if found is None:
        raise ImageError(f"unknown kind of image; known: {', '.join(endings.IMAGES)} and DICOM folders", file=path)
    if path.is_dir():
        advice = "if the file is in it, move it out, else rename or remove the folder"
        raise ImageError("a folder where a file was expected", file=path, advice=advice)
    return found
