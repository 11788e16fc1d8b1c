"""Stomach, duodenum, small bowel and colon, and the bladder, which shares their space."""

from __future__ import annotations

import numpy as np

from arena_pipeline.research.phantoms.canvas import Region
from arena_pipeline.research.phantoms.scene import Scene
from arena_pipeline.research.phantoms.shapes import beads, curve


def paint_stomach(scene: Scene, rng: np.random.Generator) -> None:
    """A J from the fundus under the left dome to the pylorus; fluid or food below, gas in front."""
    full = float(np.clip(rng.normal(0.92, 0.28), 0.5, 1.6))
    depth, jitter = float(rng.normal(0, 16)), rng.normal(0, 5, 3)
    x, y = [-58.0, -62, -68, -58, -34, -4, 18, 30], [-6.0, 22, 52, 74, 82, 78, 68, 62]
    points = np.stack([x, y, [96, 78, 46, 14 - depth * 0.5, -12 - depth, -8 - depth * 0.6, 2, 6]], axis=1)
    points[:6] += jitter
    radii = np.array([33, 37, 34, 28, 24, 19, 12, 8]) * np.array([full**0.5] * 2 + [full] * 4 + [1, 1])
    level, food = float(rng.uniform(0.35, 1.0)), float(rng.random())
    region = scene.clipped(scene.tube(points, radii), "abdomen", 1)
    if region is None:
        return
    region = scene.roughened(region, 3.5, "noise1")
    region = scene.clipped(region, "abdomen", 1)
    scene.paint(region, "gut_wall", "stomach", gap_mm=1.5)
    paint_content(scene, region, wall_mm=float(3.5 + 3 * max(0, 1 - full)), level=level, food=food)  # type: ignore[arg-type]


def paint_content(scene: Scene, region: Region, wall_mm: float, level: float, food: float) -> None:
    """Fluid or food inside a hollow organ, and gas in front of it; `level`: the share of the organ's depth without gas."""
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
    x, y = [30.0, 46, 58, 62, 60, 48, 20, -10, -30, -34], [62.0, 58, 48, 36, 30, 32, 44, 46, 40, 46]
    points = np.stack([x, y, np.array([6, 12, 2, -22, -46, -64, -70, -66, -50, -26]) + low * np.array([0, 0, 0, 0, 0.5, 1, 1, 1, 0.5, 0])], axis=1)
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
    """Jejunal loops under the stomach, then loops that wander through the middle of the abdomen and the pelvis."""
    bulge = 70 * (scene.subject.visceral - 0.35)
    clusters = (
        (60, np.array([-62, 58 + 0.3 * bulge, -8.0]), np.array([36, 32 + 0.2 * bulge, 40.0])),
        (210, np.array([-10, 56 + 0.5 * bulge, -90.0]), np.array([84, 38 + 0.3 * bulge, 74.0])),
    )
    for steps, centre, spread in clusters:
        points = _wander(rng, steps, centre, spread)
        radii, contents = rng.uniform(8, 14, steps), rng.random(steps // 10 + 1)
        dense, radii = curve(scene.frame.to_scanner(points), radii * scene.size, 5.0)
        cuts = np.linspace(0, len(dense) - 1, len(contents) + 1).astype(int)
        for content, start, stop in zip(contents, cuts[:-1], cuts[1:], strict=True):
            _paint_loop(scene, dense[start : stop + 1], radii[start : stop + 1], float(content))


def _wander(rng: np.random.Generator, steps: int, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(steps, 3) points 17 mm apart of a curve that turns back at the edge of an ellipsoid."""
    heading, here, points = rng.normal(0, 1, 3), centre + rng.normal(0, 0.3, 3) * spread, []
    for _ in range(steps):
        outside = np.clip(np.abs((here - centre) / spread) - 0.55, 0, 2) * np.sign(here - centre)
        heading = heading + rng.normal(0, 0.75, 3) - 0.9 * outside
        heading /= np.linalg.norm(heading)
        here = here + 17 * heading
        points.append(here)
    return np.array(points)


def _paint_loop(scene: Scene, points: np.ndarray, radii: np.ndarray, content: float) -> None:
    """A loop of small bowel. `content` in [0, 1]: gas and fluid below 0.16, oral contrast above 0.96, fluid between."""
    region = scene.clipped(beads(scene.canvas, points, radii, margin_mm=6), "abdomen", 1)
    if region is None:
        return
    scene.paint(region, "gut_wall", gap_mm=1.2)
    hu = scene.palette["bowel_fluid"] + (180 if content > 0.96 else 15 * content)
    scene.canvas.paint(region.grown(-2.6), hu + 8 * scene.canvas.texture("fine", region.box))
    if content < 0.16:
        lumen = beads(scene.canvas, points + np.array([0, 4, 0]), np.maximum(radii - 6, 2), margin_mm=4)
        lumen = scene.clipped(lumen, "abdomen", 4)
        if lumen is not None:
            scene.canvas.paint(lumen, scene.palette["gas"])


# caecum, ascending, transverse, descending, sigmoid, rectum: x, y, z in canonical mm, radius
COLON = np.array([
    [78, 34, -150, 27], [98, 20, -110, 26], [106, 4, -60, 23], [104, 18, -22, 22], [84, 66, -22, 21], [40, 96, -36, 21], [0, 100, -52, 20],
    [-45, 96, -34, 20], [-84, 60, 10, 19], [-108, 40, 50, 18], [-118, 0, 10, 16], [-114, -8, -50, 15], [-106, 8, -110, 14], [-84, 34, -150, 14],
    [-40, 42, -172, 15], [0, 30, -150, 15], [18, 0, -172, 15], [4, -40, -192, 17], [0, -58, -222, 19], [0, -44, -262, 14], [0, -46, -295, 9],
], float)  # fmt: skip
TRANSVERSE = slice(5, 8)
HAUSTRA_MM = 26.0


def paint_colon(scene: Scene, rng: np.random.Generator) -> None:
    """Caecum to rectum, with haustra, filled with faeces and gas."""
    points, radii = COLON[:, :3].copy(), COLON[:, 3] * rng.uniform(0.75, 1.25) * np.exp(rng.normal(0, 0.15, len(COLON)))
    points[TRANSVERSE, 1] += 70 * (scene.subject.visceral - 0.35)  # it hangs behind the abdominal wall
    points[TRANSVERSE, 2] += rng.normal(0, 20)
    points[:-3] += rng.normal(0, 7, (len(points) - 3, 3))
    dense, radii = curve(scene.frame.to_scanner(points), radii * scene.size, 5.0)
    radii = radii * (1 + 0.13 * np.sin(np.arange(len(radii)) * 5.0 / HAUSTRA_MM * 2 * np.pi + rng.uniform(0, 6)))
    contents = rng.random(9)
    cuts = np.linspace(0, len(dense) - 1, len(contents) + 1).astype(int)
    for content, start, stop in zip(contents, cuts[:-1], cuts[1:], strict=True):
        _paint_colon_segment(scene, dense[start : stop + 1], radii[start : stop + 1], float(content))


def _paint_colon_segment(scene: Scene, points: np.ndarray, radii: np.ndarray, content: float) -> None:
    """A piece of colon. `content` in [0, 1]: fluid and gas up to 0.3, faeces and gas up to 0.5, faeces above."""
    canvas = scene.canvas
    region = scene.clipped(beads(canvas, points, radii, margin_mm=6), "abdomen", 1)
    if region is None:
        return
    scene.paint(region, "gut_wall", gap_mm=1.0)
    inner = region.grown(-2.2)
    grain = 0.75 * canvas.texture("fine", region.box) + 0.65 * canvas.texture("coarse", region.box)
    faeces = np.where(grain > 1.0, np.float32(-450), -20 + 55 * grain)  # with bubbles
    canvas.paint(inner, faeces if content > 0.3 else scene.palette["bowel_fluid"])
    if content < 0.5:
        surface = np.float32(points[:, 1].mean() + 40 * (content - 0.45))
        canvas.paint(Region(region.box, np.maximum(inner.distance, surface - region.box.y)), scene.palette["gas"])


def paint_bladder(scene: Scene, rng: np.random.Generator) -> None:
    """Bladder, and prostate or uterus behind and below."""
    full = float(rng.uniform(0.6, 1.5))
    region = scene.clipped(scene.ellipsoid([0, 22, -222 + 14 * full], (44 * full, 34 * full, 30 * full)), "abdomen", 2)
    organ = scene.ellipsoid([0, -12, -205] if scene.subject.female else [0, 4, -268], (30, 20, 24) if scene.subject.female else (22, 17, 18))
    scene.paint(scene.clipped(organ, "abdomen", 2), "gut_wall", gap_mm=1.0)
    if region is not None:
        scene.paint(region.grown(2.5), "gut_wall", gap_mm=1.0)
        scene.canvas.paint(region, scene.palette["urine"] * 0.6)
