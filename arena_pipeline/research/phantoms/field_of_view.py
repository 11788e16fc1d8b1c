"""Which part of the body a scan covers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena_pipeline.research.phantoms.body import OUTER
from arena_pipeline.research.phantoms.canvas import Grid
from arena_pipeline.research.phantoms.frame import Frame
from arena_pipeline.research.phantoms.subject import Subject


@dataclass(frozen=True)
class FieldOfView:
    """A scan's extent.

    Attributes:
        z_mm: lower and upper end in canonical mm (0: L1/L2, about -310: ischium, 330: lung apex).
        margin_mm: room around the skin in-plane; a negative one cuts into the body.
        circular: everything outside the largest circle in-plane is padded.
        crop_mm: a rectangle (width, depth) inside the body, as in scans reconstructed around one organ; None: the whole section.
        crop_centre_mm: its centre, canonical (x, y).
    """

    z_mm: tuple[float, float]
    margin_mm: float = 15.0
    circular: bool = False
    crop_mm: tuple[float, float] | None = None
    crop_centre_mm: tuple[float, float] = (0.0, 25.0)

    @classmethod
    def named(cls, name: str) -> FieldOfView:
        return cls(RANGES[name])

    @classmethod
    def random(cls, rng: np.random.Generator) -> FieldOfView:
        """Mostly abdominal scans, as in the public datasets; some chests, whole torsos and blocks at any height."""
        name = str(rng.choice(["torso", "abdomen_pelvis", "abdomen", "chest", "chest_abdomen", "block"], p=[0.18, 0.3, 0.22, 0.07, 0.13, 0.1]))
        if name == "block":
            middle, height = rng.uniform(-120, 200), rng.uniform(120, 260)
            low, high = middle - height / 2, middle + height / 2
        else:
            low, high = np.array(RANGES[name]) + rng.normal(0, 18, 2)
        margin = float(rng.uniform(-25, 0)) if rng.random() < 0.12 else float(rng.uniform(3, 45))
        circular, size, centre = bool(rng.random() < 0.2), rng.uniform(160, 270, 2), rng.normal([0, 25], [28, 20])
        if rng.random() < 0.12:
            return cls((float(low), float(high)), 0.0, False, (float(size[0]), float(size[1])), (float(centre[0]), float(centre[1])))
        return cls((float(low), float(high)), margin, circular)

    def grid(self, rng: np.random.Generator, subject: Subject, frame: Frame, spacing_mm: tuple[float, float, float]) -> Grid:
        """The voxel grid that covers this field of view of a person."""
        (x0, x1), (y0, y1) = self._cropped(frame.scale) if self.crop_mm else self._around_body(subject, frame.scale)
        jitter = rng.normal(0, [4, 4, 0])
        low = np.array([x0, y0, self.z_mm[0] * frame.scale[2]]) + jitter
        high = np.array([x1, y1, self.z_mm[1] * frame.scale[2]])
        shape = np.maximum(np.ceil((high - low) / spacing_mm), 8).astype(int)
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), spacing_mm, (float(low[0]), float(low[1]), float(low[2])))

    def _cropped(self, scale: np.ndarray) -> np.ndarray:
        """[[x low, x high], [y low, y high]] in scanner mm."""
        middle, size = np.array(self.crop_centre_mm) * scale[:2], np.array(self.crop_mm)
        return np.stack([middle - size / 2, middle + size / 2], axis=1)

    def _around_body(self, subject: Subject, scale: np.ndarray) -> np.ndarray:
        z = np.linspace(self.z_mm[0], self.z_mm[1], 40)
        width, front, back = (np.interp(z, OUTER[:, 0], OUTER[:, column]) for column in (1, 2, 3))
        grown, fat = max(0.0, subject.visceral - 0.25), subject.fat_mm + 8
        half_width = (width.max() + 30 * grown + 1.2 * fat) * scale[0] + self.margin_mm
        if subject.arms_down and self.margin_mm > 0:
            half_width += 30
        front_mm = (front.max() + 75 * grown + 1.2 * fat) * scale[1] + self.margin_mm
        back_mm = (back.min() - 1.3 * fat) * scale[1] - self.margin_mm - 25
        return np.array([[-half_width, half_width], [back_mm, front_mm]])


RANGES: dict[str, tuple[float, float]] = {
    "torso": (-320.0, 345.0),
    "abdomen_pelvis": (-305.0, 140.0),
    "abdomen": (-110.0, 150.0),
    "chest": (60.0, 345.0),
    "chest_abdomen": (-100.0, 340.0),
}
