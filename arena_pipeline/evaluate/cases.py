"""The cases of an evaluation, matched by identifier, and their structures, matched by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arena_pipeline.errors import DatasetError, UnknownStructure
from arena_pipeline.evaluate.scores import LabelPair
from arena_pipeline.io import endings
from arena_pipeline.io.dataset import DatasetJson, without_slicer_copies
from arena_pipeline.predict.labels import JSON_NAME, LabelMap
from arena_pipeline.preprocess.masks import masks_file
from arena_pipeline.words import listed, names_to_choose
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)
NAMES_SHOWN = 10
SWAPPED_HINT = f"-ref has a {JSON_NAME}, as predictions have: are -ref and -pred swapped? Else "


@dataclass(frozen=True)
class EvaluationCase:
    """One case, and the structures to score in it.

    Attributes:
        structures: those to score.
        not_annotated: those that were asked for, but that nobody annotated in this case.
        in_support: those whose model was adapted on this case.
    """

    identifier: str
    reference: Path
    prediction: Path
    structures: tuple[str, ...]
    not_annotated: tuple[str, ...]
    in_support: tuple[str, ...] = ()

    @property
    def masks(self) -> Path:
        """The masks on the preprocessed grid that belong to the prediction."""
        return masks_file(self.prediction.parent, case_name(self.prediction))


@dataclass(frozen=True)
class Predictions:
    """The predictions to score.

    Attributes:
        path: the folder, or the one segmentation.
        labels: structure -> integer, without the background.
        support_ids: structure -> the cases that the model was adapted on, as far as they are known.
    """

    path: Path
    labels: dict[str, int]
    support_ids: dict[str, tuple[str, ...]]

    @property
    def folder(self) -> Path:
        return _folder(self.path)


def check_paths(reference: Path, prediction: Path, workspace: Workspace) -> None:
    """Refuses paths that must be mistaken, before scores are written among the reference segmentations.

    Raises:
        DatasetError: one is not there, one is a file and the other a folder, both are the same, or the predictions lie in a raw dataset
            of the workspace.
    """
    for flag, path in (("-ref", reference), ("-pred", prediction)):
        if not path.exists():
            raise DatasetError("no such file or folder", file=path, advice=f"{flag} takes a segmentation or a folder of segmentations")
    if reference.is_file() != prediction.is_file():
        found = "-ref is a file and -pred a folder" if reference.is_file() else "-ref is a folder and -pred a file"
        raise DatasetError(f"{found} ({reference}, {prediction})", advice="give two files or two folders")
    swapped = SWAPPED_HINT if (_folder(reference) / JSON_NAME).is_file() else ""
    if os.path.realpath(reference) == os.path.realpath(prediction):
        raise DatasetError("-ref and -pred are the same", file=prediction, advice="-pred takes what arena_predict wrote with -o")
    if Path(os.path.realpath(workspace.raw)) in Path(os.path.realpath(prediction)).parents:
        found = "lies in a raw dataset, and scores are written beside the predictions"
        raise DatasetError(found, file=prediction, advice=f"{swapped}-pred takes what arena_predict wrote with -o")


def read_description(reference: Path, dataset_id: int | None, dataset_json: Path | None, workspace: Workspace) -> DatasetJson:
    """dataset.json of the given number, or the given file, or else the one beside the reference folder.

    Raises:
        DatasetError: none is found, or it is invalid.
    """
    if dataset_id is not None and dataset_json is not None:
        raise DatasetError("-d and -djfile may name different label integers", advice="give either -d NUMBER or -djfile FILE, not both")
    if dataset_id is not None:
        return DatasetJson.read(workspace.raw_dataset(workspace.dataset_name(dataset_id)) / "dataset.json")
    if dataset_json is not None:
        return DatasetJson.read(dataset_json)
    beside = _folder(reference.absolute()).parent / "dataset.json"
    if not beside.is_file():
        swapped = SWAPPED_HINT if (_folder(reference) / JSON_NAME).is_file() else ""
        found, advice = f"the names of its labels are unknown (no {beside})", f"{swapped}give the dataset with -d NUMBER or -djfile FILE"
        raise DatasetError(found, file=reference, advice=advice)
    return DatasetJson.read(beside)


def read_predictions(path: Path, description: DatasetJson) -> Predictions:
    """What the integers of the predictions mean, and which cases their model has seen.

    From labels.json (written by arena_predict) or dataset.json (nnU-Net copies it there) in their folder; without either, the
    predictions are taken to use the dataset's integers.

    Raises:
        ArenaError: a subclass saying which of the files is unreadable.
    """
    folder = _folder(path)
    if (folder / JSON_NAME).is_file():
        label_map = LabelMap.read(folder)
        return Predictions(path, label_map.structures, label_map.support_ids)
    if (folder / "dataset.json").is_file():
        return Predictions(path, DatasetJson.read(folder / "dataset.json").structures, {})
    logger.info("%s has no %s: its integers are taken to mean what they mean in the dataset", folder, JSON_NAME)
    return Predictions(path, description.structures, {})


def match_labels(predicted: dict[str, int], description: DatasetJson, structures: Sequence[str] | None) -> dict[str, LabelPair]:
    """Structure -> its integers in reference and prediction, matched by name, in the dataset's order.

    Raises:
        UnknownStructure: an asked-for structure is not in the dataset, or not predicted.
        DatasetError: no structure of the dataset is predicted.
    """
    if structures is not None:
        description.require_structures(tuple(structures))
    wanted = [name for name in description.structures if structures is None or name in structures]
    unpredicted = [name for name in wanted if name not in predicted]
    if unpredicted and structures is not None:
        there = names_to_choose(unpredicted, list(predicted), "the predictions have")
        raise UnknownStructure(f"not predicted: {', '.join(unpredicted)}", advice=there)
    if len(unpredicted) == len(wanted):
        there = f"the predictions have: {listed(predicted, NAMES_SHOWN)}"
        raise DatasetError(f"no structure of the dataset ({listed(wanted, NAMES_SHOWN)}) is predicted", advice=there)
    if unpredicted:
        logger.info("not predicted, so not evaluated: %s", listed(unpredicted, NAMES_SHOWN))
    return {name: LabelPair(description.labels[name], predicted[name]) for name in wanted if name in predicted}


def find_pair(reference: Path, predictions: Predictions, description: DatasetJson, structures: Sequence[str]) -> EvaluationCase:
    """The case of two files, whatever their names and whether or not it is a test case."""
    return _case(case_name(reference), reference, predictions, predictions.path, description, structures)


def find_cases(
    reference: Path, predictions: Predictions, description: DatasetJson, structures: Sequence[str], chill: bool, ignore_split: bool
) -> tuple[list[EvaluationCase], list[str]]:
    """The cases of two folders, by identifier, and the identifiers whose prediction is missing (only with `chill`).

    A reference that is no test case of any asked-for structure needs no prediction and is left out.

    Raises:
        DatasetError: no reference, none of them a test case, or a missing prediction without `chill`.
    """
    folder = predictions.folder
    references, predicted = _images_in(reference, (description.file_ending,)), _images_in(folder, endings.IMAGES)
    if not references:
        found, advice = f"no segmentation CASE{description.file_ending} in it", "-ref is the folder of the reference segmentations"
        raise DatasetError(found, file=reference, advice=advice)
    cases, missing = [], []
    for identifier, path in references.items():
        asked = tuple(s for s in structures if ignore_split or is_query(description, identifier, s))
        if not asked:
            continue
        if identifier in predicted:
            cases.append(_case(identifier, path, predictions, predicted[identifier], description, asked))
        elif any(description.is_annotated(identifier, s) for s in asked):
            missing.append(identifier)
    _report_missing(folder, missing, found=len(cases), chill=chill)
    if not cases:
        raise DatasetError(
            f"none of its {len(references)} cases is a test case in dataset.json", file=reference, advice="score all with --ignore_split"
        )
    skipped = len(references) - len(cases) - len(missing)
    if skipped:
        logger.info("%d cases are not among the test cases of dataset.json's split and are left out", skipped)
    extra = sorted(set(predicted) - set(references))
    if extra:
        logger.warning("%s: no reference for %s; they are left out", folder, listed(extra, NAMES_SHOWN))
    return cases, missing


def _case(
    identifier: str, reference: Path, predictions: Predictions, prediction: Path, description: DatasetJson, asked: Sequence[str]
) -> EvaluationCase:
    names = {identifier, case_name(prediction)}
    annotated = tuple(s for s in asked if description.is_annotated(identifier, s))
    not_annotated = tuple(s for s in asked if s not in annotated)
    in_support = tuple(s for s in asked if names & set(predictions.support_ids.get(s, ())))
    return EvaluationCase(identifier, reference, prediction, annotated, not_annotated, in_support)


def warn_of_support(cases: Sequence[EvaluationCase], include: bool) -> None:
    """Warns of cases that the model was adapted on."""
    seen = [case.identifier for case in cases if case.in_support]
    if seen:
        what = "counted all the same (--include_support)" if include else "left out of the means (--include_support counts them)"
        meaning = "the model was adapted on them, so their scores say nothing about unseen scans"
        logger.warning("%d of %d cases are support cases: %s; %s: %s", len(seen), len(cases), meaning, what, listed(seen, NAMES_SHOWN))


def _report_missing(predictions: Path, missing: list[str], found: int, chill: bool) -> None:
    if not missing:
        return
    if not chill or not found:
        hint = "predict them" if not found else "predict them, or evaluate those there are with --chill"
        raise DatasetError(
            f"no prediction of {listed(missing, NAMES_SHOWN)} ({len(missing)} of {len(missing) + found} cases)", file=predictions, advice=hint
        )
    logger.warning("%s: no prediction of %s; evaluated without them", predictions, listed(missing, NAMES_SHOWN))


def is_query(description: DatasetJson, case: str, structure: str) -> bool:
    """Whether dataset.json's split makes this a test case of this structure; without a split for it, every case is."""
    split = description.split.get(structure) or description.split.get("*")
    return split is None or not split.test or case in split.test


def _images_in(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Case -> file, sorted by case. Raises DatasetError for a folder that is not there, or two files of one case."""
    if not folder.is_dir():
        raise DatasetError("no such folder", file=folder)
    found: dict[str, Path] = {}
    for path in without_slicer_copies(folder.iterdir()):
        if not path.name.endswith(tuple(endings)) or path.name.startswith(".") or not path.is_file():
            continue
        identifier = case_name(path)
        if identifier in found:
            raise DatasetError(f"two files, {found[identifier]} and {path.name}", case=identifier, advice="keep the one to evaluate")
        found[identifier] = path
    return dict(sorted(found.items()))


def case_name(path: Path) -> str:
    """The file's name without its ending: CASE.nii.gz is CASE, not CASE.nii."""
    ending = max((e for e in endings.IMAGES if path.name.endswith(e)), key=len, default="")
    return path.name.removesuffix(ending)


def _folder(path: Path) -> Path:
    return path.parent if path.is_file() else path
