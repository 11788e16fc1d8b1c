"""Which CT series a folder holds: every DICOM file below it, grouped, and everything that is no CT slice named.

Names of cases come from folders, never from a patient's tags; where a folder bears the patient's name or number, from a digest of the series' UID.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from arena_pipeline.errors import ImageError
from arena_pipeline.io.dicom.headers import PATIENT_TAGS, read_header, reveals_patient, shown_name

MULTI_FRAME = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
GROUPING_TAGS = [
    *("SOPClassUID", "Modality", "SeriesNumber", "ImageType", "ImageOrientationPatient", "Rows", "Columns"),
    *PATIENT_TAGS,
]
REFERENCE_TAGS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")  # the last one is a slice's own
ORIENTATION_TOLERANCE = 0.01  # of a direction's components: what differs more is a series of its own, what differs less is judged with the volume
NO_DICOM = "no DICOM"
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class CTSeries:
    """The slices of one CT series that have one orientation and size.

    Attributes:
        name: a case identifier that tells nothing of the patient.
        files: in no particular order.
        uid, frame_of_reference: what other objects call it.
        lacks: tags that other objects need to refer to its slices, and that some slice lacks or that differ between slices.
    """

    name: str
    files: tuple[Path, ...]
    uid: str = ""
    frame_of_reference: str = ""
    lacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Without the folder, which may bear the patient's name and must not get into logs."""
        return f"{self.name} ({len(self.files)} slices)"

    def shown(self, path: Path) -> str:
        """What a message calls one of its files: the name, or the number in the order of names where that tells of the patient."""
        return shown_name(path, f"file {sorted(self.files).index(path) + 1} of {len(self.files)}")


@dataclass(frozen=True)
class LeftOut:
    """Files that are no slices of a CT volume, by what they are: "localizer", "MR", "RTSTRUCT", "no DICOM", ..."""

    kind: str
    paths: tuple[Path, ...]

    @property
    def files(self) -> int:
        return len(self.paths)


@dataclass
class _Group:
    """Slices of one series, orientation and size. `first`: the header of the first; `references`: REFERENCE_TAGS -> their values in all of them."""

    first: Dataset
    orientation: tuple[object, ...]
    files: list[Path]
    references: dict[str, set[str]]

    @property
    def lacks(self) -> tuple[str, ...]:
        return tuple(tag for tag, values in self.references.items() if "" in values or (len(values) > 1 and tag != REFERENCE_TAGS[-1]))


def find_series(folder: Path) -> tuple[list[CTSeries], list[LeftOut]]:
    """The CT series in a folder and the folders below it, sorted by name, and what else is there."""
    groups: dict[tuple[str, ...], list[_Group]] = defaultdict(list)
    others: dict[str, list[Path]] = defaultdict(list)
    seen: set[str] = set()
    for path in _files(folder):
        header = read_header(path, GROUPING_TAGS)
        kind = NO_DICOM if header is None else _kind(header)
        if header is not None and kind is None and (instance := str(header.get("SOPInstanceUID") or path)) in seen:
            kind = "copy of a slice that is there already"
        if header is None or kind is not None:
            others[kind or NO_DICOM].append(path)
            continue
        seen.add(instance)
        _put(groups, path, header)
    left_out = [LeftOut(kind, tuple(paths)) for kind, paths in sorted(others.items(), key=lambda item: -len(item[1]))]
    return _named(folder, [group for own in groups.values() for group in own]), left_out


def only_series(folder: Path) -> CTSeries:
    """The one CT series of a folder. Raises ImageError for none, saying what is there, or several."""
    found, left_out = find_series(folder)
    if not found:
        raise ImageError(f"no CT slices, found {left_out_in_words(left_out)}", file=folder, advice="give the folder of a CT series")
    if len(found) > 1:
        raise ImageError(f"{len(found)} CT series ({', '.join(map(str, found))})", file=folder, advice="put each into a folder of its own")
    return found[0]


def left_out_in_words(left_out: Sequence[LeftOut]) -> str:
    """E.g. 2 x localizer, 1 x RTSTRUCT."""
    return ", ".join(f"{entry.files} x {entry.kind}" for entry in left_out) or "nothing"


def _files(folder: Path) -> list[Path]:
    """Sorted, those behind links too; a folder that several links lead to is read once."""
    found, seen = list[Path](), {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(place, name)) for name in sorted(folders)}
        folders[:] = [name for name, path in real.items() if path not in seen]
        seen.update(real.values())
        found += (Path(place, name) for name in names if not name.startswith(".") and name.upper() != "DICOMDIR")
    return sorted(path for path in found if path.is_file())


def _kind(header: Dataset) -> str | None:
    """What a DICOM file is, where it is no slice of a CT volume."""
    modality = str(header.get("Modality", "")) or "no modality"
    if header.SOPClassUID in MULTI_FRAME:
        return "multi-frame CT (enhanced), which this can't read: export it as single slices"
    if header.SOPClassUID != CTImageStorage or modality != "CT":
        return modality if modality != "CT" else f"CT of another kind ({UID(str(header.SOPClassUID)).name})"
    if {"LOCALIZER", "SCOUT"} & {str(part).upper() for part in _values(header, "ImageType")}:
        return "localizer"
    return None


def _values(header: Dataset, tag: str) -> list[object]:
    """The values of a tag that may have none, one or several."""
    value = header.get(tag)
    return [] if value is None else list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _put(groups: dict[tuple[str, ...], list[_Group]], path: Path, header: Dataset) -> None:
    """Adds a slice to the group of its series, size and orientation, or to a new one."""
    orientation, key = _orientation(header), tuple(str(header.get(tag, "")) for tag in ("SeriesInstanceUID", "Rows", "Columns"))
    group = next((one for one in groups[key] if _alike(one.orientation, orientation)), None)
    if group is None:
        group = _Group(header, orientation, [], {tag: set() for tag in REFERENCE_TAGS})
        groups[key].append(group)
    group.files.append(path)
    for tag, values in group.references.items():
        values.add(str(header.get(tag) or ""))


def _orientation(header: Dataset) -> tuple[object, ...]:
    """Numbers, or the tag as it is where it is damaged: refused when the series is read."""
    values = _values(header, "ImageOrientationPatient")
    try:
        numbers = tuple(float(str(value)) for value in values)
    except ValueError:
        numbers = ()
    return numbers if numbers and all(map(math.isfinite, numbers)) else tuple(map(str, values))


def _alike(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    if one == other or len(one) != len(other):
        return one == other
    pairs = zip(one, other, strict=True)
    return all(isinstance(a, float) and isinstance(b, float) and abs(a - b) <= ORIENTATION_TOLERANCE for a, b in pairs)


def _named(folder: Path, groups: Sequence[_Group]) -> list[CTSeries]:
    """Series with their case identifiers: the folder's name, with the series number where a folder holds several."""
    wanted = [(_name(folder, group), group) for group in groups]
    several = {name for name, count in Counter(name for name, _ in wanted).items() if count > 1}
    result: dict[str, CTSeries] = {}
    for name, group in sorted(wanted, key=lambda one: (one[0], *_in_order(one[1]))):
        if name in several:
            name = f"{name}_series{group.first.get('SeriesNumber') or 0}"
        same = sum(other == name or other.startswith(f"{name}_part") for other in result)
        name = name if not same else f"{name}_part{same + 1}"
        uid, frame = (str(group.first.get(tag, "")) for tag in ("SeriesInstanceUID", "FrameOfReferenceUID"))
        result[name] = CTSeries(name, tuple(group.files), uid, frame, group.lacks)
    return [series for _, series in sorted(result.items())]


def _in_order(group: _Group) -> tuple[str, ...]:
    return tuple(str(part) for part in (group.first.get("SeriesNumber", ""), group.first.get("SeriesInstanceUID", ""), group.orientation))


def _name(folder: Path, group: _Group) -> str:
    """From the folders between `folder` and the slices, or the folder's own name where they lie in it."""
    inside = group.files[0].parent.relative_to(folder).parts or (folder.resolve().name,)
    name = NOT_IN_NAMES.sub("_", "_".join(inside)).strip("._-")
    if not name or reveals_patient(name, group.first):
        return "ct_" + hashlib.sha256(str(group.first.get("SeriesInstanceUID", "")).encode()).hexdigest()[:10]
    return name
