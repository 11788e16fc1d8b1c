"""A folder of segmentations, as arena_predict writes it: room on its disk, what its segmentations mean, and what an earlier run left in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from arena_pipeline.errors import DatasetError, ImageError, PlansError
from arena_pipeline.io.atomic import remove_unfinished
from arena_pipeline.io.damage import damage
from arena_pipeline.io.images import ImageSource, check_same_grid, estimated_voxels, read_geometry, read_segmentation
from arena_pipeline.io.lock import locked
from arena_pipeline.io.space import require_space
from arena_pipeline.predict.inputs import INPUTS_NAME, SEGMENTATION_ENDING
from arena_pipeline.predict.labels import ITK_SNAP_NAME, JSON_NAME, LabelMap
from arena_pipeline.predict.preview import PREVIEW_FOLDER
from arena_pipeline.predict.probabilities import SUFFIX
from arena_pipeline.predict.review import REVIEW_NAME
from arena_pipeline.preprocess.masks import masks_file
from arena_pipeline.records import stage
from arena_pipeline.words import listed, pluralize

logger = logging.getLogger(__name__)

SEGMENTATION_BYTES_PER_VOXEL = 0.002  # compressed; these two are low, so that nobody is refused wrongly
PROBABILITY_BYTES_PER_VOXEL = 0.02  # and structure, compressed
NAMES_SHOWN = 5
EVALUATION_FILES = ("summary.json", "metrics.csv", "summary_published.json", "metrics_published.csv")
"""What arena_evaluate leaves in a folder of predictions."""


class CaseFiles(NamedTuple):
    """All that a folder of predictions may hold of one case."""

    segmentation: Path
    dicom_seg: Path
    rtstruct: Path
    slicer: Path
    probabilities: Path
    masks: Path
    preview: Path
    entropy: Path
    disagreement: Path


def case_files(folder: Path, case: str) -> CaseFiles:
    """Where they lie."""
    return CaseFiles(
        segmentation=folder / f"{case}{SEGMENTATION_ENDING}",
        dicom_seg=folder / f"{case}.seg.dcm",
        rtstruct=folder / f"{case}.rtstruct.dcm",
        slicer=folder / f"{case}.seg.nrrd",
        probabilities=folder / f"{case}{SUFFIX}",
        masks=masks_file(folder, case),
        preview=folder / PREVIEW_FOLDER / f"{case}.png",
        entropy=folder / "uncertainty" / f"{case}_entropy.nii.gz",
        disagreement=folder / "uncertainty" / f"{case}_disagreement.nii.gz",
    )


def remove_outputs(folder: Path, case: str) -> None:
    """Removes what an earlier run left of a case, and the scores of the folder, which included it."""
    left = [path for path in case_files(folder, case) if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    if left:
        for name in EVALUATION_FILES:
            (folder / name).unlink(missing_ok=True)


def require_same_meaning(folder: Path, label_map: LabelMap) -> None:
    """Raises PlansError where the commands that are at work in the folder make other segmentations than this one would."""
    known = LabelMap.read(folder)
    if differences := _differences(known, label_map):
        advice = "choose another output folder, or wait until that has ended"
        raise PlansError(f"another command is predicting into it otherwise: {differences}", file=folder, advice=advice)


def require_same_outputs(folder: Path, at_work: Mapping[str, bool | None], own: Mapping[str, bool | None]) -> None:
    """Raises PlansError where the commands that are at work write other files for each case: some cases would lack a file."""
    words = {True: "yes", False: "no", None: "where it can be"}
    if different := [f"{name} {words[at_work[name]]}, now {words[wanted]}" for name, wanted in own.items() if at_work[name] != wanted]:
        advice = "give both commands the same options, choose another output folder, or wait until that has ended"
        raise PlansError(f"another command is predicting into it with other outputs: {'; '.join(different)}", file=folder, advice=advice)


def require_one_meaning(folder: Path, label_map: LabelMap, cases: Collection[str], keep: bool = False) -> None:
    """Makes sure that labels.json holds for every segmentation in the folder, before the first one is written.

    Where all that lies there was made by something else and is of `cases`, it is removed: the run would replace it.

    Args:
        label_map: what the segmentations of this run mean, and what makes them.
        cases: those that the run writes.
        keep: whether finished ones of them stay.

    Raises:
        PlansError: something else made segmentations that would stay, or nobody knows what made them.
    """
    there = segmentations(folder)
    known = LabelMap.read_if_whole(folder)
    if not there or (known is not None and (known.labels, known.source) == (label_map.labels, label_map.source)):
        return
    staying = sorted(there if keep else there - set(cases))
    if not staying:
        made = "by an earlier run" if known is None else f"otherwise: {_differences(known, label_map)}"
        logger.info("%s: replacing %s made %s", folder, pluralize(len(there), "segmentation"), made)
        for name in there:
            remove_outputs(folder, name)
        for name in (JSON_NAME, ITK_SNAP_NAME):
            (folder / name).unlink(missing_ok=True)
        return
    advice = f"choose another output folder, or {'leave out --continue_prediction to make them anew' if keep else 'move away what lies there'}"
    few = listed(staying, 3)
    if known is None:
        state = "a damaged" if (folder / JSON_NAME).is_file() else "no"
        found = f"its segmentations ({few}) have {state} {JSON_NAME} beside them, which says what made them"
        raise PlansError(found, file=folder, advice=f"put it back, {advice}")
    raise PlansError(f"its segmentations ({few}) were made otherwise: {_differences(known, label_map)}", file=folder, advice=advice)


def _differences(there: LabelMap, now: LabelMap) -> str:
    """In words what made the segmentations and what their integers mean, where that is not as it is now."""
    then, today = (one.source | {f"integer of {name}": str(label) for name, label in one.labels.items()} for one in (there, now))
    differing = [f"{key} {then.get(key, 'none')}, now {today.get(key, 'none')}" for key in {**then, **today} if then.get(key) != today.get(key)]
    return listed(differing, NAMES_SHOWN, "; ")


def write_segmentations(folder: Path, label_map: LabelMap, cases: Collection[str], work: str, write: Callable[[str, Path], None]) -> dict[str, Path]:
    """Case -> CASE.nii.gz, each written by `write` in place of what an earlier run left of the case, and labels.json, which tells what they mean.

    Args:
        work: the stage in the record of the command.

    Raises:
        PlansError: as `require_one_meaning`. FolderInUse: another command writes there.
    """
    written = dict[str, Path]()
    with locked(folder), tqdm(cases, unit="case", disable=None) as bar:
        require_one_meaning(folder, label_map, cases)
        for case in bar:
            bar.set_description(case)
            with stage(work):
                remove_outputs(folder, case)
                label_map.write(folder)
                write(case, written.setdefault(case, case_files(folder, case).segmentation))
    return written


def segmentations(folder: Path) -> set[str]:
    """The cases that have a segmentation there."""
    return {path.name[: -len(SEGMENTATION_ENDING)] for path in folder.glob(f"*{SEGMENTATION_ENDING}") if not path.name.startswith(".")}


def remove_unfinished_tables(folder: Path) -> None:
    """Removes what a killed run left half-written of the files about all cases; nobody else is at work in the folder."""
    remove_unfinished(folder, (JSON_NAME, ITK_SNAP_NAME, INPUTS_NAME, REVIEW_NAME))


def remove_left_unfinished(folder: Path, cases: Sequence[str]) -> None:
    """Removes what a killed run left half-written of these cases, which nobody else is at."""
    names: dict[Path, list[str]] = {}
    for file in (file for case in cases for file in case_files(folder, case)):
        names.setdefault(file.parent, []).append(file.name)
    for place, there in names.items():
        for path in remove_unfinished(place, there):
            logger.info("removing %s, left by an interrupted run", path)


def require_room(folder: Path, inputs: Mapping[str, ImageSource], outputs: Mapping[str, Path], probability_maps: int) -> None:
    """Checks the disk for the segmentations that are not there yet, each with so many maps of probabilities.

    Raises:
        NoSpace: they do not fit.
    """
    missing = [source for case, source in inputs.items() if not os.path.isfile(outputs[case])]  # Path.is_file raises for a name that is too long
    each = SEGMENTATION_BYTES_PER_VOXEL + PROBABILITY_BYTES_PER_VOXEL * probability_maps
    require_space(folder, int(each * sum(map(estimated_voxels, missing))), f"predicting {pluralize(len(missing), 'case')}")


def is_complete(case: str, source: ImageSource, output: Path, others: Sequence[Path]) -> bool:
    """Whether the segmentation and everything else asked for is there and whole: files are read, not just looked at."""
    if not all(path.is_file() for path in (output, *others)):
        return False
    try:
        check_same_grid(case, read_geometry(source), read_segmentation(output).geometry, output)
    except (ImageError, DatasetError) as error:
        logger.info("%s: predicted again: %s", case, error.without_advice)
        return False
    damaged = [reason for path in others if (reason := damage(path)) is not None]
    if damaged:
        logger.info("%s: predicted again: %s", case, "; ".join(damaged))
    return not damaged
