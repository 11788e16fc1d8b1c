"""What varies between people: build, fat, age, breath, contrast phase, operations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena_pipeline.research.phantoms.intensity import PHASES, Phase


@dataclass(frozen=True)
class Subject:
    """One person. Lengths in canonical mm.

    Attributes:
        scale: body size along x, y, z relative to the canonical torso.
        fat_mm: thickness of the subcutaneous fat at the flank.
        visceral: 0 (hardly any fat inside the abdomen) to 1 (a large belly).
        age: 0 young, 1 old: calcified vessels, less dense bone, fatty muscle.
        breath_mm: shift of the diaphragm's domes, positive up.
        arms_down: the upper arms lie beside the body.
        no_gallbladder, missing_kidney: removed by an operation (kidney: "left", "right" or None).
    """

    female: bool
    scale: tuple[float, float, float]
    fat_mm: float
    visceral: float
    age: float
    breath_mm: float
    phase: Phase
    arms_down: bool
    no_gallbladder: bool
    missing_kidney: str | None

    @classmethod
    def random(cls, rng: np.random.Generator, phase: Phase | None = None, size: float = 1.0) -> Subject:
        female = bool(rng.random() < 0.5)
        size *= (0.95 if female else 1.02) * np.exp(rng.normal(0, 0.04))
        visceral = float(rng.beta(1.6, 2.0))
        fat = float(np.clip(rng.gamma(3.2, 5.5) * (1.25 if female else 0.9) + 6 * visceral, 3, 65))
        drawn: Phase = PHASES[int(rng.choice(4, p=[0.3, 0.18, 0.4, 0.12]))]
        missing = rng.random()
        return cls(
            female=female,
            scale=tuple(float(v) for v in size * np.array([1.0, 1.04, 1.0]) * np.exp(rng.normal(0, [0.04, 0.06, 0.035]))),  # type: ignore[arg-type]
            fat_mm=fat,
            visceral=visceral,
            age=float(rng.random()),
            breath_mm=float(rng.normal(0, 12)),
            phase=phase or drawn,
            arms_down=bool(rng.random() < 0.12),
            no_gallbladder=bool(rng.random() < 0.06),
            missing_kidney="left" if missing < 0.015 else "right" if missing < 0.03 else None,
        )
