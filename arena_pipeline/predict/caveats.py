"""What a user should know about a model before trusting what it predicts: folds that are missing, and inputs that it was adapted on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from arena_pipeline.io.filestate import SourceFile, file_sha256
from arena_pipeline.io.images import ImageSource
from arena_pipeline.model.adapter import RECORD, read_adapter_record
from arena_pipeline.model.attempts import was_given_up
from arena_pipeline.model.expected import doubts
from arena_pipeline.model.model_folder import AdaptedModel, AdaptedTask
from arena_pipeline.planning.models import MOST_LEFT_OUT
from arena_pipeline.preprocess.store import read_case_record
from arena_pipeline.words import listed
from arena_pipeline.workspace import fold_folders

logger = logging.getLogger(__name__)


def warn_of_missing_folds(model: AdaptedModel) -> None:
    """Warns of folds that are not averaged, though begun for a task or finished for another one like it; where folds leave scans out, of any."""
    missing: dict[tuple[int, ...], list[str]] = {}
    for task in model.tasks:
        expected = {fold for other in model.tasks if _leaves_out(other) == _leaves_out(task) for fold in other.folds}
        if _leaves_out(task):
            expected |= set(range(min(task.record.shots, MOST_LEFT_OUT)))
        begun = fold_folders(model.path, task.record.task)
        told = {fold for fold, place in begun.items() if (place / RECORD).is_file() or was_given_up(place)}  # `load_model` has said why
        if lacking := tuple(sorted((expected | set(begun)) - set(task.folds) - told)):
            missing.setdefault(lacking, []).append(f"{task.record.task} ({', '.join(map(str, sorted(task.folds)))})")
    for lacking, tasks in missing.items():
        logger.warning(
            "fold %s has no usable adapter, so the average is over the folds in brackets: %s. Finish it with arena_adapt, or choose folds with -f",
            *(", ".join(map(str, lacking)), listed(tasks)),
        )


def _leaves_out(task: AdaptedTask) -> bool:
    """Whether its folds leave scans out, of which there are as many as scans; else they are draws."""
    return len(task.record.support_ids) < task.record.shots


def warn_of_doubts(model: AdaptedModel) -> None:
    """Warns of structures that the foundation as it is, or another method, would find as well."""
    for task in model.tasks:
        for doubt in doubts(model.path / task.record.task, [read_adapter_record(folder) for folder in task.folds.values()]):
            logger.warning("%s", doubt)


def warn_of_support_cases(support_ids: Mapping[str, tuple[str, ...]], inputs: Mapping[str, ImageSource], stored: Path) -> dict[str, tuple[str, ...]]:
    """Says aloud which inputs the model was adapted on: their segmentations look better than those of other scans will.

    Args:
        support_ids: structure -> the cases that its adapters were adapted on.
        stored: the folder of their preprocessed cases, whose records tell a support case under another name by its content.

    Returns:
        `support_ids` with the other names of its cases among them.
    """
    files = _support_files({case for ids in support_ids.values() for case in ids}, stored)
    copies = {case: same for case, source in inputs.items() if (same := _same_file(source, files)) is not None and same != case}
    with_copies = {name: ids + tuple(case for case, same in copies.items() if same in ids) for name, ids in support_ids.items()}
    adapted_on = {case for ids in with_copies.values() for case in ids}
    if seen := [f"{case} (the file of {copies[case]})" if case in copies else case for case in inputs if case in adapted_on]:
        logger.warning(
            "the model was adapted on %s: do not judge it by their segmentations (arena_evaluate leaves them out of its means)", listed(seen)
        )
    return with_copies


def _support_files(cases: Iterable[str], stored: Path) -> dict[str, SourceFile]:
    """Support case -> the CT that it was preprocessed from, of those whose preprocessed cases are there."""
    records = {case: read_case_record(stored, case) for case in sorted(cases)}
    return {case: record.source.image for case, record in records.items() if record is not None and record.source is not None}


def _same_file(source: ImageSource, support: Mapping[str, SourceFile]) -> str | None:
    """The support case whose CT has the content of this one; only files of equal size are read."""
    if not isinstance(source, Path) or not source.is_file():
        return None
    alike = [case for case, file in support.items() if file.bytes == source.stat().st_size]
    digest = file_sha256(source) if alike else None
    return next((case for case in alike if support[case].sha256 == digest), None)
