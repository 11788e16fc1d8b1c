"""One phantom: a random person painted organ by organ, then imaged by a simulated scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.research.phantoms import abdomen, body, digestive, muscles, skeleton, thorax, vessels
from arena_pipeline.research.phantoms.acquisition import Acquisition, acquire
from arena_pipeline.research.phantoms.canvas import Canvas
from arena_pipeline.research.phantoms.field_of_view import FieldOfView
from arena_pipeline.research.phantoms.frame import Frame
from arena_pipeline.research.phantoms.heart import paint_heart
from arena_pipeline.research.phantoms.intensity import Palette, Phase
from arena_pipeline.research.phantoms.scene import Scene
from arena_pipeline.research.phantoms.structures import PHANTOM_STRUCTURES
from arena_pipeline.research.phantoms.subject import Subject


@dataclass(frozen=True, eq=False)
class Phantom:
    """A made-up CT with its exact segmentation.

    Attributes:
        image: int16 HU, (x, y, z), RAS.
        segmentation: uint8 on the image's grid; ids of PHANTOM_STRUCTURES.
        structures: structure -> label id.
    """

    image: Image
    segmentation: np.ndarray
    structures: dict[str, int]


def make_phantom(
    rng: np.random.Generator,
    spacing_mm: tuple[float, float, float],
    field_of_view: FieldOfView | None = None,
    phase: Phase | None = None,
    size: float = 1.0,
    variation: float = 0.3,
) -> Phantom:
    """A random person on a grid of this spacing.

    The anatomy depends on `rng` only, not on the spacing: the same seed gives the same person at 4 mm and at 0.8 mm.

    Args:
        rng: a fresh generator (np.random.default_rng(seed)) makes the phantom reproducible.
        spacing_mm: (x, y, z).
        field_of_view: what the scan covers; random when None.
        phase: contrast phase; random when None.
        size: body size, around which it varies; 1 is an adult's, 0.6 a small child's.
        variation: strength of the random HU offset of each tissue; 0: tissues vary as in real CTs.
    """
    subject_rng, view_rng, anatomy_rng, scanner_rng = rng.spawn(4)
    subject = Subject.random(subject_rng, phase, size)
    frame = Frame.random(subject_rng, np.array(subject.scale), 1.0)
    palette = Palette.random(subject_rng, subject.phase, variation)
    view = field_of_view or FieldOfView.random(view_rng)
    grid = view.grid(view_rng, subject, frame, spacing_mm)
    canvas = Canvas(grid, anatomy_rng)
    scene = Scene(canvas, frame, subject, palette)
    paint_anatomy(scene, anatomy_rng)
    image = acquire(canvas, Acquisition.random(scanner_rng), scanner_rng, view.circular)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = grid.origin_mm
    return Phantom(Image(image, Geometry(grid.shape, affine)), canvas.labels, dict(PHANTOM_STRUCTURES))


def paint_anatomy(scene: Scene, rng: np.random.Generator) -> None:
    """Paints part by part; later ones cover earlier ones. Each has a random stream of its own, so that changing one leaves the others alone."""
    streams = iter(rng.spawn(32))
    body.build_fields(scene.canvas, scene.frame, scene.subject, next(streams))
    body.paint_body(scene.canvas, scene.palette, scene.subject)
    for painter in (
        muscles.paint_deep_muscles,
        thorax.paint_lungs,
        skeleton.paint_shoulders,
        skeleton.paint_ribs,
        skeleton.paint_spine,
        skeleton.paint_pelvis,
        vessels.paint_mesentery,
        digestive.paint_small_bowel,
        digestive.paint_colon,
        digestive.paint_bladder,
        abdomen.paint_liver,
        digestive.paint_stomach,
        abdomen.paint_spleen,
        abdomen.paint_kidneys,
        abdomen.paint_adrenals,
        vessels.paint_vena_cava,
        digestive.paint_duodenum,
        abdomen.paint_pancreas,
        vessels.paint_portal_vein,
        abdomen.paint_gallbladder,
        paint_heart,
        thorax.paint_airways,
        thorax.paint_esophagus,
        vessels.paint_aorta,
    ):
        painter(scene, next(streams))
