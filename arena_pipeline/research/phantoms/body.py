"""Skin, fat, muscle wall and body cavities: profiles along z, turned into smooth distance fields on the lattice."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter

from arena_pipeline.research.phantoms.canvas import Box, Canvas, Region
from arena_pipeline.research.phantoms.frame import Frame
from arena_pipeline.research.phantoms.intensity import Palette
from arena_pipeline.research.phantoms.subject import Subject

# z, half-width, front y, back y of the outer surface of the muscles, in canonical mm
OUTER = np.array([
    [-480, 165, 75, -95], [-330, 168, 78, -112], [-260, 172, 88, -118], [-210, 168, 96, -116], [-160, 158, 106, -106], [-110, 146, 118, -98],
    [-60, 143, 128, -96], [0, 148, 134, -96], [60, 155, 135, -98], [120, 158, 129, -108], [180, 160, 120, -120], [240, 168, 106, -126],
    [280, 178, 90, -122], [310, 178, 72, -112], [335, 140, 60, -98], [360, 75, 50, -82], [430, 62, 45, -70],
], dtype=float)  # fmt: skip
# the same for the inner surface of the body wall and ribs
CAVITY = np.array([
    [-480, 20, 15, -20], [-310, 28, 25, -52], [-280, 44, 46, -82], [-240, 58, 66, -98], [-200, 76, 80, -100], [-160, 108, 94, -82],
    [-110, 128, 106, -62], [-60, 130, 115, -58], [0, 135, 121, -64], [60, 140, 121, -76], [120, 139, 113, -90], [180, 133, 101, -102],
    [240, 115, 78, -104], [280, 90, 47, -92], [310, 62, 18, -74], [332, 34, -5, -56], [350, 12, -20, -38], [430, 6, -10, -20],
], dtype=float)  # fmt: skip
# z, y of the centre of the vertebral bodies
SPINE = np.array([
    [-480, -60], [-270, -62], [-245, -76], [-220, -82], [-190, -68], [-155, -32], [-118, -9], [-84, 2], [-50, 5], [-17, 0], [15, -7], [48, -17],
    [105, -36], [160, -49], [210, -53], [255, -46], [300, -30], [340, -8], [375, 4], [430, 10],
], dtype=float)  # fmt: skip
DIAPHRAGM_PEAK_MM = (132.0, 114.0)  # right, left


def along(table: np.ndarray, z: np.ndarray, column: int = 1) -> np.ndarray:
    """A column of a profile table at heights z, smoothly interpolated."""
    fine = np.arange(table[0, 0], table[-1, 0] + 1)
    values = PchipInterpolator(table[:, 0], table[:, column])(fine).astype(np.float32)
    return values[np.clip(z - fine[0], 0, len(fine) - 1).astype(np.int32)]


def spine_y(z: np.ndarray | float) -> np.ndarray:
    """Canonical y of the vertebral column's centre at height z."""
    return np.interp(z, SPINE[:, 0], SPINE[:, 1])


def build_fields(canvas: Canvas, frame: Frame, subject: Subject, rng: np.random.Generator) -> None:
    """Fills canvas.fields.

    x, y, z: canonical coordinates. spine: y relative to the spine. skin, outer, cavity, thorax, abdomen: signed distances (negative inside).
    above: height above the diaphragm. bump: distance to the spine and the muscles beside it. noise0..2: smooth noise of unit variance.
    """
    x, y, z = frame.canonical_lattice()
    fields = canvas.fields
    noise = _noise(rng, x.shape)
    fields.update({f"noise{i}": n for i, n in enumerate(noise)})
    spine = along(SPINE, z)
    fields["x"], fields["y"], fields["spine"], fields["z"] = x, y, y - spine, z
    squareness = float(rng.uniform(0.2, 0.6))
    outer = _profile_distance(OUTER, x, y, z, subject.visceral, squareness)
    cavity = _profile_distance(CAVITY, x, y, z, subject.visceral, squareness) + noise[0]
    fields["outer"] = _with_legs(outer + noise[1] * 1.2, x, y, z) + 7 * np.exp(-((x / 16) ** 2)) * (y < spine)
    fields["cavity"] = cavity
    fields["skin"] = fields["outer"] - _fat_thickness(subject, x, y, z, noise[1])
    lumbar = np.clip((130 - z) / 100, 0, 1)
    rx, ry = 30 + 34 * lumbar, 50 + 6 * lumbar
    bump_y = y - (spine - 40)
    rho = np.sqrt((x / rx) ** 2 + (bump_y / ry) ** 2) + 1e-3
    fields["bump"] = np.where(z > -180, np.sqrt(x**2 + bump_y**2) * (1 - 1 / rho), 40.0).astype(np.float32)
    fields["above"] = _above_diaphragm(x, y, z, np.minimum(-cavity, fields["bump"]), subject, rng)
    fields["thorax"] = (2 - fields["above"]).astype(np.float32)
    fields["abdomen"] = np.maximum(np.maximum(cavity + 2, 2 - fields["bump"]), fields["above"] + 3).astype(np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    out = []
    for sigma in (2.5, 1.6, 1.6):
        n = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
        out.append(n / n.std())
    return out


def _profile_distance(table: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, visceral: float, squareness: float) -> np.ndarray:
    """Radial distance to a rounded cross-section; its size follows the table and grows with the fat inside the belly."""
    belly = (visceral - 0.25) * np.exp(-(((z + 35) / 105) ** 2))
    width = along(table, z, 1) + 30 * belly
    front = along(table, z, 2) + 75 * belly
    back = along(table, z, 3)
    yc, half = (front + back) / 2, (front - back) / 2
    u2, v2, r = (x / width) ** 2, ((y - yc) / half) ** 2, np.sqrt(x**2 + (y - yc) ** 2)
    rho = (1 - squareness) * np.sqrt(u2 + v2) + squareness * np.sqrt(np.sqrt(u2**2 + v2**2)) + 1e-3
    return (r * (1 - 1 / rho)).astype(np.float32)


def _with_legs(outer: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    legs = np.sqrt((np.abs(x) - 92) ** 2 + (y + 8) ** 2) - 78
    share = np.clip((-275 - z) / 50, 0, 1)
    return (1 - share) * outer + share * legs


def _fat_thickness(subject: Subject, x: np.ndarray, y: np.ndarray, z: np.ndarray, noise: np.ndarray) -> np.ndarray:
    hip = np.exp(-(((z + 190) / 90) ** 2))
    front = np.clip(y / 110, -1, 1)
    share = 0.9 + (0.9 if subject.female else 0.45) * hip * np.clip(1 - front, 0, 1.5) + 0.35 * np.exp(-(((z + 90) / 70) ** 2)) * np.clip(front, 0, 1)
    share = share + 0.7 * np.exp(-(((z + 75) / 65) ** 2)) * np.clip(-y / 90, 0, 1) * np.clip(np.abs(x) / 60 - 0.2, 0, 1)
    share = share * np.clip((400 - z) / 120, 0.35, 1) * np.where(z > 120, 0.75, 1.0)
    thickness = 3 + subject.fat_mm * share * (1 + 0.06 * noise)
    if subject.female:
        breast = np.exp(-(((np.abs(x) - 78) / 45) ** 2) - ((z - 175) / 48) ** 2) * np.clip(y / 60, 0, 1)
        thickness = thickness + breast * (22 + 0.9 * subject.fat_mm)
    return thickness.astype(np.float32)


def _above_diaphragm(x: np.ndarray, y: np.ndarray, z: np.ndarray, depth: np.ndarray, subject: Subject, rng: np.random.Generator) -> np.ndarray:
    right, left = (p + subject.breath_mm + rng.normal(0, 6) for p in DIAPHRAGM_PEAK_MM)
    side = 1 / (1 + np.exp(-x / 18))
    peak = left + (right - left) * side - 10 * np.exp(-((x / 30) ** 2))
    rim = 30 + 0.45 * (y + 60) + 0.25 * subject.breath_mm  # lowest at the back
    inward = np.clip(depth / (rng.uniform(58, 90) * (1 + 0.4 * np.clip(-y / 80, 0, 1))), 0, 1)
    steepness = rng.uniform(0.2, 0.7)
    dome = rim + (peak - rim) * (steepness * np.sqrt(1 - (1 - inward) ** 2) + (1 - steepness) * inward)
    return (z - dome).astype(np.float32)


def paint_body(canvas: Canvas, palette: Palette, subject: Subject) -> None:
    """Skin, subcutaneous fat, muscle with fatty streaks, and the fat of the body cavities, on the whole grid."""
    for block in canvas.blocks():
        _paint_block(canvas, block, palette, subject)


def _paint_block(canvas: Canvas, block: Box, palette: Palette, subject: Subject) -> None:
    skin = canvas.field("skin", block)
    if skin.min() > canvas.edge_mm:
        return
    outer = canvas.field("outer", block)
    fine, coarse = canvas.texture("fine", block), canvas.texture("coarse", block)
    canvas.paint(Region(block, skin), palette["skin"])
    fat = palette["fat"] + palette.amplitude("fat") * (0.7 * fine + 0.4 * coarse)
    canvas.paint(Region(block, skin + 2), fat)
    if outer.min() > canvas.edge_mm:
        return
    planes = np.clip(1.4 - np.abs(canvas.field("noise1", block) - 0.2 * coarse) / np.float32(0.10 + 0.10 * subject.age), 0, 1)
    planes = np.maximum(planes, np.clip(1.3 - np.abs(canvas.field("noise2", block) + 0.2 * coarse) / np.float32(0.05 + 0.08 * subject.age), 0, 1))
    streaks = planes * np.float32(35 + 85 * subject.age)  # fat between the muscles
    canvas.paint(Region(block, outer), palette["muscle"] + palette.amplitude("muscle") * fine - streaks)
    cavity = np.maximum(canvas.field("cavity", block), -canvas.field("bump", block))
    if cavity.min() < canvas.edge_mm:
        canvas.paint(Region(block, cavity), fat + 12 * np.maximum(fine, 0))
