"""One case of a raw dataset read from end to end: what keeps it from being used, what is odd, what reading mends."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arena_pipeline.errors import ArenaError
from arena_pipeline.fingerprint.models import Finding
from arena_pipeline.fingerprint.reading import Part, read_case, structures_present
from arena_pipeline.io.dataset import Case, DatasetJson
from arena_pipeline.io.images import write_segmentation
from arena_pipeline.settings import Frozen


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
    """What a worker needs. `corrected`: where a corrected copy of the segmentation is to be written, if it needs one; None: nowhere."""

    part: Part
    case: Case
    description: DatasetJson
    corrected: Path | None


@dataclass(frozen=True)
class CaseAudit:
    """`case` is None for one that can't be read."""

    case: AuditedCase | None
    findings: tuple[Finding, ...]


def audit_case(job: AuditJob) -> CaseAudit:
    """Reads both files whole. Whatever is wrong with them is a finding, never raised."""
    case = job.case
    try:
        reading = read_case(case, job.part, job.description)
    except ArenaError as error:
        path = case.image if case.segmentation is None or error.file == case.image else case.segmentation
        return CaseAudit(None, (Finding(level="error", case=case.identifier, file=f"{path.parent.name}/{path.name}", sentence=str(error)),))
    segmentation, geometry = reading.segmentation, reading.image.geometry
    if segmentation is not None and segmentation.fixes and job.corrected is not None:
        write_segmentation(job.corrected, segmentation.array, geometry)
    audited = AuditedCase(
        identifier=case.identifier,
        part=job.part,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.orientation,
        labels_present=None if segmentation is None else structures_present(job.description, segmentation.voxels),
        voxels_sha256=_digest(reading.image.array),
    )
    return CaseAudit(audited, reading.findings)


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(repr(array.shape).encode())
    for plane in array.transpose(2, 0, 1):  # plane by plane: no copy of a large volume
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()
