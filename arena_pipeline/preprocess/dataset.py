"""Preprocesses the cases of a raw dataset, several at a time; what is there and up to date is kept."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arena_pipeline.errors import ArenaError, DatasetError, ImageError, NoSpace
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.atomic import remove_unfinished
from arena_pipeline.io.dataset import Case, RawDataset
from arena_pipeline.io.filestate import SourceFile
from arena_pipeline.io.geometry import not_there
from arena_pipeline.io.images import read_geometry, read_image
from arena_pipeline.io.label_names import IGNORE
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.io.segmentations import read_case_segmentation
from arena_pipeline.io.space import require_space
from arena_pipeline.planning.memory import case_bytes
from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation
from arena_pipeline.preprocess.store import Source, discard, is_whole, read_case_record, stored_fault, write_arrays, write_case_record
from arena_pipeline.words import pluralize

logger = logging.getLogger(__name__)

STORED_BYTES_PER_VOXEL = 1.0
"""Of the resampled volume, before the crop. Measured: 1.4 on phantoms at 3 mm, 3 on two real CTs at 4 mm; low, so that nobody is refused wrongly."""


@dataclass(frozen=True)
class PreprocessingJob:
    """One case to preprocess; crosses to a worker process."""

    case: Case
    scheme: Scheme
    folder: Path
    label_names: dict[str, int]

    @property
    def ignore_label(self) -> int | None:
        return self.label_names.get(IGNORE)


def preprocess_dataset(
    raw: RawDataset, scheme: Scheme, folder: Path, workers: int | None, cases: Sequence[str] | None = None, default_workers: int | None = None
) -> list[str]:
    """Preprocesses into `folder` what is missing there, or was made by another scheme or from other files.

    Args:
        workers: processes, fewer where free memory does not take them; 0 or 1 does the work in this one; None: `default_workers`.
        default_workers: None: as many as cores.
        cases: identifiers, of imagesTr or imagesTs; None: all of imagesTr.

    Returns:
        the identifiers of the cases that were made now.

    Raises:
        DatasetError: an unknown identifier.
        NoSpace: the disk has too little free space for the cases, or is full.
        ArenaError: one or more cases failed, each named with its reason, after all others were done; or a worker died.
    """
    chosen = _chosen(raw, cases)
    folder.mkdir(parents=True, exist_ok=True)
    for path in remove_unfinished(folder):
        logger.info("removing %s, left by an interrupted run", path)
    made = (scheme, folder, raw.json.labels)
    jobs = {case.identifier: PreprocessingJob(case, *made) for case in chosen if not is_current(case, scheme, folder, raw.json.ignore_label)}
    for name in jobs:
        if (fault := stored_fault(folder, name)) is not None:
            logger.info("%s: preprocessed again: %s", name, fault)
    if len(jobs) < len(chosen):
        logger.info("%d of %s preprocessed already", len(chosen) - len(jobs), pluralize(len(chosen), "case"))
    sizes = [_sizes(job) for job in jobs.values()]
    require_space(folder, sum(stored for _, stored in sizes), f"preprocessing {pluralize(len(jobs), 'case')}")
    needs = Needs("preprocess", workers, default_workers, memory_bytes=max((memory for memory, _ in sizes), default=0), folders=[folder])
    failed = {}
    for name, error in map_jobs(_preprocess_named, jobs, needs):
        if error is not None:
            failed[name] = error
            discard(folder, name)
        if isinstance(error, NoSpace):
            raise error  # all others would fail too
    if len(failed) == 1:
        raise failed.popitem()[1]
    if failed:
        reasons = "; ".join(str(failed[name]) for name in sorted(failed))
        raise DatasetError(f"{len(failed)} of {pluralize(len(jobs), 'case')} could not be preprocessed: {reasons}")
    return list(jobs)


def makes_same_cases(made_by: Scheme, scheme: Scheme) -> bool:
    """Whether cases made by one scheme serve the other: the patch size says how a case is read, not how it is made."""
    return made_by.model_copy(update={"patch_size_voxels": scheme.patch_size_voxels}) == scheme


def is_current(case: Case, scheme: Scheme, folder: Path, ignore_label: int | None = None) -> bool:
    """Whether the stored case is whole, and was made for this scheme from these files (same size and time, or else same SHA-256)."""
    record = read_case_record(folder, case.identifier)
    if record is None or record.source is None:
        return False
    if not makes_same_cases(record.source.scheme, scheme) or record.source.ignore_label != ignore_label:
        return False
    if not case.image.exists() or not is_whole(folder, record) or not record.source.image.is_still(case.image):
        return False
    if case.segmentation is None or record.source.segmentation is None:
        return case.segmentation is None and record.source.segmentation is None
    return record.source.segmentation.is_still(case.segmentation)


def require_unchanged(raw: Path, folder: Path, cases: Iterable[str], mend: str) -> None:
    """Raises DatasetError that names what `changed_files` finds; `mend`: the command that makes the cases again."""
    if changed := changed_files(raw, folder, cases):
        found = f"changed after preprocessing, what is stored is out of date: {', '.join(changed)}"
        raise DatasetError(found, file=raw, advice=f"run {mend}")


def changed_files(raw: Path, folder: Path, cases: Iterable[str]) -> list[str]:
    """The CTs and segmentations that stored training cases were made from, and that were changed since.

    Args:
        raw: the dataset's folder, with imagesTr and labelsTr; files that were taken away from there can't be compared, and are not.
    """
    changed = []
    for name in cases:
        record = read_case_record(folder, name)
        source = None if record is None else record.source
        if source is not None:
            files = {"imagesTr": source.image, "labelsTr": source.segmentation}
            paths = {raw / place / file.name: file for place, file in files.items() if file is not None}
            changed += [path for path, file in paths.items() if path.is_file() and not file.is_still(path)]
    return [f"{path.parent.name}/{path.name}" for path in changed]


def preprocess_case(job: PreprocessingJob) -> None:
    """Reads, checks, preprocesses and stores one case.

    Raises:
        ImageError: a file can't be read, or holds nothing above the window's lower end.
        DatasetError: the segmentation is on another grid than the CT, or has labels that dataset.json does not name.
    """
    case = job.case
    discard(job.folder, case.identifier)
    if not case.image.exists():
        raise ImageError(not_there(case.image), file=case.image)
    files = (SourceFile.of(case.image), SourceFile.of(case.segmentation) if case.segmentation else None)
    source = Source(scheme=job.scheme, image=files[0], segmentation=files[1], ignore_label=job.ignore_label)
    image = read_image(case.image, warn=False)  # the fingerprint has warned
    stored = None
    if case.segmentation is not None:
        stored = read_case_segmentation(case.identifier, case.segmentation, image.geometry, job.label_names).array
    try:
        volume, grid = preprocess_image(image, job.scheme)
    except ArenaError as error:
        raise error.located(file=case.image) from None
    segmentation = None if stored is None else preprocess_segmentation(stored, grid, job.ignore_label)
    rng = np.random.default_rng(zlib.crc32(case.identifier.encode()))  # a case's own: neither order nor number of workers matters
    record = write_arrays(job.folder, case.identifier, (volume, segmentation), grid, rng)
    write_case_record(job.folder, record.model_copy(update={"source": source}))


def _chosen(raw: RawDataset, cases: Sequence[str] | None) -> list[Case]:
    if cases is None:
        return list(raw.training.values())
    known = {**raw.queries, **raw.training}
    unknown = [name for name in cases if name not in known]
    if unknown:
        raise DatasetError(f"no case {', '.join(unknown)} ({len(raw.training)} in imagesTr, {len(raw.queries)} in imagesTs)", file=raw.folder)
    return [known[name] for name in cases]


def _preprocess_named(job: PreprocessingJob) -> None:
    """In a worker: `preprocess_case`, whose errors name the case."""
    name = job.case.identifier
    try:
        preprocess_case(job)
    except ArenaError as error:
        raise error.located(case=name) from None
    except OSError as error:
        raise ArenaError(
            f"can't be written ({error})", case=name, file=job.folder, advice="free space, or use another disk, and run it again"
        ) from None


def _sizes(job: PreprocessingJob) -> tuple[int, int]:
    """Bytes that the case may take in memory and on the disk. 0 for an image whose header can't be read: the error comes when it is preprocessed."""
    try:
        geometry = read_geometry(job.case.image)
    except ArenaError:
        return 0, 0
    resampled = math.prod(size * old / new for size, old, new in zip(geometry.shape, geometry.spacing_mm, job.scheme.spacing_xyz_mm, strict=True))
    return case_bytes(geometry.shape, geometry.spacing_mm, job.scheme.spacing_xyz_mm), int(STORED_BYTES_PER_VOXEL * resampled)
