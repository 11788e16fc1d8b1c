"""Lungs with their vessels, trachea, mediastinum, oesophagus."""

from __future__ import annotations

import numpy as np

from arena_pipeline.research.phantoms.body import spine_y
from arena_pipeline.research.phantoms.canvas import Box, Region
from arena_pipeline.research.phantoms.scene import Scene
from arena_pipeline.research.phantoms.shapes import beads, curve
from arena_pipeline.research.phantoms.structures import PHANTOM_STRUCTURES


def paint_lungs(scene: Scene, rng: np.random.Generator) -> None:
    """Both lungs: the chest above the diaphragm without the mediastinum."""
    waist, tilt = float(rng.uniform(18, 26)), float(rng.uniform(0.05, 0.3))
    vessels = [_vessel_tree(rng, side) for side in (1, -1)]
    canvas = scene.canvas
    corners = scene.frame.to_scanner(np.array([[sx * 150, y, z] for sx in (-1, 1) for y in (-120, 125) for z in (15, 350)]))
    for block in canvas.blocks(corners):
        _paint_lung_block(scene, block, waist, tilt)
    for tree in vessels:
        for points, radii in tree:
            region = beads(canvas, *curve(scene.frame.to_scanner(points), radii, 3.0), margin_mm=canvas.edge_mm)
            if region is not None:
                inside = region.within(canvas.field("cavity", region.box) + 6).within(6 - canvas.field("above", region.box))
                canvas.paint(inside, scene.palette["right_heart"] - 10, None)


def _paint_lung_block(scene: Scene, block: Box, waist: float, tilt: float) -> None:
    canvas = scene.canvas
    chest = np.maximum(canvas.field("cavity", block) + 1.5, -canvas.field("above", block))
    if chest.min() > canvas.edge_mm:
        return
    x, y, z = canvas.field("x", block), canvas.field("y", block), canvas.field("z", block)
    chest = np.maximum(np.maximum(chest, 1.5 - canvas.field("bump", block)), z - 335)
    # upper mediastinum: narrow in front, wide in the middle; room for the heart below
    middle = waist * np.exp(-((y / 55) ** 2)) + 5 + 8 * np.clip((z - 230) / 60, 0, 1)
    slab = (np.abs(x + 4) - middle) * 0.85
    lungs = np.maximum(chest, -np.minimum(slab, heart_bulge(x, y, z - np.float32(0.5 * scene.subject.breath_mm))))
    for side, structure in ((1, "lung_right"), (-1, "lung_left")):
        half = Region(block, np.maximum(lungs, -side * (x + 2)))
        if half.distance.min() < canvas.edge_mm:
            hu = scene.textured(half, "lung") + 55 * np.clip(-(y + 20) / 90, -0.5, 1) * (1 + tilt)
            canvas.paint(half, hu, PHANTOM_STRUCTURES[structure])


def heart_bulge(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance to the pericardium, which the lungs make room for."""
    u, v, w = (x + 28) / 70, (y - 42) / 54, (z - 143) / 50
    w = w - 0.35 * u
    k = np.sqrt(u * u + v * v + w * w) + np.float32(1e-3)
    right = np.sqrt(((x - 24) / 32) ** 2 + ((y - 30) / 40) ** 2 + ((z - 152) / 55) ** 2) + np.float32(1e-3)
    return np.minimum((k - 1) * 54, (right - 1) * 34)


def _vessel_tree(rng: np.random.Generator, side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Branches from the hilum to the periphery, canonical mm."""
    hilum = np.array([side * 38.0, -8, 192])
    branches = []
    for _ in range(30):
        target = np.array([side * rng.uniform(45, 120), rng.uniform(-85, 75), rng.uniform(60, 305)])
        middle = hilum + 0.45 * (target - hilum) + rng.normal(0, 8, 3)
        branches.append((np.stack([hilum + rng.normal(0, 4, 3), middle, target]), np.array([rng.uniform(3.5, 6), rng.uniform(2, 3.3), 1.0])))
        twig = target + rng.normal(0, 22, 3)
        branches.append((np.stack([middle, 0.5 * (middle + twig) + rng.normal(0, 4, 3), twig]), np.array([2.3, 1.7, 0.8])))
    return branches


def paint_airways(scene: Scene, rng: np.random.Generator) -> None:
    """Trachea, main bronchi with thin walls."""
    lift = float(rng.normal(0, 5))
    paths = [
        ([[0, spine_y(375) + 42, 400], [0, spine_y(340) + 36, 340], [3, spine_y(280) + 34, 280], [3, -10, 220 + lift]], [9, 9, 9, 9.0]),
        ([[3, -10, 220 + lift], [24, -12, 200 + lift], [46, -12, 184 + lift]], [8, 7.5, 5.0]),
        ([[3, -10, 220 + lift], [-22, -14, 204 + lift], [-46, -18, 190 + lift]], [8, 6.5, 5.0]),
    ]
    regions = [scene.tube(points, radii) for points, radii in paths]
    for region in regions:
        if region is not None:
            scene.canvas.paint(region.grown(2), scene.palette["muscle"] - 10)
    for region in regions:
        if region is not None:
            scene.canvas.paint(region, scene.palette["gas"])


def paint_esophagus(scene: Scene, rng: np.random.Generator) -> None:
    """From the neck behind the trachea and the left atrium, through the hiatus to the stomach."""
    radius, gas = float(rng.uniform(6.5, 9.5)), float(rng.random())
    side = rng.normal(0, 3, 2)
    z = np.array([390, 330, 280, 225, 180, 140, 112], float)
    x = np.array([-4, -6, -5, -4, -3 + side[0], -8 + side[1], -16])
    y = spine_y(z) + np.array([26, 26, 26, 30, 34, 36, 36])
    points = np.concatenate([np.stack([x, y, z], 1), [[-24, 12, 97], [-34, 20, 88]]])
    region = scene.tube(points, radius, flatten=(0.85, 1.2, 1))
    scene.paint(region, "esophagus", "esophagus", gap_mm=1.0)
    lumen = scene.tube(points[: int(rng.integers(3, 7))] + np.array([0, 1, 0]), radius * rng.uniform(0.25, 0.55))
    if lumen is not None and gas < 0.6:
        scene.canvas.paint(lumen, scene.palette["gas"] if gas < 0.4 else scene.palette["bowel_fluid"], None)
