"""A raw dataset folder -> its audit: every case read, every finding in a sentence. Nothing in the folder is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from arena_pipeline.errors import ArenaError, DatasetError, PlansError
from arena_pipeline.fingerprint.findings import description_sentences
from arena_pipeline.fingerprint.models import Finding, Level
from arena_pipeline.fingerprint.reading import Part, read_case, structures_present
from arena_pipeline.io import endings
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, FOLDERS, Case, DatasetJson, RawDataset
from arena_pipeline.io.images import write_segmentation
from arena_pipeline.io.json_files import StoredModel, read_model
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.settings import Frozen
from arena_pipeline.words import listed

NAMES_SHOWN = 5
BYTES_PER_WORKER = 2 * 1024**3  # a CT of 512 x 512 x 800 with its segmentation and what is counted in them


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


class DatasetAudit(StoredModel):
    """dataset_audit.json.

    Attributes:
        usable: no finding is an error.
        checked: number of cases looked at; `cases` are those that could be read.
        findings: errors first, each level in the order of the cases.
    """

    audit_version: Literal[1] = 1
    dataset_name: str
    usable: bool
    checked: int
    findings: tuple[Finding, ...]
    cases: tuple[AuditedCase, ...]

    def of_level(self, level: Level) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == level)

    @classmethod
    def read(cls, path: Path) -> DatasetAudit:
        """Raises PlansError: missing, or not a valid audit."""
        return read_model(path, cls, PlansError, "no audit; run arena_verify_dataset", "run arena_verify_dataset again")


def audit_dataset(folder: Path, workers: int | None, corrected: Path | None = None) -> DatasetAudit:
    """Checks dataset.json, the layout and every case.

    Args:
        folder: raw/DatasetXXX_NAME.
        workers: processes; 0 and 1 do the work in this one; None: chosen from cores and memory.
        corrected: a folder for corrected copies of the segmentations that reading mends, labelsTr/CASE and labelsTs/CASE; None: no copies.

    Raises:
        ArenaError: a worker could not be started.
    """
    try:
        raw, faults = RawDataset.survey(folder)
    except DatasetError as error:  # without dataset.json no file's name means anything
        return _assemble(folder, 0, [Finding.of_dataset("error", str(error))], [])
    findings = [Finding.of_dataset("error", str(fault)) for fault in faults]
    jobs = {f"images{job.part}/{job.case.identifier}": job for job in _jobs(raw, corrected)}
    results = dict(map_jobs(audit_case, jobs, Needs("verify", workers, memory_bytes=BYTES_PER_WORKER)))
    cases = []
    for name, job in jobs.items():
        result = results[name]
        if isinstance(result, ArenaError):  # its worker died
            findings.append(Finding(level="error", case=job.case.identifier, sentence=str(result)))
            continue
        findings += result.findings
        cases += [result.case] if result.case is not None else []
    return _assemble(folder, len(jobs), [*findings, *_dataset_findings(raw, cases)], cases)


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


def _jobs(raw: RawDataset, corrected: Path | None) -> Iterator[AuditJob]:
    parts: tuple[Part, ...] = ("Tr", "Ts")
    for part in parts:
        for case in (raw.training if part == "Tr" else raw.queries).values():
            copy = corrected / case.segmentation.parent.name / case.segmentation.name if corrected and case.segmentation else None
            yield AuditJob(part, case, raw.json, copy)


def _assemble(folder: Path, checked: int, findings: list[Finding], cases: list[AuditedCase]) -> DatasetAudit:
    order: tuple[Level, ...] = ("error", "warning", "fixed", "info")
    ordered = tuple(sorted(findings, key=lambda finding: order.index(finding.level)))
    usable = not any(finding.level == "error" for finding in findings)
    return DatasetAudit(dataset_name=folder.name, usable=usable, checked=checked, findings=ordered, cases=tuple(cases))


def _dataset_findings(raw: RawDataset, cases: Sequence[AuditedCase]) -> list[Finding]:
    sentences = [
        *_doubled_cases(raw, cases),
        *_unused_files(raw),
        *_unknown_cases(raw),
        *description_sentences(raw),
        *_absent_structures(raw, cases),
    ]
    return [Finding.of_dataset("warning", sentence) for sentence in sentences]


def _doubled_cases(raw: RawDataset, cases: Sequence[AuditedCase]) -> Iterator[str]:
    """One volume under two names would count twice in a support set, or be adapted on and evaluated on."""
    if both := sorted(set(raw.training) & set(raw.queries)):
        yield f"{listed(both, NAMES_SHOWN)}: in imagesTr and in imagesTs; a case adapted on can't be a query, take it out of one"
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(case.voxels_sha256, []).append(f"images{case.part}/{case.identifier}")
    for names in groups.values():
        if len(names) > 1:
            yield f"{listed(names, NAMES_SHOWN)}: the same CT voxel by voxel; keep one of them, or results look better than they are"


def _unused_files(raw: RawDataset) -> Iterator[str]:
    """Files whose name fits no case. Those that systems leave (.DS_Store, ._CASE) are not reported, an image with a dot in front is."""
    for name in FOLDERS:
        ending = (CHANNEL_SUFFIX if name.startswith("images") else "") + raw.json.file_ending
        folder = raw.folder / name
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        copies = _second_copies(raw, name, names)
        yield from (
            f"{name}: {file} not used, expected CASE{ending}: a second copy of {case}; remove one of the two" for file, case in copies.items()
        )
        names = [file for file in names if file not in copies]
        if name == "labelsTs" and (alone := [file for file in names if _is_of_no_query(raw, file)]):
            yield f"labelsTs: {listed(alone, NAMES_SHOWN)} without a CT in imagesTs: no query; add the CT where it should be one"
        if unused := [file for file in names if file.endswith(ending) == file.startswith(".") and not file.startswith("._")]:
            yield f"{name}: {listed(unused, NAMES_SHOWN)} not used, expected CASE{ending} with no dot in front; rename or remove"


def _is_of_no_query(raw: RawDataset, file: str) -> bool:
    ending = raw.json.file_ending
    return file.endswith(ending) and not file.startswith(".") and file[: -len(ending)] not in raw.queries


def _second_copies(raw: RawDataset, name: str, files: Iterable[str]) -> dict[str, str]:
    """File -> case, of files that would be a case's image or segmentation if they had the dataset's ending."""
    cases = raw.training if name.endswith("Tr") else raw.queries
    suffix = CHANNEL_SUFFIX if name.startswith("images") else ""
    named = {f"{case}{suffix}{ending}": case for case in cases for ending in endings.IMAGES if ending != raw.json.file_ending}
    return {file: named[file] for file in files if file in named}


def _unknown_cases(raw: RawDataset) -> Iterator[str]:
    known = {*raw.training, *raw.queries}
    if unknown := sorted(set(raw.json.annotated) - known):
        yield f"dataset.json: annotated has {listed(unknown, NAMES_SHOWN)}, in neither imagesTr nor imagesTs; correct the names, or copy the cases"


def _absent_structures(raw: RawDataset, cases: Sequence[AuditedCase]) -> Iterator[str]:
    training = [case for case in cases if case.part == "Tr"]
    present = {label for case in training for label in case.labels_present or ()}
    if not training:
        return  # unreadable: each has a finding
    if absent := [name for name, label in raw.json.structures.items() if label not in present]:
        yield f"{listed(absent, NAMES_SHOWN)}: no training case shows it, no adaptation to it is possible; add cases that do"
