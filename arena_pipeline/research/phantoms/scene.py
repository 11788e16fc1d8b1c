"""What every painter of organs needs, in one value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena_pipeline.research.phantoms.canvas import Canvas, Region
from arena_pipeline.research.phantoms.frame import Frame
from arena_pipeline.research.phantoms.intensity import Palette
from arena_pipeline.research.phantoms.shapes import ellipsoid, tube
from arena_pipeline.research.phantoms.structures import PHANTOM_STRUCTURES
from arena_pipeline.research.phantoms.subject import Subject


@dataclass(frozen=True, eq=False)
class Scene:
    """A canvas with the person on it. Points are given in canonical mm; distances and radii are scanner mm."""

    canvas: Canvas
    frame: Frame
    subject: Subject
    palette: Palette

    def tube(self, points: object, radii: object, flatten: tuple[float, float, float] = (1, 1, 1)) -> Region | None:
        return tube(self.canvas, self.frame.to_scanner(np.asarray(points, float)), np.asarray(radii, float) * self.size, flatten)

    def ellipsoid(self, centre: object, radii: tuple[float, float, float], axes: np.ndarray | None = None) -> Region | None:
        scaled = (radii[0] * self.size, radii[1] * self.size, radii[2] * self.size)
        return ellipsoid(self.canvas, self.frame.to_scanner(np.asarray(centre, float))[0], scaled, axes)

    @property
    def size(self) -> float:
        """Mean scanner mm per canonical mm."""
        return float(np.prod(self.frame.scale) ** (1 / 3))

    def roughened(self, region: Region, amplitude_mm: float, noise: str = "noise1", fine_mm: float = 0.0) -> Region:
        """The region with a smoothly bumpy surface."""
        distance = region.distance + amplitude_mm * self.canvas.field(noise, region.box)
        if fine_mm:
            distance += fine_mm * self.canvas.texture("coarse", region.box)
        return Region(region.box, distance)

    def textured(self, region: Region, tissue: str) -> np.ndarray:
        """HU of a tissue with its texture, in the region's box."""
        fine, coarse = self.canvas.texture("fine", region.box), self.canvas.texture("coarse", region.box)
        return self.palette[tissue] + self.palette.amplitude(tissue) * (0.8 * fine + 0.6 * coarse)

    def paint(self, region: Region | None, tissue: str, structure: str | None = None, gap_mm: float = 0.0) -> None:
        """Paints a textured tissue; a positive `gap_mm` first puts a layer of fat that thick around it."""
        if region is None:
            return
        if gap_mm > 0:
            self.canvas.paint(region.grown(gap_mm), self.palette["fat"] + 8.0)
        self.canvas.paint(region, self.textured(region, tissue), PHANTOM_STRUCTURES[structure] if structure else 0)

    def clipped(self, region: Region | None, field: str, offset_mm: float = 0.0) -> Region | None:
        """The part of the region inside a lattice field (grown inward by `offset_mm`)."""
        if region is None:
            return None
        return region.within(self.canvas.field(field, region.box) + np.float32(offset_mm))
