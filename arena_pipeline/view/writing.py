"""A case to its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import check_same_grid, read_image
from arena_pipeline.predict.outputs import case_files
from arena_pipeline.view.cases import ShownCase
from arena_pipeline.view.facts import NOT_A_DEVICE, PageFacts, RangeFact, ReviewFacts, steps_note, structure_facts
from arena_pipeline.view.volumes import ShownGrid, packed_ct, packed_labels, packed_map

FAINTEST = 0.02  # of the strongest disagreement: below it is clear


class Neighbours(NamedTuple):
    """Addresses of the pages before and after this one."""

    previous: str | None
    next: str | None


class PageContent(NamedTuple):
    """The content of a page: facts, and gzipped volumes by name."""

    facts: PageFacts
    volumes: dict[str, bytes]


def show_case(case: ShownCase, neighbours: Neighbours) -> PageContent:
    """Reads a case for a page that opens from a file; a CT above volumes.MOST_BYTES is thinned out.

    Raises:
        ArenaError: a file can't be read, or the segmentation is on another grid.
    """
    image, segmentation, labels = case.read()
    return page_content(case, image, ShownGrid.of(image.geometry), (segmentation, labels), neighbours)


def page_content(
    case: ShownCase,
    image: Image,
    grid: ShownGrid,
    segmented: tuple[np.ndarray, Mapping[str, int]],
    neighbours: Neighbours,
    review: ReviewFacts | None = None,
) -> PageContent:
    """The facts and the packed volumes. `segmented`: integers (x, y, z) on the CT's grid, and structure -> integer."""
    segmentation, labels = segmented
    colours = {name: case.colour_of(name, value) for name, value in labels.items()}
    reasons = {line.structure: line.reasons for line in case.lines if line.check}
    volumes = {"ct": packed_ct(image.array, grid)} | ({"labels": packed_labels(segmentation, grid)} if labels else {})
    disagreement = _read_disagreement(case, image.geometry, grid)
    if disagreement is not None:
        volumes["disagreement"] = disagreement[1]
    facts = PageFacts(
        shape=grid.shape,
        voxel_ml=grid.geometry.voxel_volume_ml,
        structures=structure_facts(segmentation, image.geometry, grid, labels, colours, reasons),
        disagreement=None if disagreement is None else disagreement[0],
        notes=_notes(case, grid),
        previous=neighbours.previous,
        next=neighbours.next,
        review=review,
    )
    return PageContent(facts, volumes)


def _read_disagreement(case: ShownCase, geometry: Geometry, grid: ShownGrid) -> tuple[RangeFact, bytes] | None:
    """How far the folds disagree, voxel by voxel, where arena_predict --save_uncertainty has left that."""
    file = None if case.segmentation is None else case_files(case.segmentation.parent, case.name).disagreement
    if file is None or not file.is_file():
        return None
    found = read_image(file, warn=False)
    check_same_grid(case.name, geometry, found.geometry, file)
    highest = float(np.max(found.array))
    return RangeFact(low=FAINTEST * highest, high=max(highest, FAINTEST)), packed_map(found.array, grid)


def _notes(case: ShownCase, grid: ShownGrid) -> tuple[str, ...]:
    """For the end of the page."""
    spacing = " x ".join(f"{mm:.3g}" for mm in grid.geometry.spacing_mm)
    lines = [NOT_A_DEVICE, steps_note(grid), f"{' x '.join(map(str, grid.shape))} voxels of {spacing} mm, the patient's right on the left."]
    origin = f"Segmented by {case.origin}." if case.lines and case.origin else None
    return tuple(line for line in (*lines, origin, "Shown by NiiVue.") if line)


def structures_in_words(volumes: Mapping[str, float]) -> str:
    """Structure -> volume in ml, for the list of all cases."""
    return ", ".join(f"{name} {ml:.0f} ml" if ml >= 10 else f"{name} {ml:.2g} ml" for name, ml in volumes.items() if ml > 0).replace("_", " ")
