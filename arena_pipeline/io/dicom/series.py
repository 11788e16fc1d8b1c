"""Which CT series a folder holds: every DICOM file below it, grouped, and everything that is no CT slice named.

Names of cases come from folders, never from a patient's tags; where a folder bears the patient's name or number, from a digest of the series' UID.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from arena_pipeline.errors import ImageError

MULTI_FRAME = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
GROUPING_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "ImageType", "ImageOrientationPatient", "Rows", "Columns",
    "FrameOfReferenceUID", "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber",
]  # fmt: skip
PATIENT_TAGS = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")
NO_DICOM = "no DICOM"
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class CTSeries:
    """The slices of one CT series that have one orientation and size.

    Attributes:
        name: a case identifier that tells nothing of the patient.
        files: in no particular order.
        uid, frame_of_reference: what other objects call it.
    """

    name: str
    files: tuple[Path, ...]
    uid: str = ""
    frame_of_reference: str = ""

    @property
    def folder(self) -> Path:
        return self.files[0].parent

    def __str__(self) -> str:
        """Without the folder, which may bear the patient's name and must not get into logs."""
        return f"{self.name} ({len(self.files)} slices)"


@dataclass(frozen=True)
class LeftOut:
    """Files that are no slices of a CT volume, by what they are: "localizer", "MR", "RTSTRUCT", "no DICOM", ..."""

    kind: str
    paths: tuple[Path, ...]

    @property
    def files(self) -> int:
        return len(self.paths)


def find_series(folder: Path) -> tuple[list[CTSeries], list[LeftOut]]:
    """The CT series in a folder and the folders below it, sorted by name, and what else is there."""
    slices: dict[tuple[object, ...], list[Path]] = defaultdict(list)
    headers: dict[tuple[object, ...], Dataset] = {}
    others: dict[str, list[Path]] = defaultdict(list)
    seen: set[str] = set()
    for path in _files(folder):
        header = read_header(path, GROUPING_TAGS)
        kind = NO_DICOM if header is None else _kind(header)
        if header is not None and kind is None and (instance := str(header.get("SOPInstanceUID", path))) in seen:
            kind = "copy of a slice that is there already"
        if header is None or kind is not None:
            others[kind or NO_DICOM].append(path)
            continue
        seen.add(instance)
        key = _group(header)
        slices[key].append(path)
        headers.setdefault(key, header)
    left_out = [LeftOut(kind, tuple(paths)) for kind, paths in sorted(others.items(), key=lambda item: -len(item[1]))]
    return _named(folder, slices, headers), left_out


def only_series(folder: Path) -> CTSeries:
    """The one CT series of a folder. Raises ImageError for none, saying what is there, or several."""
    found, left_out = find_series(folder)
    if not found:
        raise ImageError(f"no CT slices, found {in_words(left_out)}", file=folder, advice="give the folder of a CT series")
    if len(found) > 1:
        raise ImageError(f"{len(found)} CT series ({', '.join(map(str, found))})", file=folder, advice="put each into a folder of its own")
    return found[0]


def in_words(left_out: Sequence[LeftOut]) -> str:
    """E.g. 2 x localizer, 1 x RTSTRUCT."""
    return ", ".join(f"{entry.files} x {entry.kind}" for entry in left_out) or "nothing"


def read_header(path: Path, tags: list[str] | None = None) -> Dataset | None:
    """A file's tags without its pixels; None for a file that is no DICOM. Files without the 128-byte preamble are read too."""
    for force in (False, True):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=force)
            for _ in header:  # decodes every value now, where a damaged one is caught
                pass
        except InvalidDicomError:
            continue
        except Exception:  # noqa: BLE001  pydicom has no common base for what a damaged file can raise
            return None
        return header if "SOPClassUID" in header else None
    return None


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name.upper() != "DICOMDIR")


def _kind(header: Dataset) -> str | None:
    """What a DICOM file is, where it is no slice of a CT volume."""
    modality = str(header.get("Modality", "")) or "no modality"
    if header.SOPClassUID in MULTI_FRAME:
        return "multi-frame CT (enhanced), which this can't read: export it as single slices"
    if header.SOPClassUID != CTImageStorage or modality != "CT":
        return modality if modality != "CT" else f"CT of another kind ({pydicom.uid.UID(header.SOPClassUID).name})"
    if {"LOCALIZER", "SCOUT"} & {str(part).upper() for part in _values(header, "ImageType")}:
        return "localizer"
    return None


def _values(header: Dataset, tag: str) -> list[object]:
    """The values of a tag that may have none, one or several."""
    value = header.get(tag)
    return [] if value is None else list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _group(header: Dataset) -> tuple[object, ...]:
    values = [str(value) for value in _values(header, "ImageOrientationPatient")]
    try:
        orientation: tuple[object, ...] = tuple(round(float(value), 2) + 0.0 for value in values)
    except ValueError:
        orientation = tuple(values)  # damaged: refused when the series is read
    return str(header.get("SeriesInstanceUID", "")), orientation, header.get("Rows"), header.get("Columns")


def _named(folder: Path, slices: dict[tuple[object, ...], list[Path]], headers: dict[tuple[object, ...], Dataset]) -> list[CTSeries]:
    """Series with their case identifiers: the folder's name, with the series number where a folder holds several."""
    wanted = {key: _name(folder, files, headers[key]) for key, files in slices.items()}
    several = {name for name, count in Counter(wanted.values()).items() if count > 1}
    result: dict[str, CTSeries] = {}
    for key, name in sorted(wanted.items(), key=lambda item: (item[1], str(headers[item[0]].get("SeriesNumber", "")), str(item[0]))):
        if name in several:
            name = f"{name}_series{headers[key].get('SeriesNumber') or 0}"
        same = sum(other == name or other.startswith(f"{name}_part") for other in result)
        name = name if not same else f"{name}_part{same + 1}"
        uid, frame = (str(headers[key].get(tag, "")) for tag in ("SeriesInstanceUID", "FrameOfReferenceUID"))
        result[name] = CTSeries(name, tuple(slices[key]), uid, frame)
    return [series for _, series in sorted(result.items())]


def _name(folder: Path, files: list[Path], header: Dataset) -> str:
    """From the folders between `folder` and the slices, or the folder's own name where they lie in it."""
    inside = files[0].parent.relative_to(folder).parts or (folder.resolve().name,)
    name = NOT_IN_NAMES.sub("_", "_".join(inside)).strip("._-")
    if not name or _tells_of_patient(name, header):
        return "ct_" + hashlib.sha256(str(header.get("SeriesInstanceUID", "")).encode()).hexdigest()[:10]
    return name


def _tells_of_patient(name: str, header: Dataset) -> bool:
    words = {word for tag in PATIENT_TAGS for word in re.split(r"[^a-z0-9]+", str(header.get(tag, "")).lower())}
    return any(word in name.lower() for word in words if len(word) > 2)
