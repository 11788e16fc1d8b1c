"""Which volumes a prediction is asked for: one file or a folder, with nnU-Net's _0000 or without, or DICOM series."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import RootModel
from pydicom.misc import is_dicom

from arena_pipeline.errors import DatasetError
from arena_pipeline.io import endings
from arena_pipeline.io.atomic import write_json
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, check_case_name, without_slicer_copies
from arena_pipeline.io.dicom import NO_DICOM, CTSeries, find_series, left_out_in_words
from arena_pipeline.io.geometry import broken_link
from arena_pipeline.io.images import ImageSource
from arena_pipeline.io.json_files import read_model
from arena_pipeline.words import pluralize

logger = logging.getLogger(__name__)

SEGMENTATION_ENDING = ".nii.gz"
INPUTS_NAME = "inputs.json"
OTHER_CHANNEL = re.compile(r"(.+)_00(?!00)\d\d")


def split_name(path: Path) -> tuple[str, str] | None:
    """(case identifier, ending) of an image file: the name without its ending and _0000; None for any other file."""
    for ending in endings.IMAGES:
        if path.name.lower().endswith(ending) and len(path.name) > len(ending) and not path.name.startswith("."):
            return path.name[: -len(ending)].removesuffix(CHANNEL_SUFFIX), ending
    return None


def find_inputs(path: Path) -> dict[str, ImageSource]:
    """Case identifier -> image file or DICOM series, sorted by identifier.

    Args:
        path: an image file, or a folder whose images are taken (not those in folders inside it); of a folder without images, the CT series in
            it and in the folders inside it.

    Raises:
        DatasetError: nothing there, no image, two images of one case, or a second channel. Faults of one case alone are reported when its turn comes.
    """
    if path.is_dir() and not _image_files(path) and (series := _dicom_series(path)):
        return series
    found = find_images(path)
    if path.is_dir() and _holds_dicom(path):
        logger.warning("%s: its image files are taken, the DICOM files in it are not; to segment those too, move them to a folder of their own", path)
    return {**found}


def check_inputs(path: Path) -> None:
    """Raises what `find_inputs` would, but for DICOM, whose files take a while to look through."""
    if not path.is_dir() or _image_files(path) or not any(entry.is_dir() or entry.is_file() for entry in path.iterdir()):
        usable_names(find_images(path))


def usable_names(cases: Mapping[str, ImageSource]) -> tuple[dict[str, ImageSource], list[DatasetError]]:
    """The cases that are there and whose names files can be made of, and why others are refused; raises the first reason where none is left."""
    usable, refused = dict[str, ImageSource](), list[DatasetError]()
    for case, source in cases.items():
        try:
            check_case_name(case, Path(case) if isinstance(source, CTSeries) else source)
            if isinstance(source, Path) and (fault := broken_link(source)) is not None:
                raise DatasetError(fault, case=case, file=source, advice="mend or remove it")
            usable[case] = source
        except DatasetError as error:
            refused.append(error)
    if refused and not usable:
        raise refused[0]
    return usable, refused


def find_images(path: Path) -> dict[str, Path]:
    """Case identifier -> image file, as `find_inputs`, without DICOM."""
    _require_there(path)
    files = [path] if path.is_file() else _image_files(path)
    if not files:
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        others = ", ".join(endings.IMAGES[1:])
        raise DatasetError(f"{path}: no image in this folder; expected CASE.nii.gz or CASE_0000.nii.gz (or {others}) or DICOM slices, found {inside}")
    cases: dict[str, Path] = {}
    for file in files:
        name = split_name(file)
        if name is None:  # the file that was named: of a folder only images are taken
            raise DatasetError(f"{path}: not an image this reads; expected one of {', '.join(endings.IMAGES)}, or a folder of DICOM series")
        case = name[0]
        if case in cases:
            found = f"two images of one case, {cases[case].name} and {file.name} in {file.parent}"
            raise DatasetError(found, case=case, advice="remove or rename one")
        cases[case] = file
    _refuse_second_channels(cases)
    return dict(sorted(cases.items()))


def _image_files(folder: Path) -> list[Path]:
    return without_slicer_copies(p for p in folder.iterdir() if split_name(p) and not p.is_dir())


def _dicom_series(folder: Path) -> dict[str, ImageSource]:
    """The CT series below a folder; logs what else is there. Nothing where no file is DICOM.

    Raises:
        DatasetError: DICOM files, but no slices of a CT.
    """
    found, left_out = find_series(folder)
    others = [entry for entry in left_out if entry.kind != NO_DICOM]
    if others and not found:
        raise DatasetError(f"no CT slices, found {left_out_in_words(others)}", file=folder, advice="give the folder of a CT series")
    if found:
        logger.info("%s: %s", folder, "; ".join(map(str, found)))
    if found and left_out:
        logger.warning("%s: no slices of a CT, left out: %s", folder, left_out_in_words(left_out))
    return {series.name: series for series in found}


def _holds_dicom(folder: Path) -> bool:
    """Whether a file in a folder, or in the folders inside it, begins as DICOM; one is enough."""
    files = (file for file in folder.rglob("*") if split_name(file) is None and file.is_file() and os.access(file, os.R_OK))
    return any(map(is_dicom, files))


def _require_there(path: Path) -> None:
    """A link that leads nowhere is told, and not left out."""
    if not path.exists():
        what = "a link that leads nowhere; mend or remove it" if path.is_symlink() else "no such file or folder; -i takes a CT or a folder of CTs"
        raise DatasetError(f"{path}: {what}")


def _refuse_second_channels(cases: dict[str, Path]) -> None:
    for case, file in cases.items():
        other = OTHER_CHANNEL.fullmatch(case)
        if other and other.group(1) in cases:
            first = cases[other.group(1)].name
            seen = f"{file.name} beside {first} in {file.parent}"
            raise DatasetError(f"{other.group(1)}: {seen} looks like a second channel; a CT has one, so keep {first} only")


def take_part(cases: dict[str, ImageSource], part: int, parts: int) -> dict[str, ImageSource]:
    """Every `parts`-th case from number `part` (0 .. parts - 1), so that several machines can share a folder."""
    if not 0 <= part < parts:
        raise DatasetError(f"part {part} of {parts}: -part_id counts from 0 to {parts - 1} (-num_parts minus 1)")
    if part >= len(cases):
        logger.warning("part %d of %d has none of the %s: fewer cases than parts", part, parts, pluralize(len(cases), "CT"))
    return dict(list(cases.items())[part::parts])


def output_files(cases: Sequence[str], output_folder: Path, inputs: Mapping[str, ImageSource]) -> dict[str, Path]:
    """Case -> OUT/CASE.nii.gz. Raises DatasetError where that is an input, or lies among the inputs: it would be taken for a CT."""
    if output_folder.exists() and not output_folder.is_dir():
        raise DatasetError(f"{output_folder}: a file; -o takes a folder, choose another name")
    outputs = {case: output_folder / f"{case}{SEGMENTATION_ENDING}" for case in cases}
    files = [entry for entry in inputs.values() if isinstance(entry, Path)]
    sources = {os.path.realpath(file) for file in files}  # Path.resolve raises where links lead in a circle
    for case, file in outputs.items():
        if os.path.realpath(file) in sources:
            raise DatasetError(f"the segmentation would overwrite the image {file}", case=case, advice="choose another output folder")
    if any(os.path.realpath(file.parent) == os.path.realpath(output_folder) for file in files):
        raise DatasetError(f"{output_folder}: the CTs lie there, segmentations beside them would be taken for CTs; choose another output folder")
    return outputs


class _Inputs(RootModel[dict[str, str]]):
    """inputs.json: case -> what -i named when it was predicted, an absolute path."""


def record_inputs(folder: Path, cases: Iterable[str], input_path: Path) -> None:
    """Writes where the CTs of a folder of predictions are, so that they can be shown together; earlier entries of other cases stay."""
    write_json(folder / INPUTS_NAME, read_inputs(folder) | dict.fromkeys(cases, str(input_path.absolute())))


def read_inputs(folder: Path) -> dict[str, str]:
    """Case -> the file or folder that was named by -i when it was predicted."""
    file = folder / INPUTS_NAME
    return read_model(file, _Inputs, DatasetError, "no such file", "delete it; the next prediction writes it").root if file.is_file() else {}
