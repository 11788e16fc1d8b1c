"""Which part of the body a scan covers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena_pipeline.phantoms.body import CAVITY, OUTER
from arena_pipeline.phantoms.canvas import Grid
from arena_pipeline.phantoms.frame import Frame
from arena_pipeline.phantoms.subject import Subject


@dataclass(frozen=True)
class FieldOfView:
    """A scan's extent.

    Attributes:
        z_mm: lower and upper end in canonical mm (0: L1/L2, about -310: ischium, 330: lung apex).
        margin_mm: room beside the skin in-plane; negative crops into the body.
        circular: everything outside the largest circle in-plane is padded.
    """

    z_mm: tuple[float, float]
    margin_mm: float = 15.0
    circular: bool = False

    @classmethod
    def named(cls, name: str) -> FieldOfView:
        return cls(RANGES[name])

    @classmethod
    def random(cls, rng: np.random.Generator) -> FieldOfView:
        """Mostly abdomen scans, as the datasets are; some chests, whole torsos and odd blocks."""
        name = str(rng.choice(["torso", "abdomen_pelvis", "abdomen", "chest", "chest_abdomen", "block"], p=[0.18, 0.3, 0.22, 0.07, 0.13, 0.1]))
        if name == "block":
            middle, height = rng.uniform(-120, 200), rng.uniform(120, 260)
            low, high = middle - height / 2, middle + height / 2
        else:
            low, high = np.array(RANGES[name]) + rng.normal(0, 18, 2)
        margin = float(rng.uniform(-25, 0)) if rng.random() < 0.12 else float(rng.uniform(3, 45))
        return cls((float(low), float(high)), margin, bool(rng.random() < 0.2))

    def grid(self, rng: np.random.Generator, subject: Subject, frame: Frame, spacing_mm: tuple[float, float, float]) -> Grid:
        """The voxel grid that covers this field of view of a person."""
        scale = frame.scale
        z = np.linspace(self.z_mm[0], self.z_mm[1], 40)
        grown = max(0.0, subject.visceral - 0.35)
        fat = subject.fat_mm + 8
        half_width = (np.interp(z, OUTER[:, 0], OUTER[:, 1]).max() + 26 * grown + 1.5 * fat * 0.8) * scale[0] + self.margin_mm
        front = (np.interp(z, OUTER[:, 0], OUTER[:, 2]).max() + 62 * grown + 1.2 * fat) * scale[1] + self.margin_mm
        back = (np.interp(z, OUTER[:, 0], OUTER[:, 3]).min() - 1.3 * fat) * scale[1] - self.margin_mm - 25
        if subject.arms_down and self.margin_mm > 0:
            half_width += 30
        low = np.array([-half_width, back, self.z_mm[0] * scale[2]]) + rng.normal(0, [4, 4, 0])
        high = np.array([half_width, front, self.z_mm[1] * scale[2]])
        shape = np.maximum(np.ceil((high - low) / spacing_mm), 8).astype(int)
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), spacing_mm, (float(low[0]), float(low[1]), float(low[2])))


RANGES: dict[str, tuple[float, float]] = {
    "torso": (-320.0, 345.0),
    "abdomen_pelvis": (-305.0, 140.0),
    "abdomen": (-110.0, 150.0),
    "chest": (60.0, 345.0),
    "chest_abdomen": (-100.0, 340.0),
}
__all__ = ["CAVITY", "RANGES", "FieldOfView"]
