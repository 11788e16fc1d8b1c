"""From tissue HU to a CT image: blur, noise, streaks, table, padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from arena_pipeline.research.phantoms.canvas import Canvas

HU_RANGE = (-1024, 3071)


@dataclass(frozen=True)
class Acquisition:
    """How the scanner sees the body.

    Attributes:
        noise_hu: standard deviation in soft tissue at voxels of 1.5 mm; smaller voxels are noisier.
        kernel_mm: in-plane point spread (standard deviation) of both anatomy and noise.
        streak_hu: strength of horizontal streaks per 100 mm of bone.
        table: a table lies below the patient.
        padding_hu: value outside a circular field of view.
    """

    noise_hu: float
    kernel_mm: float
    streak_hu: float
    table: bool
    padding_hu: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Acquisition:
        return cls(
            noise_hu=float(rng.gamma(3.2, 5.5)),
            kernel_mm=float(rng.uniform(0.45, 1.0)),
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
    _add_noise(image, spacing, settings, rng)
    for axis in (0, 1):
        if settings.kernel_mm / spacing[axis] > 0.3:
            ndimage.gaussian_filter1d(image, settings.kernel_mm / spacing[axis], axis, output=image, truncate=2.5)
    image += streaks
    if circular:
        x, y = (np.linspace(-1, 1, n) * n * s for n, s in zip(image.shape[:2], spacing[:2], strict=True))
        outside = x[:, None] ** 2 + y[None, :] ** 2 > max(x[-1], y[-1]) ** 2
        image[outside] = settings.padding_hu
    return np.clip(np.rint(image), *HU_RANGE).astype(np.int16)


def _add_noise(image: np.ndarray, spacing: np.ndarray, settings: Acquisition, rng: np.random.Generator) -> None:
    """Adds white noise, scaled to have the wanted strength after the kernel has smoothed it."""
    level = settings.noise_hu * float(np.clip((3.4 / np.prod(spacing)) ** 0.22, 0.4, 1.5))
    for axis in (0, 1):
        sigma = settings.kernel_mm / spacing[axis]
        if sigma > 0.3:
            impulse = np.zeros(41)
            impulse[20] = 1
            level /= np.sqrt((ndimage.gaussian_filter1d(impulse, sigma, truncate=2.5) ** 2).sum())
    for plane in image:
        plane += np.float32(level) * rng.standard_normal(plane.shape, dtype=np.float32)


def _streaks(image: np.ndarray, spacing: np.ndarray, settings: Acquisition, rng: np.random.Generator) -> np.ndarray:
    """Photon starvation along x: rows that cross much bone get noise that is nearly constant along the row."""
    bone_mm, inside = np.zeros(image.shape[1:], np.float32), np.zeros(image.shape[1:], bool)
    for plane in image:
        bone_mm += plane > 250
        inside |= plane > -300
    profile = rng.standard_normal(bone_mm.shape, dtype=np.float32)
    strength = settings.streak_hu * np.clip((bone_mm * spacing[0] - 35) / 100, 0, 1.5)
    return (profile * strength * inside).astype(np.float32)[None]


def _add_table(canvas: Canvas, rng: np.random.Generator) -> None:
    """A curved, thin-shelled table behind the back."""
    x, y = (canvas.grid.axis_mm(a).astype(np.float32) for a in (0, 1))
    rows = [np.flatnonzero((plane > -300).any(axis=1)) for plane in canvas.image]
    first = min((int(r[0]) for r in rows if len(r)), default=0)
    gap, hu, bend = float(rng.uniform(2, 12)), float(rng.uniform(-350, 60)), float(rng.uniform(0, 0.0007))
    if first == 0:
        return
    surface = y[first] - gap + bend * x[:, None] ** 2
    for depth in (0.0, 22.0):
        cover = np.clip(0.5 - (np.abs(y[None] - surface + depth) - 1.2) / canvas.edge_mm, 0, 1) * (np.abs(x[:, None]) < 215)
        for i, j in zip(*np.nonzero(cover), strict=True):
            line = canvas.image[i, j]
            line += (line < -900) * np.float32(cover[i, j] * (hu + 1000))
