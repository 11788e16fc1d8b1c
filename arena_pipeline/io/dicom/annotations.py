"""Segmentations that come as DICOM, RTSTRUCT and SEG: what a file holds, which CT it is of, and its masks on that CT's grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pydicom

from arena_pipeline.errors import ImageError
from arena_pipeline.io.dicom.headers import shown_name
from arena_pipeline.io.dicom.segments import Segments
from arena_pipeline.io.dicom.series import CTSeries, LeftOut
from arena_pipeline.io.dicom.structure_set import StructureSet
from arena_pipeline.io.geometry import Geometry

READERS: dict[str, type[StructureSet] | type[Segments]] = {"RTSTRUCT": StructureSet, "SEG": Segments}


@dataclass(frozen=True)
class Annotation:
    """One RTSTRUCT or SEG file.

    Attributes:
        names: of the regions that are drawn, in the file's order.
        empty: of those that are named without being drawn.
        series_uids: the series that it refers to.
        frame_of_reference: of its coordinates, "" where it doesn't say.
        uid: its own.
    """

    path: Path
    kind: str
    names: tuple[str, ...]
    empty: tuple[str, ...]
    series_uids: frozenset[str]
    frame_of_reference: str
    uid: str


@dataclass(frozen=True, eq=False)
class Mask:
    """`array`: boolean (x, y, z), in Fortran order, on the CT's grid. `notes`: what a person should know of how it came about."""

    name: str
    array: np.ndarray
    notes: tuple[str, ...]


def find_annotations(left_out: Iterable[LeftOut]) -> tuple[list[Annotation], list[ImageError]]:
    """The annotations among the files that are no slices of a CT (of copies one alone), and why others of them can't be used."""
    found: dict[str, Annotation] = {}
    faults = []
    for path in sorted(path for entry in left_out if entry.kind in READERS for path in entry.paths):
        try:
            annotation = read_annotation(path)
            first = found.setdefault(annotation.uid or str(path), annotation)
            if path.read_bytes() != first.path.read_bytes():
                other = f"another content than {_shown(first.path)} under the same UID"
                raise ImageError(other, file=_shown(path), advice="keep the right one of the two")
        except ImageError as fault:
            faults.append(fault)
    return list(found.values()), faults


def read_annotation(path: Path) -> Annotation:
    """What a file holds. Raises ImageError: unreadable, or neither RTSTRUCT nor SEG."""
    try:
        reader = _opened(path)
        names, empty = reader.region_names()
        uids, frames = reader.references()
        if len(frames) > 1:
            raise ImageError(f"{len(frames)} frames of reference in one file", advice="export what belongs to one CT")
    except Exception as fault:  # noqa: BLE001
        _refuse(path, fault)
    kind, uid = (str(reader.dataset.get(tag, "")) for tag in ("Modality", "SOPInstanceUID"))
    return Annotation(path, kind, tuple(names), tuple(empty), frozenset(uids), next(iter(frames), ""), uid)


def series_of(annotation: Annotation, series: Sequence[CTSeries]) -> CTSeries | None:
    """The series that an annotation belongs to, by the series it refers to, or else by its frame of reference; None: not among these.

    Raises:
        ImageError: several could be meant, or the coordinates are another patient position's.
    """
    if annotation.series_uids:
        found = [one for one in series if one.uid in annotation.series_uids]
    else:
        found = [one for one in series if one.frame_of_reference and one.frame_of_reference == annotation.frame_of_reference]
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ImageError(f"it may be of any of {names}", file=_shown(annotation.path), advice="keep one of these series beside it")
    if found and annotation.frame_of_reference not in ("", found[0].frame_of_reference):
        raise ImageError(
            f"another frame of reference than that of its series {found[0].name}: its coordinates mean other places",
            file=_shown(annotation.path),
            advice="export both again",
        )
    return found[0] if found else None


def read_region_masks(path: Path, names: Sequence[str], geometry: Geometry, bridge_mm: float) -> Iterator[Mask]:
    """The masks of some regions, one by one.

    Args:
        geometry: of the CT that it is of.
        bridge_mm: slices without a contour are filled in between drawn ones that are at most so far apart (RTSTRUCT).

    Raises:
        ImageError: damaged, or not on the CT's slices.
    """
    reader = None
    for name in names:
        try:
            reader = reader or _opened(path)
            array, notes = reader.region_mask(name, geometry, bridge_mm)
        except Exception as fault:  # noqa: BLE001
            _refuse(path, fault)
        yield Mask(name, array, tuple(notes))


def _opened(path: Path) -> StructureSet | Segments:
    dataset = pydicom.dcmread(path, force=True)
    if (kind := str(dataset.get("Modality", ""))) not in READERS:
        raise ImageError(f"neither {' nor '.join(READERS)}")
    return READERS[kind](dataset)


def _shown(path: Path) -> str:
    """In errors, which get into logs and reports."""
    return shown_name(path, "a file whose name tells of the patient")


def _refuse(path: Path, fault: Exception) -> NoReturn:
    """pydicom and highdicom have no common base for what a damaged file can raise, and their words may quote a patient's tags."""
    if isinstance(fault, ImageError):
        raise ImageError(fault.found, file=_shown(path), advice=fault.advice or "export it again") from None
    if isinstance(fault, OSError):
        raise ImageError(f"can't be read ({fault.strerror})", file=_shown(path), advice="check who may read it") from None
    raise ImageError(f"damaged or incomplete ({type(fault).__name__})", file=_shown(path), advice="export it again") from None
