"""Aorta and inferior vena cava with their branches."""

from __future__ import annotations

import numpy as np

from arena_pipeline.research.phantoms.body import spine_y
from arena_pipeline.research.phantoms.canvas import Region
from arena_pipeline.research.phantoms.scene import Scene


def aorta_path(rng: np.random.Generator, age: float) -> tuple[np.ndarray, np.ndarray]:
    """Root, arch, descending aorta down to the bifurcation: canonical points and radii."""
    z = np.array([205, 175, 140, 105, 70, 35, 0, -35, -62, -88], float)
    x = np.array([-24, -23, -20, -16, -11, -9, -9, -9, -7, -4], float)
    radius = np.array([12.5, 12.3, 12, 11.6, 11, 10.2, 9.5, 9, 8.6, 8.2])
    y = spine_y(z) + 17 + radius + np.array([-8, -8, -7, -4, 1, 2, 2, 2, 2, 2])
    wander = np.cumsum(rng.normal(0, 1.2 + 2.5 * age, (len(z), 2)), axis=0)
    x, y = x + wander[:, 0] - np.linspace(0, wander[-1, 0], len(z)), y + np.abs(wander[:, 1]) * 0.3
    rise = rng.normal(0, 6)
    arch = np.array([[2, 30, 166], [12, 40, 186], [20, 42, 208], [18, 34, 232], [4, 14, 250], [-12, -8, 250], [-22, -26, 232]], float)
    arch[3:, 2] += rise
    points = np.concatenate([arch, np.stack([x, y, z], 1)])
    radii = np.concatenate([[14, 16, 15.5, 15, 14, 13.2, 12.8], radius]) * (0.88 + 0.26 * age) * rng.uniform(0.92, 1.1)
    if rng.random() < 0.08 * (1 + age):  # an aneurysm somewhere along it
        where, length = rng.uniform(-70, 230), rng.uniform(25, 90)
        radii = radii * (1 + rng.uniform(0.3, 1.2) * np.exp(-(((points[:, 2] - where) / length) ** 2)))
    return points, radii


def paint_aorta(scene: Scene, rng: np.random.Generator) -> None:
    """Iliac, renal and visceral arteries (unlabelled), then the aorta over their origins."""
    points, radii = aorta_path(rng, scene.subject.age)
    dissected, slower = rng.random() < 0.04, float(rng.uniform(0.4, 1.1))
    end, end_radius = points[-1], radii[-1]
    for side in (-1, 1):
        bend = rng.normal(0, 6, (3, 3)) * scene.subject.age
        x, y = side * np.array([20.0, 38, 62, 80, 84]), [26, 18, 32, 52, 55]
        iliac = np.concatenate([end[None], np.stack([x, y, [-112, -145, -195, -245, -300]], 1)])
        iliac[1:4] += bend
        scene.paint(scene.tube(iliac, end_radius * np.array([0.72, 0.68, 0.62, 0.55, 0.5, 0.45])), "aorta", gap_mm=1.0)
        renal_z = rng.uniform(-14, 2)
        renal = [[-9 + side * 6, spine_y(renal_z) + 28, renal_z], [side * 35, 12, renal_z - 4], [side * 58, 2, renal_z - 6]]
        scene.paint(scene.tube(renal, [3.2, 2.8, 2.4]), "aorta")
    scene.paint(scene.tube([[-9, 34, 8], [-8, 50, -8], [-4, 54, -45], [6, 56, -80]], [3.8, 3.5, 3, 2]), "aorta", gap_mm=2.0)
    scene.paint(scene.tube([[-10, 22, 24], [-8, 44, 26], [14, 50, 24], [30, 50, 32]], [3.6, 3.2, 2.6, 2]), "aorta")
    scene.paint(scene.tube([[-8, 42, 26], [-40, 30, 34], [-85, 0, 38]], [2.8, 2.4, 2]), "aorta")
    for start, neck in (([16, 30, 243], [26, 22, 310]), ([2, 12, 258], [-14, 6, 310]), ([-10, -6, 256], [-34, -14, 305])):
        scene.paint(scene.tube([start, neck], [5, 4]), "aorta", gap_mm=1.0)
    region = scene.tube(points, radii)
    scene.paint(region, "aorta", "aorta", gap_mm=0.5)
    if region is None:
        return
    if dissected:
        _paint_flap(scene, region, slower)
    if scene.subject.age > 0.35:
        _paint_plaques(scene, region)


def _paint_flap(scene: Scene, region: Region, slower: float) -> None:
    """A dissection: a membrane in the lumen, with differently enhanced blood behind it."""
    sheet = 14 * scene.canvas.field("noise2", region.box)
    false_lumen = 45 + (scene.palette["aorta"] - 45) * slower
    scene.canvas.paint(Region(region.box, np.maximum(region.distance, -sheet)), false_lumen, None)
    scene.canvas.paint(Region(region.box, np.maximum(region.distance, np.abs(sheet) - 1.0)), scene.palette["myocardium"] - 10, None)


def _paint_plaques(scene: Scene, region: Region) -> None:
    patch = scene.canvas.texture("coarse", region.box) - np.float32(2.6 - 1.1 * scene.subject.age)
    wall = np.abs(region.distance + 1.2) - 1.6
    scene.canvas.paint(Region(region.box, np.maximum(wall, -patch * 4)), 650.0, None)


def paint_vena_cava(scene: Scene, rng: np.random.Generator) -> None:
    """From the confluence of the iliac veins to the right atrium; the label ends there."""
    flat, radius = float(rng.uniform(0.9, 1.5)), float(rng.uniform(9.5, 13))
    z = np.array([-98, -70, -35, 0, 30, 60, 90, 112, 130], float)
    x = np.array([9, 16, 20, 22, 24, 26, 27, 28, 28], float) + np.cumsum(rng.normal(0, 0.8, 9))
    y = spine_y(z) + np.array([24, 26, 27, 31, 36, 40, 48, 56, 66])
    for side in (-1, 1):
        iliac = [[9, y[0], -98], [9 + side * 18, 6, -125], [side * 42, 4, -155], [side * 66, 22, -200], [side * 78, 46, -250], [side * 80, 48, -300]]
        scene.paint(scene.tube(iliac, [8.5, 7.5, 7, 6.5, 6, 5.5]), "vena_cava", gap_mm=1.0)
        start = [20, y[3], -4]
        renal = [start, [side * 36, 16, -6], [side * 58, 2, -8]] if side > 0 else [start, [-8, 42, -2], [-38, 18, -4], [-56, 4, -6]]
        scene.paint(scene.tube(renal, 4.2), "vena_cava", gap_mm=1.0)
    points = np.stack([x, y, z], 1)
    radii = radius * np.array([0.9, 0.9, 0.92, 1, 1.05, 1.08, 1.1, 1.1, 1.0])
    scene.paint(scene.tube(points, radii, flatten=(1 / flat**0.5, flat**0.5, 1)), "vena_cava", "inferior_vena_cava")


def paint_portal_vein(scene: Scene, rng: np.random.Generator) -> None:
    """Superior mesenteric, portal and splenic vein, unlabelled."""
    r = float(rng.uniform(5, 7.5))
    trunk = [[12, 56, -75], [12, 52, -30], [14, 46, 4], [26, 44, 22], [42, 46, 40], [54, 48, 50]]
    scene.paint(scene.tube(trunk, [r * 0.8, r, r, r, r, r * 0.7]), "portal_vein")
    scene.paint(scene.tube([[14, 46, 4], [-20, 40, 14], [-55, 16, 28], [-84, -4, 36]], [r, r * 0.8, r * 0.75, r * 0.6]), "portal_vein")


def paint_mesentery(scene: Scene, rng: np.random.Generator) -> None:
    """Small vessels that fan out from the root of the mesentery, and along the omentum."""
    bulge = 70 * (scene.subject.visceral - 0.35)
    for _ in range(26):
        root = np.array([0, 50, rng.uniform(-70, 0)])
        end = np.array([rng.uniform(-95, 85), rng.uniform(45, 95 + bulge), rng.uniform(-150, 20)])
        middle = 0.5 * (root + end) + rng.normal(0, 10, 3)
        tissue = "portal_vein" if rng.random() < 0.6 else "aorta"
        scene.paint(scene.clipped(scene.tube([root, middle, end], [2.4, 1.7, 0.9]), "abdomen", 2), tissue)
