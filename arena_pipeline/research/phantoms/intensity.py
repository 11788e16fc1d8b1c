"""HU of the tissues of one phantom, by contrast phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Phase = Literal["none", "arterial", "portal", "late"]
PHASES: tuple[Phase, ...] = ("none", "arterial", "portal", "late")

# mean HU without contrast, arterial, portal-venous, late; standard deviation between people
TISSUES: dict[str, tuple[tuple[float, float, float, float], float]] = {
    "fat": ((-103, -103, -102, -102), 5),
    "muscle": ((50, 56, 62, 62), 6),
    "skin": ((0, 5, 10, 10), 15),
    "lung": ((-850, -845, -840, -840), 35),
    "aorta": ((42, 335, 155, 125), 4),
    "vena_cava": ((40, 75, 140, 125), 4),
    "portal_vein": ((40, 110, 170, 130), 4),
    "hepatic_vessel": ((38, 75, 160, 125), 4),
    "right_heart": ((41, 210, 150, 125), 5),
    "left_heart": ((42, 330, 155, 125), 5),
    "myocardium": ((44, 105, 110, 95), 6),
    "liver": ((55, 66, 108, 92), 9),
    "spleen": ((46, 130, 118, 98), 6),
    "kidney_cortex": ((32, 165, 185, 165), 6),
    "kidney_medulla": ((29, 65, 155, 175), 6),
    "urine": ((4, 5, 12, 420), 6),
    "pancreas": ((38, 95, 92, 74), 8),
    "adrenal": ((15, 60, 70, 55), 10),
    "gut_wall": ((38, 72, 88, 76), 8),
    "esophagus": ((36, 52, 62, 58), 7),
    "gallbladder": ((9, 9, 10, 12), 7),
    "bowel_fluid": ((18, 20, 24, 24), 9),
    "marrow": ((170, 180, 195, 190), 55),
    "cortical": ((720, 725, 730, 730), 130),
    "cartilage": ((105, 105, 108, 108), 18),
    "disc": ((78, 80, 82, 82), 12),
    "cord": ((32, 34, 36, 36), 6),
    "gas": ((-960, -960, -960, -960), 20),
}
TEXTURE_HU = {"liver": 4.0, "spleen": 4.0, "muscle": 5.0, "fat": 4.5, "pancreas": 10.0, "lung": 22.0, "marrow": 45.0, "gut_wall": 8.0}


@dataclass(frozen=True)
class Palette:
    """The HU means of one phantom and how strongly organs are textured.

    Attributes:
        hu: tissue -> mean HU.
        texture: factor on TEXTURE_HU.
    """

    phase: Phase
    hu: dict[str, float]
    texture: float

    @classmethod
    def random(cls, rng: np.random.Generator, phase: Phase, strength: float) -> Palette:
        """Means drawn around those of TISSUES.

        `strength` adds a random offset to each tissue (domain randomisation): its standard deviation is `strength` times 12 HU, 3 HU for fat and gas.
        """
        column = PHASES.index(phase)
        enhancement = float(np.clip(rng.normal(1.0, 0.2), 0.55, 1.6))
        hu = {}
        for tissue, (means, spread) in TISSUES.items():
            uptake = means[column] - means[0]
            factor = enhancement * float(np.clip(rng.normal(1, 0.1), 0.7, 1.3)) if abs(uptake) > 15 else 1.0
            hu[tissue] = means[0] + uptake * factor + float(np.clip(rng.normal(0, spread), -2.5 * spread, 2.5 * spread))
            hu[tissue] += strength * float(rng.normal(0, 3 if tissue in ("fat", "gas") else 12))
        hu["gas"] = max(hu["gas"], -1000.0)
        if rng.random() < 0.12:  # fatty liver
            hu["liver"] -= float(rng.uniform(15, 45))
        return cls(phase, hu, float(rng.uniform(0.6, 1.4) * (1 + strength)))

    def __getitem__(self, tissue: str) -> float:
        return self.hu[tissue]

    def amplitude(self, tissue: str) -> float:
        """Standard deviation of the tissue's texture in HU."""
        return TEXTURE_HU.get(tissue, 3.0) * self.texture
