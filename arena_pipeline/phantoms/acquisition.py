"""From tissue HU to a CT image: blur, noise, streaks, table, padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from arena_pipeline.phantoms.canvas import Canvas

HU_RANGE = (-1024, 3071)


@dataclass(frozen=True)
class Acquisition:
    """How the scanner sees the body.

    Attributes:
        noise_hu: standard deviation in soft tissue of 1.5 mm voxels; thinner voxels are noisier, thicker ones less.
        blur_mm: in-plane point spread (standard deviation).
        grain_mm: correlation length of the noise.
        streak_hu: strength of horizontal streaks per 100 mm of bone.
        table: a table lies below the patient.
        padding_hu: outside a circular field of view.
    """

    noise_hu: float
    blur_mm: float
    grain_mm: float
    streak_hu: float
    table: bool
    padding_hu: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Acquisition:
        return cls(
            noise_hu=float(rng.gamma(4, 3.5)),
            blur_mm=float(rng.uniform(0.4, 1.0)),
            grain_mm=float(rng.uniform(0.5, 1.1)),
            streak_hu=float(rng.gamma(1.5, 5)),
            table=bool(rng.random() < 0.85),
            padding_hu=float(rng.choice([-1000, -1024])),
        )


def acquire(canvas: Canvas, settings: Acquisition, rng: np.random.Generator, circular: bool) -> np.ndarray:
    """The int16 HU image of a finished canvas."""
    image, spacing = canvas.image, np.array(canvas.grid.spacing_mm)
    streaks = _streaks(image, spacing, settings, rng)
    if settings.table:
        _add_table(canvas, rng)
    blur = settings.blur_mm / spacing * np.array([1, 1, 0])
    if blur.max() > 0.3:
        image = ndimage.gaussian_filter(image, blur, truncate=2.5)
    image = image + _noise(image.shape, spacing, settings, rng) + streaks
    if circular:
        x, y = (np.linspace(-1, 1, n) * n * s for n, s in zip(image.shape[:2], spacing[:2], strict=True))
        outside = x[:, None] ** 2 + y[None, :] ** 2 > max(x[-1], y[-1]) ** 2
        image[outside] = settings.padding_hu
    return np.clip(np.rint(image), *HU_RANGE).astype(np.int16)


def _noise(shape: tuple[int, ...], spacing: np.ndarray, settings: Acquisition, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape, dtype=np.float32)
    grain = settings.grain_mm / spacing * np.array([1, 1, 0])
    if grain.max() > 0.3:
        noise = ndimage.gaussian_filter(noise, grain, truncate=2.5, mode="wrap")
        noise /= noise[:: 1 + shape[0] // 64].std()
    level = settings.noise_hu * float(np.clip((3.4 / np.prod(spacing)) ** 0.3, 0.35, 1.6))
    return noise * np.float32(level)


def _streaks(image: np.ndarray, spacing: np.ndarray, settings: Acquisition, rng: np.random.Generator) -> np.ndarray:
    """Photon starvation along x: rows that pass much bone get noise that is nearly constant along the row."""
    bone_mm = (image > 250).sum(axis=0) * spacing[0]
    profile = rng.standard_normal(bone_mm.shape, dtype=np.float32)
    strength = settings.streak_hu * np.clip((bone_mm - 35) / 100, 0, 1.5)
    inside = np.clip((image.max(axis=0) > -300) * 1.0, 0, 1)
    return (profile * strength * inside).astype(np.float32)[None]


def _add_table(canvas: Canvas, rng: np.random.Generator) -> None:
    """A curved, thin-shelled table behind the back."""
    box = canvas.everything()
    body = canvas.image > -300
    rows = np.flatnonzero(body.any(axis=(0, 2)))
    gap, hu, bend = float(rng.uniform(2, 12)), float(rng.uniform(-350, 60)), float(rng.uniform(0, 0.0007))
    if len(rows) == 0 or rows[0] == 0:
        return
    top = box.y.ravel()[rows[0]] - gap + bend * box.x[:, :, 0] ** 2
    for depth in (0.0, 22.0):
        shell = np.abs(box.y[:, :, 0] - (top - depth)) - 1.2
        cover = np.clip(0.5 - shell / canvas.edge_mm, 0, 1) * (np.abs(box.x[:, :, 0]) < 215)
        part = canvas.image < -900
        canvas.image += part * cover[:, :, None].astype(np.float32) * (hu + 1000)
