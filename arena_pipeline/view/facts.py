"""The facts on a page besides the volumes, as JSON that static/case.js reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.labels import count_labels, label_boxes
from arena_pipeline.predict.labels import RGB
from arena_pipeline.settings import Frozen
from arena_pipeline.view.volumes import ShownGrid

MOST_STRUCTURES = 255  # the page holds a byte per voxel
NOT_A_DEVICE = "For research. Not a medical device."


class WindowFact(Frozen):
    """What is black and what is white, in HU."""

    name: str
    low: float
    high: float


WINDOWS = (
    WindowFact(name="Soft tissue", low=-160, high=240),
    WindowFact(name="Lung", low=-1350, high=150),
    WindowFact(name="Bone", low=-500, high=1300),
    WindowFact(name="Brain", low=0, high=80),
)


class StructureFact(Frozen):
    """One structure: its integer on the page, colour, volume, a voxel of the page's grid inside it, and why it should be looked at."""

    name: str
    value: int
    rgb: RGB
    ml: float
    at: tuple[int, int, int] | None
    reasons: str


class RangeFact(Frozen):
    """Of a map: what is clear and what has the strongest colour."""

    low: float
    high: float


class ReviewFacts(Frozen):
    """What a page of arena_review shows besides.

    Attributes:
        dataset: where a correction goes.
        annotated: the structures that are ticked at first.
        state: what was saved before, in words.
    """

    dataset: str
    annotated: tuple[str, ...]
    state: str


class PageFacts(Frozen):
    """All facts of a page. `shape` and `voxel_ml` are of the grid that is shown."""

    shape: tuple[int, int, int]
    voxel_ml: float
    windows: tuple[WindowFact, ...] = WINDOWS
    structures: tuple[StructureFact, ...]
    disagreement: RangeFact | None
    notes: tuple[str, ...]
    previous: str | None
    next: str | None
    review: ReviewFacts | None = None


def structure_facts(
    segmentation: np.ndarray, geometry: Geometry, grid: ShownGrid, labels: Mapping[str, int], colours: Mapping[str, RGB], reasons: Mapping[str, str]
) -> tuple[StructureFact, ...]:
    """In the order of `labels`; volumes are of the whole segmentation (x, y, z), on `geometry`'s grid."""
    counts = count_labels(segmentation, minlength=max(labels.values(), default=0) + 1)
    shown = grid.cut(segmentation)
    boxes = label_boxes(shown)
    return tuple(
        StructureFact(
            name=name,
            value=label,
            rgb=colours[name],
            ml=float(counts[label] * geometry.voxel_volume_ml),
            at=_voxel_inside(shown, label, boxes[label]) if label in boxes else None,
            reasons=reasons.get(name, ""),
        )
        for name, label in labels.items()
    )


def _voxel_inside(segmentation: np.ndarray, label: int, box: Sequence[slice]) -> tuple[int, int, int]:
    """In the axial slice that has most of it, the voxel nearest to its middle there."""
    mask = segmentation[tuple(box)] == label
    z = int(mask.sum(axis=(0, 1)).argmax())
    inside = np.argwhere(mask[:, :, z])
    x, y = inside[((inside - inside.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(x) + box[0].start, int(y) + box[1].start, z + box[2].start


def steps_note(grid: ShownGrid) -> str | None:
    """What is left out of a large volume, in words."""
    if grid.is_whole:
        return None
    parts = [f"every {step}{'nd' if step == 2 else 'rd' if step == 3 else 'th'} voxel from {way}"
             for step, way in zip(grid.steps, ("right to left", "front to back", "bottom to top"), strict=True) if step > 1]  # fmt: skip
    return f"A large scan: shown is {', '.join(parts)}. Volumes are those of the whole scan."
