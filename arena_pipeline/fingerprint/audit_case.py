"""One case of a raw dataset read from end to end: what keeps it from being used, what is odd, what reading mends."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from arena_pipeline.errors import ArenaError
from arena_pipeline.fingerprint.case import LOWEST_TISSUE_HU, check_annotated, looks_like_hu
from arena_pipeline.fingerprint.findings import not_hu_sentence
from arena_pipeline.io import nifti
from arena_pipeline.io.dataset import Case
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import read_image, write_segmentation
from arena_pipeline.io.segmentations import ROUNDING_MM, read_case_segmentation
from arena_pipeline.settings import Frozen

Level = Literal["error", "warning", "fixed", "info"]
Part = Literal["Tr", "Ts"]


class AuditFinding(Frozen):
    """Something about a dataset, in one sentence.

    Attributes:
        level: "error": the case, or the dataset, can't be used; "warning": it can, and results may suffer; "fixed": a small fault that is
            mended whenever the file is read; "info": unusual and read right.
        case: None for the whole dataset.
        file: below the dataset's folder; None where it is about no single file.
    """

    level: Level
    case: str | None
    file: str | None
    sentence: str


class AuditedCase(Frozen):
    """A readable case. `part`: Tr or Ts; `labels_present`: None without a segmentation; `voxels_sha256`: of the CT's values and shape."""

    identifier: str
    part: Part
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    labels_present: tuple[int, ...] | None
    voxels_sha256: str


@dataclass(frozen=True)
class AuditJob:
    """What a worker needs.

    Attributes:
        labels: structure -> integer.
        annotated: the structures annotated in this case.
        corrected: where a corrected copy of the segmentation is to be written, if it needs one; None: nowhere.
    """

    part: Part
    case: Case
    labels: dict[str, int]
    annotated: tuple[str, ...]
    corrected: Path | None


@dataclass(frozen=True)
class CaseAudit:
    """`case` is None for one that can't be read."""

    case: AuditedCase | None
    findings: tuple[AuditFinding, ...]


class _Findings:
    """Collects the findings of one case."""

    def __init__(self, case: Case) -> None:
        self.case, self.entries = case, list[AuditFinding]()

    def add(self, level: Level, path: Path, sentence: str) -> None:
        file = f"{path.parent.name}/{path.name}"
        self.entries.append(AuditFinding(level=level, case=self.case.identifier, file=file, sentence=sentence))


def audit_case(job: AuditJob) -> CaseAudit:
    """Reads both files whole. Whatever is wrong with them is a finding, never raised."""
    case, found = job.case, _Findings(job.case)
    try:
        image = read_image(case.image, warn=False)
    except ArenaError as error:
        found.add("error", case.image, str(error))
        return CaseAudit(None, tuple(found.entries))
    _look_at_image(image, case.image, found)
    present = None
    if case.segmentation is not None:
        try:
            present = _check_segmentation(job, case.segmentation, image.geometry, found)
        except ArenaError as error:
            found.add("error", case.segmentation, str(error))
            return CaseAudit(None, tuple(found.entries))
    audited = AuditedCase(
        identifier=case.identifier,
        part=job.part,
        shape=image.geometry.shape,
        spacing_mm=image.geometry.spacing_mm,
        orientation=image.geometry.orientation,
        labels_present=present,
        voxels_sha256=_digest(image.array),
    )
    return CaseAudit(audited, tuple(found.entries))


def _look_at_image(image: Image, path: Path, found: _Findings) -> None:
    low, high = float(image.array.min()), float(image.array.max())
    if low == high:
        found.add("error", path, f"every voxel is {low:g}: there is no image in it; export the CT again")
    elif high < LOWEST_TISSUE_HU:
        found.add("error", path, f"intensities from {low:g} to {high:g} HU are air and nothing else; export the CT again")
    elif not looks_like_hu(low, high):
        found.add("warning", path, not_hu_sentence(low, high))
    for oddity in nifti.oddities(image.geometry):
        found.add("warning", path, oddity)
    if min(image.array.shape) == 1:
        found.add("warning", path, f"a single slice ({' x '.join(map(str, image.array.shape))} voxels); structures in 3D need a volume of many")
    if np.linalg.det(image.geometry.affine[:3, :3]) < 0:
        found.add("info", path, "stored left-handed, as many scans are; read right, nothing to do")


def _check_segmentation(job: AuditJob, path: Path, grid: Geometry, found: _Findings) -> tuple[int, ...]:
    """The labels present. Raises ArenaError for a segmentation that can't be used."""
    case = job.case
    segmentation = read_case_segmentation(case.identifier, path, grid, job.labels)
    voxels = segmentation.voxels
    check_annotated(case, job.labels, job.annotated, voxels)
    if job.part == "Tr" and not job.annotated:
        found.add("warning", path, "no structure is annotated: it can't be a support case; take it out of imagesTr or annotate it")
    elif job.part == "Tr" and not voxels[1:].any():
        found.add("warning", path, "the segmentation is empty: it can't be a support case; annotate it, or take it out of imagesTr")
    for sentence in segmentation.fixes:
        found.add("fixed", path, sentence)
    if segmentation.off_grid_mm > ROUNDING_MM:
        sentence = f"its grid is up to {segmentation.off_grid_mm:.3g} mm off the CT's, less than a tenth of a voxel"
        found.add("warning", path, f"{sentence}; used on the CT's grid, re-export it to be sure")
    if segmentation.fixes and job.corrected is not None:
        write_segmentation(job.corrected, segmentation.array, grid)
    return tuple(int(label) for label in np.flatnonzero(voxels) if label)


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(repr(array.shape).encode())
    for plane in array.transpose(2, 0, 1):  # plane by plane: no copy of a large volume
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()
