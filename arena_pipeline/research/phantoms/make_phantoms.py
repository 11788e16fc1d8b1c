"""arena_make_phantoms: made-up CTs with exact segmentations, as a raw dataset."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.io.atomic import remove_unfinished, write_json
from arena_pipeline.io.lock import locked
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.records import stage
from arena_pipeline.research.phantoms.field_of_view import RANGES
from arena_pipeline.research.phantoms.layouts import LAYOUTS, LayoutName, PhantomCase, write_meta, write_phantom_case

logger = logging.getLogger(__name__)

RECORD = "phantoms.json"


@plain_arguments
def make_phantoms(
    output: Path,
    number: int,
    layout: LayoutName,
    *,
    seed: int = 0,
    test: int = 0,
    start: int = 1,
    spacing_mm: tuple[float, float, float] | None = None,
    field_of_view: str | None = None,
    size: float = 1.0,
    unannotated_share: float = 0.0,
    workers: int = 1,
) -> list[Path]:
    """Writes `number` phantoms below `output`; those that are there already are kept. How case i looks does not depend on how many are made.

    Args:
        layout: "totalsegmentator" or "flare22".
        test: how many of them are queries; these are the last ones.
        start: number of the first case.
        spacing_mm: (x, y, z) of all; None: it varies (0.7-1 mm pixels and 1.5-5 mm slices, or 1.5 mm isotropic).
        field_of_view: name of the part of the body; None: it varies.
        size: body size, from 0.4 to 1.2: 1 is an adult's, 0.6 a small child's. Bodies still vary around it.
        unannotated_share: how often a TotalSegmentator mask file is left out.

    Returns:
        the CT files, in order of their numbers.

    Raises:
        DatasetError: an impossible number, or `output` holds phantoms made with other settings.
    """
    _check(number, test, start, layout, field_of_view)
    if not 0.4 <= size <= 1.2:
        raise DatasetError(f"cannot make bodies of size {size}", advice="possible: 0.4 to 1.2, where 1 is an adult's")
    if seed < 0 or not 0 <= unannotated_share <= 1 or (spacing_mm is not None and not all(0 < mm < math.inf for mm in spacing_mm)):
        raise DatasetError(
            f"cannot make phantoms with seed {seed}, spacing {spacing_mm} mm and {unannotated_share} of the masks left out: "
            f"the seed must be at least 0, voxel sizes above 0, and the share between 0 and 1"
        )
    looks: dict[str, Any] = {"spacing_mm": spacing_mm, "field_of_view": field_of_view, "size": size, "unannotated_share": unannotated_share}
    cases = [PhantomCase(output, layout, index, seed, index >= start + number - test, **looks) for index in range(start, start + number)]
    with locked(output), stage("make_phantoms"):
        remove_unfinished(output)
        _claim(output, {"layout": layout, "seed": seed, **looks})
        _make_missing(output, cases, workers)
        if layout == "totalsegmentator":
            write_meta(output, cases)
    return [case.image_path for case in cases]


def _make_missing(output: Path, cases: list[PhantomCase], workers: int) -> None:
    missing = {case.identifier: case for case in cases if not case.image_path.is_file()}
    if len(missing) < len(cases):
        logger.info("%s: %d of %d phantoms are there already", output, len(cases) - len(missing), len(cases))
    failed: list[ArenaError] = []
    for name, result in map_jobs(write_phantom_case, missing, Needs("phantoms", workers, folders=_folders(missing.values()))):
        if isinstance(result, ArenaError):
            failed.append(result)
        else:
            logger.debug("%s: written", name)
    if failed:
        raise DatasetError(f"{len(failed)} of {len(missing)} phantoms are not made: " + "; ".join(map(str, failed)))


def _folders(cases: Iterable[PhantomCase]) -> list[Path]:
    """The folders that these cases' files go into."""
    folders = {folder for case in cases for folder in (case.image_path.parent, case.label_path.parent, case.label_path)}
    return sorted(folder for folder in folders if folder.suffix != ".gz")


def _check(number: int, test: int, start: int, layout: str, field_of_view: str | None) -> None:
    if layout not in LAYOUTS:
        raise DatasetError(f"unknown layout {layout}", advice=f"known: {', '.join(LAYOUTS)}")
    if field_of_view is not None and field_of_view not in RANGES:
        raise DatasetError(f"unknown field of view {field_of_view}", advice=f"known: {', '.join(RANGES)}")
    if number < 1 or not 0 <= test <= number or start < 0 or start + number > 10_000:
        raise DatasetError(f"cannot make {number} phantoms from number {start}, {test} of them queries", advice="ids run from 0 to 9999")


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Writes the settings into the folder, or compares them with those that are there."""
    path, wanted = output / RECORD, json.loads(json.dumps(settings))
    if not path.is_file():
        write_json(path, wanted)
        return
    found = {"size": 1.0} | json.loads(path.read_text(encoding="utf-8"))  # folders made by version 0.1 do not record it: all were adults
    different = [f"{key} {found.get(key)} (now {wanted[key]})" for key in wanted if found.get(key) != wanted[key]]
    if different:
        raise DatasetError(
            f"holds phantoms made with {', '.join(different)}", file=output, advice="use another folder, or the same settings to add to it"
        )
