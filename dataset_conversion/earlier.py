"""The files of an earlier conversion in the folder: which are kept, which are made again, and which must not be touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, FOLDERS, DatasetJson
from arena_pipeline.io.json_files import StoredModel
from arena_pipeline.io.nifti import read_nifti
from arena_pipeline.words import listed, pluralize
from dataset_conversion.case import ENDING, CaseReport, ConversionJob

SETTINGS_FILE = "conversion_settings.json"
NAMES_SHOWN = 10


class ConversionSettings(StoredModel):
    """conversion_settings.json: what tells one dataset from another, written before its first case.

    Attributes:
        source: the raw dataset, as in dataset.json.
        structures: those asked for; None: all that there are, so that more cases may bring more structures.
        labels: structure -> integer, as in dataset.json.
    """

    source: str
    structures: tuple[str, ...] | None
    labels: dict[str, int]

    def continues(self, earlier: ConversionSettings) -> bool:
        """Whether a run with these settings goes on with what a run with the `earlier` ones made."""
        grown = self.structures is None and earlier.structures is None and set(earlier.labels) <= set(self.labels)
        return self.source == earlier.source and (self.labels == earlier.labels or grown)

    def __str__(self) -> str:
        return f"{listed((name for name, label in self.labels.items() if label), NAMES_SHOWN)} of {self.source}"


def check_settings(folder: Path, settings: ConversionSettings) -> None:
    """Raises DatasetError where the folder holds a dataset made by other settings, which this conversion would replace."""
    if not (folder / "dataset.json").is_file() and not any((folder / "conversion").glob("*.json")):
        return  # no case was converted with them
    earlier = _read_settings(folder)
    if earlier is not None and not settings.continues(earlier):
        raise DatasetError(
            f"there is a dataset with {earlier}, expected {settings}",
            file=folder,
            advice="choose another number with -d, or --overwrite to replace it",
        )


def _read_settings(folder: Path) -> ConversionSettings | None:
    """The settings of the conversion that made the folder; from dataset.json if an older version made it; None if neither can be read."""
    if (settings := ConversionSettings.read_if_valid(folder / SETTINGS_FILE)) is not None:
        return settings
    try:
        description = DatasetJson.read(folder / "dataset.json")
    except DatasetError:
        return None
    return ConversionSettings(
        source=description.source or "unknown source", structures=tuple(description.structures), labels=dict(description.labels)
    )


@dataclass(frozen=True)
class EarlierCase:
    """The files of one case from an earlier conversion.

    Attributes:
        report: its record, None without a readable one.
        changed: its files, below the dataset's folder, that can be read to their end but are not what was written.
        faults: why its files can't be used, in words.
    """

    report: CaseReport | None
    changed: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path, case: str) -> EarlierCase:
        place = folder / "conversion" / f"{case}.json"
        report = CaseReport.read_if_valid(place)
        if report is None:
            return cls(None, faults=(f"{place.name}: no readable record",) if place.exists() else ())
        changed, faults = [], []
        for name in report.files:
            path, written = folder / name, report.outputs.get(name)
            if (written is not None and written.is_still(path, place)) or _is_linked_image(path):
                continue
            if (fault := _fault(path)) is None:
                changed.append(name)
            else:
                faults.append(fault)
        return cls(report, tuple(changed), tuple(faults))

    def is_done(self, job: ConversionJob) -> bool:
        return self.report is not None and not self.faults and self.report.state == job.state()


def _is_linked_image(path: Path) -> bool:
    """Whether it is a link to the raw CT itself: a change of that one is not a correction in this dataset."""
    return path.parent.name.startswith("images") and path.is_file() and path.stat().st_nlink > 1


def _fault(path: Path) -> str | None:
    if not path.is_file():
        return f"{path}: gone"
    try:
        read_nifti(path)
    except ImageError as error:
        return error.without_advice
    return None


def refuse_losses(jobs: Sequence[ConversionJob], found: dict[str, EarlierCase], stale: Sequence[str]) -> None:
    """Raises DatasetError for changed files that would be lost: of cases that are removed or moved, and segmentations that are renumbered."""
    planned = {job.identifier: job for job in jobs if job.identifier not in stale}
    lost = []
    for case, earlier in found.items():
        job, report = planned.get(case), earlier.report
        renumbered = job is not None and report is not None and report.state != job.state() and report.labels != job.labels
        lost += [name for name in earlier.changed if job is None or (renumbered and name.startswith("labels"))]
    if lost:
        raise DatasetError(
            f"{listed(lost, NAMES_SHOWN)}: changed since the conversion, and this one would remove or renumber {'it' if len(lost) == 1 else 'them'}",
            advice="move such files away, or --overwrite to lose them",
        )


def stale_cases(folder: Path, jobs: Sequence[ConversionJob]) -> list[str]:
    """Cases of an earlier conversion that this one puts into the other part (training, queries) or leaves out, sorted.

    Raises:
        DatasetError: the folder holds files that no conversion wrote.
    """
    known = {path.stem for path in (folder / "conversion").glob("*.json")}
    planned = {(job.identifier, job.part) for job in jobs}
    present = [path for part in FOLDERS for path in (folder / part).glob("[!.]*") if path.name.endswith(ENDING)]
    foreign = [path for path in present if _case_of(path) not in known | {job.identifier for job in jobs}]
    if foreign:
        files = pluralize(len(foreign), "such file")
        raise DatasetError(f"not from this conversion ({files})", file=foreign[0], advice="choose another number with -d, or move them away")
    return sorted(
        {_case_of(path) for path in present if (_case_of(path), path.parent.name[-2:]) not in planned} | (known - {case for case, _ in planned})
    )


def remove_converted(folder: Path, case: str) -> None:
    """Removes the case's record and all its files."""
    (folder / "conversion" / f"{case}.json").unlink(missing_ok=True)
    for part in FOLDERS:
        (folder / part / (f"{case}{CHANNEL_SUFFIX}{ENDING}" if part.startswith("images") else f"{case}{ENDING}")).unlink(missing_ok=True)


def _case_of(path: Path) -> str:
    name = path.name[: -len(ENDING)]
    return name[: -len(CHANNEL_SUFFIX)] if path.parent.name.startswith("images") else name
