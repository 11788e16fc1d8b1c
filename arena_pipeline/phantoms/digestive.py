"""Stomach, duodenum, small bowel and colon; and the bladder, which fills the same space."""

from __future__ import annotations

import numpy as np

from arena_pipeline.phantoms.canvas import Region
from arena_pipeline.phantoms.scene import Scene
from arena_pipeline.phantoms.shapes import beads, curve


def paint_stomach(scene: Scene, rng: np.random.Generator) -> None:
    """A J from the fundus under the left dome to the pylorus; fluid or food below, gas in front."""
    full = float(np.clip(rng.normal(0.95, 0.26), 0.45, 1.6))
    depth, jitter = float(rng.normal(0, 16)), rng.normal(0, 5, 3)
    points = np.array([[-58, -6, 96], [-62, 22, 78], [-68, 52, 46], [-58, 74, 14 - depth * 0.5], [-34, 82, -12 - depth], [-4, 78, -8 - depth * 0.6], [18, 68, 2], [30, 62, 6]], float)
    points[:6] += jitter
    radii = np.array([30, 35, 33, 28, 24, 19, 12, 8]) * np.array([full**0.7] * 2 + [full] * 4 + [1, 1])
    level, food = float(rng.uniform(0.35, 1.0)), float(rng.random())
    region = scene.clipped(scene.tube(points, radii), "abdomen", 1)
    if region is None:
        return
    region = scene.roughened(region, 1.8, "noise1")
    region = scene.clipped(region, "abdomen", 1)
    scene.paint(region, "gut_wall", "stomach", gap_mm=1.5)
    paint_content(scene, region, wall_mm=float(3.5 + 3 * max(0, 1 - full)), level=level, food=food)  # type: ignore[arg-type]


def paint_content(scene: Scene, region: Region, wall_mm: float, level: float, food: float) -> None:
    """Fluid or food inside a hollow organ with gas above `level` (share of its front-to-back extent filled)."""
    inner = region.grown(-wall_mm)
    fluid = scene.palette["bowel_fluid"] + (25 * food + 30 * food * scene.canvas.texture("coarse", region.box) if food > 0.4 else 0.0)
    scene.canvas.paint(inner, fluid, None)
    inside = np.flatnonzero((inner.distance < 0).any(axis=(0, 2)))
    if len(inside) == 0:
        return
    y = region.box.y.ravel()
    surface = y[inside[0]] + level * (y[inside[-1]] - y[inside[0]])
    gas = np.maximum(inner.distance, surface - region.box.y)
    scene.canvas.paint(Region(region.box, gas), scene.palette["gas"], None)


def paint_duodenum(scene: Scene, rng: np.random.Generator) -> None:
    """The C-loop around the head of the pancreas, crossing before aorta and vena cava to the left."""
    low = float(rng.normal(0, 8))
    points = np.array([[30, 62, 6], [46, 58, 12], [58, 48, 2], [62, 36, -22], [60, 30, -46 + low * 0.5], [48, 32, -64 + low], [20, 44, -70 + low], [-10, 46, -66 + low], [-30, 40, -50 + low * 0.5], [-34, 46, -26]], float)
    points[2:-1] += rng.normal(0, 3.5, (7, 3))
    radius, gas = float(rng.uniform(9.5, 13.5)), float(rng.random())
    region = scene.tube(points, radius * np.array([0.8, 1.1, 1.1, 1.1, 1.1, 1, 0.95, 0.9, 0.9, 0.9]))
    region = scene.clipped(region, "abdomen", 1)
    if region is None:
        return
    region = scene.roughened(region, 0.8, "noise2", fine_mm=1.0)
    scene.paint(region, "gut_wall", "duodenum", gap_mm=1.0)
    if gas < 0.8:
        inner = region.grown(-3.2)
        scene.canvas.paint(inner, scene.palette["bowel_fluid"] + 12, None)
        if gas < 0.3:
            lumen = scene.tube(points[1:5] + np.array([0, 5, 0]), radius * 0.4)
            if lumen is not None:
                scene.canvas.paint(lumen, scene.palette["gas"], None)


def paint_small_bowel(scene: Scene, rng: np.random.Generator) -> None:
    """Loops that wander through the middle of the abdomen and the pelvis."""
    n, bulge = 170, 62 * (scene.subject.visceral - 0.35)
    centre, spread = np.array([-10, 56 + 0.5 * bulge, -88.0]), np.array([84, 38 + 0.3 * bulge, 76.0])
    heading, here, points = rng.normal(0, 1, 3), centre + rng.normal(0, 0.3, 3) * spread, []
    for _ in range(n):
        heading = heading + rng.normal(0, 0.75, 3) - 0.9 * np.clip(np.abs((here - centre) / spread) - 0.55, 0, 2) * np.sign(here - centre)
        heading /= np.linalg.norm(heading)
        here = here + 17 * heading
        points.append(here)
    radii, contents = rng.uniform(8, 14, n), rng.random(n // 10 + 1)
    dense, radii = curve(scene.frame.to_scanner(np.array(points)), radii * scene.size, 5.0)
    cuts = np.linspace(0, len(dense) - 1, len(contents) + 1).astype(int)
    for content, start, stop in zip(contents, cuts[:-1], cuts[1:], strict=True):
        region = scene.clipped(beads(scene.canvas, dense[start : stop + 1], radii[start : stop + 1], margin_mm=6), "abdomen", 1)
        if region is None:
            continue
        scene.paint(region, "gut_wall", gap_mm=1.2)
        hu = scene.palette["bowel_fluid"] + (180 if content > 0.93 else 15 * content)
        scene.canvas.paint(region.grown(-2.6), hu + 8 * scene.canvas.texture("fine", region.box))
        if content < 0.16:
            shifted = beads(scene.canvas, dense[start : stop + 1] + np.array([0, 4, 0]), np.maximum(radii[start : stop + 1] - 6, 2), margin_mm=4)
            if shifted is not None:
                scene.canvas.paint(shifted, scene.palette["gas"])


def paint_colon(scene: Scene, rng: np.random.Generator) -> None:
    """Caecum to rectum, with haustra, filled with faeces and gas."""
    bulge, sag = 62 * (scene.subject.visceral - 0.35), float(rng.normal(-30, 20))
    front = 104 + bulge
    points = np.array([
        [78, 34, -150], [98, 20, -110], [106, 4, -60], [104, 18, -22], [84, 66, -22], [40, front - 8, sag - 6], [0, front - 4, sag - 22], [-45, front - 8, sag - 4],
        [-84, 60, 10], [-112, 26, 38], [-118, 0, 10], [-114, -8, -50], [-106, 8, -110], [-84, 34, -150], [-40, 42, -172], [0, 30, -150], [18, 0, -172], [4, -40, -192], [0, -58, -222], [0, -44, -262], [0, -46, -295],
    ], float)  # fmt: skip
    points[:-3] += rng.normal(0, 7, (len(points) - 3, 3))
    base = np.array([27, 26, 23, 22, 21, 21, 20, 20, 19, 18, 16, 15, 14, 14, 15, 15, 15, 17, 19, 14, 9]) * rng.uniform(0.75, 1.25) * np.exp(rng.normal(0, 0.15, len(points)))
    dense, radii = curve(scene.frame.to_scanner(points), base * scene.size, 5.0)
    phase = rng.uniform(0, 6)
    radii = radii * (1 + 0.13 * np.sin(np.arange(len(radii)) * 5 / 26 * 2 * np.pi + phase))
    contents = rng.random(9)
    cuts = np.linspace(0, len(dense) - 1, len(contents) + 1).astype(int)
    for content, start, stop in zip(contents, cuts[:-1], cuts[1:], strict=True):
        region = scene.clipped(beads(scene.canvas, dense[start : stop + 1], radii[start : stop + 1], margin_mm=6), "abdomen", 1)
        if region is None:
            continue
        scene.paint(region, "gut_wall", gap_mm=1.0)
        inner, canvas = region.grown(-2.2), scene.canvas
        grain = 0.75 * canvas.texture("fine", region.box) + 0.65 * canvas.texture("coarse", region.box)
        faeces = np.where(grain > 1.0, -450.0, -20 + 55 * grain)
        canvas.paint(inner, faeces.astype(np.float32) if content > 0.3 else scene.palette["bowel_fluid"])
        if content < 0.62:
            middle = float(np.mean(dense[start : stop + 1, 1]))
            canvas.paint(Region(region.box, np.maximum(inner.distance, middle + 20 * (content - 0.45) * 2 - region.box.y)), scene.palette["gas"])


def paint_bladder(scene: Scene, rng: np.random.Generator) -> None:
    """Bladder, and prostate or uterus behind and below."""
    full = float(rng.uniform(0.6, 1.25))
    region = scene.clipped(scene.ellipsoid([0, 22, -222 + 14 * full], (44 * full, 34 * full, 30 * full)), "abdomen", 2)
    organ = scene.ellipsoid([0, -12, -205] if scene.subject.female else [0, 4, -268], (30, 20, 24) if scene.subject.female else (22, 17, 18))
    scene.paint(scene.clipped(organ, "abdomen", 2), "gut_wall", gap_mm=1.0)
    if region is not None:
        scene.paint(region.grown(2.5), "gut_wall", gap_mm=1.0)
        scene.canvas.paint(region, scene.palette["urine"] * 0.6)
