"""The tags of one DICOM file, and whether a name reveals the patient."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

DATE_TAGS = ["PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"]
UID_TAGS = ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"]
ID_TAGS = ["PatientName", "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID"]
PATIENT_TAGS = [*ID_TAGS, *DATE_TAGS, *UID_TAGS]
LOOKS_LIKE_UID = re.compile(r"[0-2](\.\d+){5,}")  # of another file, or from before the tags were made anonymous
NO_LETTER_OR_DIGIT = re.compile(r"[^a-z0-9]+")
SHORT = 2  # letters of a name such as Li or Wu, which other words hold too
NO_NAME = {"ct"}  # in pseudonyms and names of folders, and nobody's name
LEAST_DIGITS = 3  # shorter numbers count cases, and tell nothing


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


def shown_name(path: Path, otherwise: str) -> str:
    """What a message calls a file: its name without the folders, which may bear the patient's; `otherwise` where it tells of the patient itself."""
    header = read_header(path, ["SOPClassUID", *PATIENT_TAGS])
    return otherwise if reveals_patient(path.name, header or Dataset()) else path.name


def reveals_patient(name: str, header: Dataset) -> bool:
    """Whether a name holds a UID, or any of the tags that say who the patient is and when the scan was made, however they are separated."""
    lower = name.lower()
    joined = NO_LETTER_OR_DIGIT.sub("", lower)
    words = {word for tag in ID_TAGS for word in _words(str(header.get(tag) or "")) if len(word) > SHORT}
    short = {word for word in _words(str(header.get("PatientName") or "")) - NO_NAME if len(word) == SHORT}
    if LOOKS_LIKE_UID.search(lower) or short & _words(lower) or any(word in lower for word in words):
        return True
    return any(form in joined for form in _without_separators(header) if len(form) >= LEAST_DIGITS)


def _words(text: str) -> set[str]:
    return set(NO_LETTER_OR_DIGIT.split(text.lower()))


def _without_separators(header: Dataset) -> set[str]:
    """Numbers and UIDs; dates in the orders of the year, the day and the month first."""
    forms = {NO_LETTER_OR_DIGIT.sub("", str(header.get(tag) or "").lower()) for tag in (*ID_TAGS, *DATE_TAGS, *UID_TAGS)}
    dates = {form for tag in DATE_TAGS if len(form := NO_LETTER_OR_DIGIT.sub("", str(header.get(tag) or ""))) == len("YYYYMMDD")}
    return forms | {date[6:] + date[4:6] + date[:4] for date in dates} | {date[4:] + date[:4] for date in dates}
