"""Which volumes a prediction is asked for: one file or a folder, with nnU-Net's _0000 or without."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from arena_pipeline.errors import DatasetError
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, IMAGE_ENDINGS, check_case_name

SEGMENTATION_ENDING = ".nii.gz"
OTHER_CHANNEL = re.compile(r"(.+)_00(?!00)\d\d")


def split_name(path: Path) -> tuple[str, str] | None:
    """(case identifier, ending) of an image file: the name without its ending and _0000; None for any other file."""
    for ending in IMAGE_ENDINGS:
        if path.name.lower().endswith(ending) and len(path.name) > len(ending) and not path.name.startswith("."):
            return path.name[: -len(ending)].removesuffix(CHANNEL_SUFFIX), ending
    return None


def find_inputs(path: Path) -> dict[str, Path]:
    """Case identifier -> image file, sorted by identifier.

    Args:
        path: an image file, or a folder whose images are taken (not those in folders inside it).

    Raises:
        DatasetError: nothing there, no image, two images of one case, or a second channel.
    """
    _require_there(path)
    if path.is_file() and split_name(path) is None:
        raise DatasetError(f"{path}: not an image this reads; expected one of {', '.join(IMAGE_ENDINGS)}")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if split_name(p) and not p.is_dir())
    if not files:
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        others = ", ".join(IMAGE_ENDINGS[1:])
        raise DatasetError(f"{path}: no image in this folder; expected CASE.nii.gz or CASE_0000.nii.gz (or {others}), found {inside}")
    cases: dict[str, Path] = {}
    for file in files:
        case = _identifier(file)
        if case in cases:
            raise DatasetError(f"{case}: two images of one case, {cases[case].name} and {file.name} in {file.parent}; remove or rename one")
        cases[case] = file
    _refuse_second_channels(cases)
    return dict(sorted(cases.items()))


def _identifier(file: Path) -> str:
    name = split_name(file)
    if name is None:
        raise DatasetError(f"{file}: not an image this reads; expected one of {', '.join(IMAGE_ENDINGS)}")
    _require_there(file)
    check_case_name(name[0], file)
    return name[0]


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


def take_part(cases: dict[str, Path], part: int, parts: int) -> dict[str, Path]:
    """Every `parts`-th case from number `part` (0 .. parts - 1), so that several machines can share a folder."""
    if not 0 <= part < parts:
        raise DatasetError(f"part {part} of {parts}: -part_id counts from 0 to {parts - 1} (-num_parts minus 1)")
    return dict(list(cases.items())[part::parts])


def output_files(cases: Sequence[str], output_folder: Path, inputs: dict[str, Path]) -> dict[str, Path]:
    """Case -> OUT/CASE.nii.gz. Raises DatasetError where that is an input, or lies among the inputs: it would be taken for a CT."""
    if output_folder.exists() and not output_folder.is_dir():
        raise DatasetError(f"{output_folder}: a file; -o takes a folder, choose another name")
    outputs = {case: output_folder / f"{case}{SEGMENTATION_ENDING}" for case in cases}
    sources = {os.path.realpath(file) for file in inputs.values()}  # Path.resolve raises where links lead in a circle
    for case, file in outputs.items():
        if os.path.realpath(file) in sources:
            raise DatasetError(f"{case}: the segmentation would overwrite the image {file}; choose another output folder")
    if any(os.path.realpath(file.parent) == os.path.realpath(output_folder) for file in inputs.values()):
        raise DatasetError(f"{output_folder}: the CTs lie there, segmentations beside them would be taken for CTs; choose another output folder")
    return outputs
