"""Saves a prediction that a person has looked at as a training case of a raw dataset: whole or not at all. The older version is kept.

raw/DatasetXXX_Name/replaced/CASE_TIME.nii.gz   the annotation that a correction took the place of
raw/DatasetXXX_Name/replaced/dataset_TIME.json  dataset.json as it was before it
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from arena_pipeline import __version__
from arena_pipeline.errors import DatasetError
from arena_pipeline.fingerprint.models import Fingerprint
from arena_pipeline.io.atomic import remove_unfinished, replace_when_done
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, DatasetJson, RawDataset, check_case_name
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.images import ImageSource, grid_difference, read_image, write_image, write_segmentation
from arena_pipeline.io.lock import locked
from arena_pipeline.io.splits import LARGEST_DRAW
from arena_pipeline.workspace import Workspace, number_of

CORRECTIONS = "corrections"  # in dataset.json: case -> where its annotation comes from
TIME = "%Y-%m-%d_%H-%M-%S-%f"


@dataclass(frozen=True)
class Correction:
    """A segmentation that a person has looked at and found right.

    Attributes:
        segmentation: (x, y, z) integers of the dataset on the CT's grid, with no other structures than `structures`.
        structures: those that are annotated in the whole scan, in the order of dataset.json.
        changed: whether anything was drawn; else the prediction was accepted as it was.
        origin: what made the prediction, in words.
    """

    case: str
    ct: ImageSource
    segmentation: np.ndarray
    structures: Sequence[str]
    changed: bool
    origin: str


@dataclass(frozen=True)
class SavedCorrection:
    """`message` for the person, `command` that adapts again."""

    message: str
    command: str


def save_correction(correction: Correction, workspace: Workspace, dataset_name: str, foundation: str | None = None) -> SavedCorrection:
    """Writes CT and label into imagesTr and labelsTr, and dataset.json's annotated, split and corrections.

    dataset.json is written first: an entry of a case that is not there yet harms nobody. The two images are whole before either gets its name.

    Args:
        foundation: for the command that adapts again; None: the default one.

    Raises:
        ArenaError: another CT has that name in the dataset, or something can't be written.
    """
    folder, case = workspace.raw_dataset(dataset_name), correction.case
    with locked(folder):
        for place in (folder / "labelsTr", folder / "imagesTr"):
            remove_unfinished(place)
        raw, _ = RawDataset.survey(folder)
        image = read_image(correction.ct, warn=False)
        label, ct = folder / "labelsTr" / f"{case}{raw.json.file_ending}", folder / "imagesTr" / f"{case}{CHANNEL_SUFFIX}{raw.json.file_ending}"
        check_case_name(case, ct)
        if ct.exists():
            _require_same_ct(case, image, ct)
        time = datetime.now().astimezone()
        older = workspace.replaced(dataset_name)
        kept = older / f"{case}_{time:{TIME}}{raw.json.file_ending}" if label.exists() else None
        for source, copy in ((folder / "dataset.json", older / f"dataset_{time:{TIME}}.json"), (label, kept)):
            if copy is not None:
                with replace_when_done(copy) as temporary:
                    shutil.copyfile(source, temporary)
        entry = {
            "saved": time.isoformat(timespec="seconds"),
            "made_by": correction.origin,
            "changed_by_hand": correction.changed,
            "structures": list(correction.structures),
            "replaced": None if kept is None else kept.name,
            "arena_pipeline": __version__,
        }
        description = _with_case(raw, correction, entry)
        with ExitStack() as whole:
            if not ct.exists():
                _copy(correction.ct, image, whole.enter_context(replace_when_done(ct)), raw.json.file_ending)
            write_segmentation(whole.enter_context(replace_when_done(label)), correction.segmentation, image.geometry)
            description.write(folder / "dataset.json")
    seen = [name for name in correction.structures if (correction.segmentation == description.labels[name]).any()]
    shots = _shots(workspace, dataset_name, RawDataset.survey(folder)[0], seen, case)
    some = [] if set(seen) == set(description.structures) else seen
    return SavedCorrection(_message(raw, correction, kept), _command(workspace, dataset_name, foundation, some, shots))


def _require_same_ct(case: str, image: Image, there: Path) -> None:
    found = read_image(there, warn=False)
    if grid_difference(image.geometry, found.geometry) is not None or not np.array_equal(image.array, found.array):
        raise DatasetError("another CT has this name in the dataset", case=case, file=there, advice="rename one of them, and predict again")


def _with_case(raw: RawDataset, correction: Correction, entry: Mapping[str, Any]) -> DatasetJson:
    """dataset.json with the case: a whole annotation has no entry under `annotated`, and no query's name stays among the queries of a split."""
    case, content = correction.case, raw.json.model_dump()
    annotated = {name: structures for name, structures in content["annotated"].items() if name != case}
    if set(correction.structures) < set(raw.json.structures):
        annotated[case] = tuple(correction.structures)
    content["annotated"] = annotated
    content["numTraining"] = len({*raw.training, case})
    for structure, split in content["split"].items():
        if structure == "*" or structure in correction.structures:
            split["train"] = tuple(dict.fromkeys((*split["train"], case)))
        split["test"] = tuple(name for name in split["test"] if name != case)
    content[CORRECTIONS] = {**content.get(CORRECTIONS, {}), case: dict(entry)}
    return DatasetJson.model_validate(content)


def _copy(source: ImageSource, image: Image, target: Path, ending: str) -> None:
    """The file itself where it is one of the dataset's kind, else its volume."""
    if isinstance(source, Path) and source.is_file() and source.name.endswith(ending):
        shutil.copyfile(source, target)
    else:
        write_image(target, image)


def _shots(workspace: Workspace, dataset_name: str, raw: RawDataset, structures: Sequence[str], case: str) -> int:
    """How many cases each of `structures`, which `case` has, can be adapted on now; of older cases the fingerprint knows which have them."""
    fingerprint = Fingerprint.read_if_valid(workspace.fingerprint(dataset_name))
    known = {} if fingerprint is None else fingerprint.structures
    held_out = {name for split in raw.json.split.values() for name in split.test}
    numbers = []
    for structure in structures:
        absent = set(known[structure].annotated_cases) - {*known[structure].non_empty_cases, case} if structure in known else set()
        numbers.append(sum(name not in held_out | absent and raw.json.is_annotated(name, structure) for name in raw.training))
    return min(min(numbers, default=1), LARGEST_DRAW - 1)


def _message(raw: RawDataset, correction: Correction, kept: Path | None) -> str:
    what = "The correction is" if correction.changed else "Accepted as it is, and"
    parts = [f"{what} a training case of {raw.folder.name} now ({correction.case})."]
    if kept is not None:
        parts.append(f"The annotation before it is kept as {kept.parent.name}/{kept.name}.")
    if correction.case in raw.queries:
        parts.append("It is among the queries in imagesTs too: take it out there, since scores on it say nothing any more.")
    return " ".join(parts)


def _command(workspace: Workspace, dataset_name: str, foundation: str | None, structures: Sequence[str], shots: int) -> str:
    number, chosen = number_of(dataset_name), [] if foundation is None else ["-foundation", foundation]
    prepare = workspace.command("arena_plan_and_preprocess", "-d", number, *chosen)
    some = ["--structures", *structures] if structures else []
    return f"{prepare}\n{workspace.command('arena_adapt', '-d', number, *chosen, '-shots', shots, *some, '--overwrite')}"
