"""The dataset folder that a converter writes: cases one by one, each whole or not at all, and dataset.json only when all are done.

raw/DatasetXXX_NAME/
  imagesTr labelsTr imagesTs labelsTs dataset.json     the standard layout
  conversion/CASE.json                                 what was converted from which files; a later run keeps what is still right
  conversion_report.json                               everything a person should know: overlaps, left-out cases, failures
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from nibabel.spatialimages import HeaderDataError
from pydantic import ValidationError

from arena_pipeline.errors import ArenaError, DatasetError, NoSpace
from arena_pipeline.io.atomic import remove_unfinished, replace_when_done, write_json
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, DatasetJson
from arena_pipeline.io.filestate import WrittenFile
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import write_image
from arena_pipeline.io.parallel import map_cases
from arena_pipeline.io.space import require_space
from arena_pipeline.machine import workers_for
from arena_pipeline.settings import Frozen
from arena_pipeline.workspace import DATASET_FOLDER, Workspace

logger = logging.getLogger(__name__)

ENDING = ".nii.gz"
PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
NAMED_FAILURES = 10
BYTES_PER_WORKER = 2 * 1024**3  # a whole-body CT with a hundred masks stays below


class ConversionJob(Frozen):
    """One case to convert; each converter adds where its labels come from.

    Attributes:
        part: "Tr" for training cases, "Ts" for queries.
        dataset: the dataset folder written to.
        image: the raw CT.
        labels: structure -> integer, as in dataset.json.
    """

    identifier: str
    part: Literal["Tr", "Ts"]
    dataset: Path
    image: Path
    labels: dict[str, int]

    def inputs(self) -> list[Path]:
        """Every raw file this case is made from."""
        return [self.image]

    @property
    def image_out(self) -> Path:
        return self.dataset / f"images{self.part}" / f"{self.identifier}{CHANNEL_SUFFIX}{ENDING}"

    @property
    def segmentation_out(self) -> Path:
        return self.dataset / f"labels{self.part}" / f"{self.identifier}{ENDING}"

    @property
    def record(self) -> Path:
        return self.dataset / "conversion" / f"{self.identifier}.json"

    def state(self) -> str:
        """A digest of the job and of its files' sizes and times: unchanged means that converting again gives the same."""
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.inputs() if path.is_file()]
        return hashlib.sha256(json.dumps([self.model_dump(mode="json", exclude={"dataset"}), files]).encode()).hexdigest()


class Overlap(Frozen):
    """Voxels that two masks of one case both claim."""

    kept_by: str
    taken_from: str
    voxels: int


class CaseReport(Frozen):
    """conversion/CASE.json.

    Attributes:
        outputs: file relative to the dataset folder -> as it was written.
        voxels: of every annotated structure in the segmentation, 0 where it is absent; None without a segmentation.
        ignored: raw masks that were not used, and other things worth knowing.
    """

    identifier: str
    part: Literal["Tr", "Ts"]
    state: str
    outputs: dict[str, WrittenFile]
    voxels: dict[str, int] | None
    overlaps: tuple[Overlap, ...] = ()
    ignored: tuple[str, ...] = ()


AnyJob = TypeVar("AnyJob", bound=ConversionJob)


def dataset_folder(workspace: Workspace, dataset_id: int, name: str) -> Path:
    """raw/DatasetXXX_NAME, not yet made.

    Raises:
        DatasetError: the number or name can't be used, or another dataset has the number.
    """
    folder_name = f"Dataset{dataset_id:03d}_{name}"
    if not 1 <= dataset_id <= 999 or not DATASET_FOLDER.fullmatch(folder_name):
        raise DatasetError(f"dataset {dataset_id}, name {name}: expected a number from 1 to 999 and a name of letters, digits, _ and -")
    others = [other for other in workspace.dataset_names() if other.startswith(folder_name[:11]) and other != folder_name]
    if others:
        raise DatasetError(
            f"dataset {dataset_id}: {workspace.raw / others[0]} has this number already; choose another with -d, or give its name with -n"
        )
    return workspace.raw_dataset(folder_name)


def convert_cases(
    folder: Path, jobs: Sequence[AnyJob], convert: Callable[[AnyJob], CaseReport], workers: int | None
) -> tuple[dict[str, CaseReport], dict[str, str]]:
    """Converts what is not there yet, and removes what an earlier conversion left and this one doesn't have.

    Returns:
        reports and failures, each by case; a failure is a sentence.

    Raises:
        DatasetError: the folder holds files that no conversion wrote.
        NoSpace: the disk has not the bytes that have to be copied, or is full.
    """
    _remove_leftovers(folder, jobs)
    reports = {job.identifier: report for job in jobs if (report := _finished(job)) is not None}
    todo = {job.identifier: job for job in jobs if job.identifier not in reports}
    if reports:
        logger.info("%d of %d cases are converted already and unchanged; they are kept", len(reports), len(jobs))
    require_space(folder, _copied_bytes(folder, list(todo.values())), f"converting {len(todo)} cases")
    if todo:
        # Without dataset.json the folder is no dataset: nobody reads it while cases are missing or carry old labels.
        (folder / "dataset.json").unlink(missing_ok=True)
    failures = {}
    processes = workers_for(BYTES_PER_WORKER) if workers is None else workers
    for case, result in map_cases(convert, todo, processes, "convert", folders=[folder / part for part in (*PARTS, "conversion")]):
        if isinstance(result, ArenaError):
            failures[case] = str(result)
            _remove_case(folder, case)
            if isinstance(result, NoSpace):
                raise result  # so would all others fail
        else:
            reports[case] = result
    return dict(sorted(reports.items())), dict(sorted(failures.items()))


def finish_dataset(folder: Path, description: DatasetJson, report: dict[str, object], failures: Mapping[str, str]) -> Path:
    """Writes conversion_report.json and, last, dataset.json.

    Raises:
        DatasetError: cases failed. The others are converted and usable; the message says how to accept that.
    """
    write_json(folder / "conversion_report.json", {**report, "failures": dict(failures)})
    if description.numTraining:
        description.write(folder / "dataset.json")
    more = len(failures) - NAMED_FAILURES
    faults = "; ".join(list(failures.values())[:NAMED_FAILURES]) + (f"; and {more} more, see conversion_report.json" if more > 0 else "")
    if failures and not description.numTraining:
        raise DatasetError(f"no training case could be converted: {faults}")
    if not description.numTraining:
        raise DatasetError(f"{folder.name}: no training case; at least one annotated CT has to be in the training part of the split")
    if failures:
        raise DatasetError(
            f"{len(failures)} cases are not in {folder.name} (its {description.numTraining} training cases are converted and usable): {faults}. "
            f"Mend them and run this again, or leave them out with --exclude {' '.join(failures)}"
        )
    logger.info("%s: %d training cases, %d structures", folder.name, description.numTraining, len(description.structures))
    return folder


def place_image(job: ConversionJob, image: Image) -> None:
    """Puts the CT in place: the raw file itself (linked where the disk allows it, else copied) unless other readers would refuse it."""
    job.image_out.parent.mkdir(parents=True, exist_ok=True)
    if not _opens_everywhere(job.image, image.geometry):
        write_image(job.image_out, image)
        return
    with replace_when_done(job.image_out) as temporary:
        temporary.unlink()
        try:
            os.link(job.image.resolve(), temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(job.image, temporary)


def save_report(job: ConversionJob, **facts: object) -> CaseReport:
    """Writes the case's record, after its files: only then is the case done."""
    written = [path for path in (job.image_out, job.segmentation_out) if path.is_file()]
    outputs = {path.relative_to(job.dataset).as_posix(): WrittenFile.of(path) for path in written}
    report = CaseReport.model_validate({"identifier": job.identifier, "part": job.part, "state": job.state(), "outputs": outputs, **facts})
    write_json(job.record, report.model_dump(mode="json"))
    return report


def _opens_everywhere(path: Path, geometry: Geometry) -> bool:
    """Whether nibabel and SimpleITK both open the file: really gzip, a scaling that is a number, right angles in sform or qform."""
    header = geometry.header
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if not compressed or header is None:
        return False
    try:
        header.get_slope_inter()
    except HeaderDataError:
        return False
    return geometry.is_orthonormal or int(header["qform_code"]) > 0


def _copied_bytes(folder: Path, jobs: Sequence[ConversionJob]) -> int:
    """Of the CTs that lie on another disk than `folder`: the others are linked. Labels compress to next to nothing."""
    states = [job.image.stat() for job in jobs if job.image.is_file()]
    return sum(state.st_size for state in states if state.st_dev != folder.stat().st_dev)


def _finished(job: ConversionJob) -> CaseReport | None:
    report = _read_record(job.record)
    if report is None or report.state != job.state():
        return None
    whole = all(written.is_still(job.dataset / name, job.record) for name, written in report.outputs.items())
    return report if whole else None


def _read_record(path: Path) -> CaseReport | None:
    try:
        return CaseReport.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, ValidationError):
        return None  # not converted, by an older version, or damaged: it is converted again


def _remove_leftovers(folder: Path, jobs: Sequence[ConversionJob]) -> None:
    for part in (*PARTS, "conversion"):
        for path in remove_unfinished(folder / part):
            logger.info("removing %s, left by an interrupted run", path)
    known = {path.stem for path in (folder / "conversion").glob("*.json")}
    planned = {(job.identifier, job.part) for job in jobs}
    present = [path for part in PARTS for path in (folder / part).glob("[!.]*") if path.name.endswith(ENDING)]
    foreign = [path for path in present if _case_of(path) not in known | {job.identifier for job in jobs}]
    if foreign:
        raise DatasetError(f"{foreign[0]}: not from this conversion ({len(foreign)} such files); choose another number with -d, or move them away")
    stale = sorted(
        {_case_of(path) for path in present if (_case_of(path), path.parent.name[-2:]) not in planned} | (known - {case for case, _ in planned})
    )
    for case in stale:
        _remove_case(folder, case)
    if stale:
        (folder / "dataset.json").unlink(missing_ok=True)
        logger.info("removed %d cases of an earlier conversion that this one has elsewhere or not at all: %s", len(stale), ", ".join(stale[:10]))


def _case_of(path: Path) -> str:
    name = path.name[: -len(ENDING)]
    return name[: -len(CHANNEL_SUFFIX)] if path.parent.name.startswith("images") else name


def _remove_case(folder: Path, case: str) -> None:
    (folder / "conversion" / f"{case}.json").unlink(missing_ok=True)
    for part in PARTS:
        (folder / part / (f"{case}{CHANNEL_SUFFIX}{ENDING}" if part.startswith("images") else f"{case}{ENDING}")).unlink(missing_ok=True)
