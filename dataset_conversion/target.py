"""The dataset folder that a converter writes: cases one by one, each whole or not at all, and dataset.json only when all are done.

raw/DatasetXXX_NAME/
  imagesTr labelsTr imagesTs labelsTs dataset.json     the standard layout
  conversion/CASE.json                                 what was converted from which files; a later run keeps what is still right
  conversion_settings.json                             the source and structures; a run with others is refused
  conversion_report.json                               everything a person should know: overlaps, left-out cases, failures
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from arena_pipeline.errors import ArenaError, DatasetError, NoSpace, UnknownStructure
from arena_pipeline.io.atomic import remove_unfinished, write_json
from arena_pipeline.io.dataset import FOLDERS, DatasetJson, Objective
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.io.space import require_space
from arena_pipeline.words import listed, pluralize, similar
from arena_pipeline.workspace import DATASET_FOLDER, Workspace
from dataset_conversion.case import ENDING, CaseReport, ConversionJob
from dataset_conversion.earlier import (
    SETTINGS_FILE,
    ConversionSettings,
    EarlierCase,
    check_settings,
    refuse_losses,
    remove_converted,
    stale_cases,
)

logger = logging.getLogger(__name__)

NAMED_FAILURES = 10
BYTES_PER_WORKER = 2 * 1024**3  # a whole-body CT with a hundred masks takes less

AnyJob = TypeVar("AnyJob", bound=ConversionJob)


def dataset_folder(workspace: Workspace, dataset_id: int, name: str) -> Path:
    """The path raw/DatasetXXX_NAME; the folder is not made.

    Raises:
        DatasetError: the number or name can't be used, or another dataset has the number.
    """
    folder_name = f"Dataset{dataset_id:03d}_{name}"
    if not 1 <= dataset_id <= 999 or not DATASET_FOLDER.fullmatch(folder_name):
        raise DatasetError(f"dataset {dataset_id}, name {name}", advice="expected a number from 1 to 999 and a name of letters, digits, _ and -")
    others = [other for other in workspace.dataset_names() if other.startswith(folder_name[:11]) and other != folder_name]
    if others:
        raise DatasetError(
            f"dataset {dataset_id}: {workspace.raw / others[0]} has this number already", advice="choose another with -d, or give its name with -n"
        )
    return workspace.raw_dataset(folder_name)


def unknown_structures(unknown: Sequence[str], known: Sequence[str], where: str) -> UnknownStructure:
    """The error for names that are not `known`: says what was probably meant, and `where` the known ones are."""
    meant = dict.fromkeys(close for name in unknown if (close := similar(name, known)) is not None)
    question = f", did you mean {', '.join(meant)}?" if meant else ";"
    return UnknownStructure(f"unknown structure {', '.join(unknown)}{question} {where}")


def refuse_standard_layout(folder: Path) -> None:
    """Raises DatasetError for a folder that is a dataset already."""
    if (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir():
        raise DatasetError(
            "already in the standard layout (imagesTr, dataset.json), nothing needs converting",
            file=folder,
            advice="check it with arena_verify_dataset, or go on with arena_plan_and_preprocess",
        )


def convert_cases(
    folder: Path,
    jobs: Sequence[AnyJob],
    convert: Callable[[AnyJob], CaseReport],
    workers: int | None,
    settings: ConversionSettings,
    overwrite: bool,
) -> tuple[dict[str, CaseReport], dict[str, str]]:
    """Converts the cases that are not there yet, and removes those of an earlier conversion that this one doesn't have.

    A damaged file is made again. A whole one that differs from what was written has been corrected by somebody: it is kept.

    Args:
        overwrite: replace a dataset of other settings, and files that somebody has changed.

    Returns:
        reports and failures, each by case; a failure is a sentence.

    Raises:
        DatasetError: the folder holds files that no conversion wrote, or, without `overwrite`, a dataset of other settings, or changed files
            that would be lost. Nothing was written then.
        NoSpace: the disk has too little free space for what is copied, or is full.
    """
    found = _clear(folder, jobs, settings, overwrite)
    reports = {job.identifier: report for job in jobs if (report := _finished(job, found, overwrite)) is not None}
    kept = {case: () if overwrite else earlier.changed for case, earlier in found.items()}
    todo = {job.identifier: job.model_copy(update={"kept": kept[job.identifier]}) for job in jobs if job.identifier not in reports}
    if reports:
        logger.info("%d of %s: converted already and unchanged, kept", len(reports), pluralize(len(jobs), "case"))
    copied = sum(job.copied_bytes(folder.stat().st_dev) for job in todo.values())  # labels compress to next to nothing
    require_space(folder, copied, f"converting {pluralize(len(todo), 'case')}")
    if todo:
        # Without dataset.json the folder is no dataset: nobody reads it while cases are missing or carry old labels.
        (folder / "dataset.json").unlink(missing_ok=True)
    settings.write(folder / SETTINGS_FILE)
    failures = {}
    needs = Needs("convert", workers, memory_bytes=BYTES_PER_WORKER, folders=[folder / part for part in (*FOLDERS, "conversion")])
    for case, result in map_jobs(convert, todo, needs):
        if isinstance(result, ArenaError):
            failures[case] = str(result)
            if not todo[case].kept:
                remove_converted(folder, case)
            if isinstance(result, NoSpace):
                raise result  # all others would fail too
        else:
            reports[case] = result
    return dict(sorted(reports.items())), dict(sorted(failures.items()))


def describe(labels: dict[str, int], objective: Objective, reports: Mapping[str, CaseReport], **more: Any) -> DatasetJson:
    """dataset.json of the converted cases; `more` are its other keys."""
    training = sum(report.part == "Tr" for report in reports.values())
    return DatasetJson(channel_names={"0": "CT"}, labels=labels, numTraining=training, file_ending=ENDING, objective=objective, **more)


def finish_dataset(
    folder: Path, description: DatasetJson, reports: Mapping[str, CaseReport], more: Mapping[str, object], failures: Mapping[str, str]
) -> Path:
    """Writes conversion_report.json and, last, dataset.json.

    Args:
        more: what the report says besides the cases, their voxels and the failures.

    Raises:
        DatasetError: cases failed. The others are converted and usable; the message says how to accept that.
    """
    report = {
        "structures": list(description.structures),
        "training_cases": [case for case, report in reports.items() if report.part == "Tr"],
        "queries": [case for case, report in reports.items() if report.part == "Ts"],
        "voxels": {case: report.voxels for case, report in reports.items()},
        **more,
        "failures": dict(failures),
    }
    write_json(folder / "conversion_report.json", report)
    if description.numTraining:
        description.write(folder / "dataset.json")
    faults = listed(failures.values(), NAMED_FAILURES, "; ") + (", see conversion_report.json" if len(failures) > NAMED_FAILURES else "")
    if failures and not description.numTraining:
        raise DatasetError(f"no training case could be converted: {faults}")
    if not description.numTraining:
        raise DatasetError("no training case", file=folder, advice="at least one annotated CT has to be in the training part of the split")
    if failures:
        raise DatasetError(
            f"{pluralize(len(failures), 'case')} not in {folder.name} ({pluralize(description.numTraining, 'training case')} converted and usable): "
            f"{faults}",
            advice=f"mend what is wrong and run this again, or leave out such cases with --exclude {' '.join(failures)}",
        )
    cases, structures = pluralize(description.numTraining, "training case"), pluralize(len(description.structures), "structure")
    logger.info("%s: %s, %s", folder.name, cases, structures)
    return folder


def _clear(folder: Path, jobs: Sequence[ConversionJob], settings: ConversionSettings, overwrite: bool) -> dict[str, EarlierCase]:
    """Removes what belongs to no case of this conversion, and returns what is there of each case."""
    if not overwrite:
        check_settings(folder, settings)
    stale = stale_cases(folder, jobs)
    found = {case: EarlierCase.of(folder, case) for case in sorted({*stale, *(job.identifier for job in jobs)})}
    if not overwrite:
        refuse_losses(jobs, found, stale)
        if changed := [name for earlier in found.values() for name in earlier.changed]:
            text = "%s: changed since the conversion, kept as it is; to get the converted file back, delete it and run this again"
            logger.warning(text, listed(changed, NAMED_FAILURES))
    for part in (*FOLDERS, "conversion"):
        for path in remove_unfinished(folder / part):
            logger.info("removing %s, left by an interrupted run", path)
    for case in stale:
        remove_converted(folder, case)
        found[case] = EarlierCase(None)
    if stale:
        (folder / "dataset.json").unlink(missing_ok=True)
        cases = pluralize(len(stale), "case")
        logger.info("removed %s of an earlier conversion that this one puts elsewhere or leaves out: %s", cases, listed(stale, NAMED_FAILURES))
    return found


def _finished(job: ConversionJob, found: Mapping[str, EarlierCase], overwrite: bool) -> CaseReport | None:
    earlier = found[job.identifier]
    if earlier.is_done(job) and not (overwrite and earlier.changed):
        return earlier.report
    if earlier.faults:
        logger.info("%s: converted again: %s", job.identifier, "; ".join(earlier.faults))
    return None
