"""The heart: four chambers, the left ventricle's wall, great vessels at its base."""

from __future__ import annotations

import numpy as np

from arena_pipeline.phantoms.scene import Scene
from arena_pipeline.phantoms.shapes import directions


def paint_heart(scene: Scene, rng: np.random.Generator) -> None:
    """Painter's order: pericardial fat, right ventricle and atrium, left atrium, left ventricle's wall, its cavity."""
    size = float(np.clip(rng.normal(1.0, 0.07), 0.85, 1.2))
    wall = float(rng.uniform(8.5, 12.5))
    shift = rng.normal(0, 3, 3) + np.array([0, 0, 0.5 * scene.subject.breath_mm])
    long_axis = np.array([-0.68, 0.52, -0.50]) + rng.normal(0, 0.06, 3)
    axes = directions(tuple(long_axis), (0.3, 0.3, 1.0))

    def at(x: float, y: float, z: float) -> np.ndarray:
        return np.array([x, y, z]) + shift + rng.normal(0, 1.5, 3)

    fat = scene.ellipsoid(at(-24, 44, 150), (64 * size, 44 * size, 46 * size), directions((-0.8, 0.35, -0.5), (0.3, 0.3, 1.0)))
    fat = scene.clipped(scene.clipped(fat, "cavity", 4), "thorax")
    scene.paint(fat, "fat")
    right = [
        (scene.ellipsoid(at(-18, 66, 140), (47 * size, 30 * size, 27 * size), axes), "heart_ventricle_right"),
        (scene.tube([at(-2, 64, 150), at(-14, 58, 172), at(-16, 46, 188)], [22 * size, 18 * size, 13 * size]), "heart_ventricle_right"),
        (scene.ellipsoid(at(26, 36, 150), (23 * size, 27 * size, 29 * size)), "heart_atrium_right"),
    ]
    for region, structure in right:
        region = scene.clipped(scene.clipped(region, "cavity", 7), "thorax", 3)
        if region is not None:
            scene.paint(region.grown(2), "myocardium")
            scene.paint(region, "right_heart", structure)
    left_atrium = scene.ellipsoid(at(-8, 4, 170), (34 * size, 21 * size, 24 * size), directions((1, 0.1, -0.15), (0, 1, 0.2)))
    if left_atrium is not None:
        scene.paint(left_atrium.grown(2), "myocardium")
        scene.paint(scene.roughened(left_atrium, 1.5), "left_heart", "heart_atrium_left")
    ventricle = scene.ellipsoid(at(-44, 38, 142), (49 * size, 32 * size, 31 * size), axes)
    ventricle = scene.clipped(scene.clipped(ventricle, "cavity", 5), "thorax", 3)
    if ventricle is not None:
        open_base = scene.canvas.field("x", ventricle.box) * 0  # the wall ends at the valve plane
        centre = scene.frame.to_scanner(at(-44, 38, 142) - 0)[0]
        box = ventricle.box
        along = (box.x - centre[0]) * axes[0][0] + (box.y - centre[1]) * axes[0][1] + (box.z - centre[2]) * axes[0][2]
        base = -(along + 34 * size * scene.size) + open_base
        ventricle = ventricle.within(base.astype(np.float32))
        scene.paint(ventricle, "myocardium", "heart_myocardium")
        cavity = ventricle.distance + np.float32(wall * scene.size)
        inner = scene.ellipsoid(at(-42, 37, 143), ((49 - wall) * size, (32 - wall) * size, (31 - wall) * size), axes)
        if inner is not None:
            inner = inner.within((-(_along(inner, centre, axes[0]) + 34 * size * scene.size)).astype(np.float32))
            scene.paint(scene.roughened(inner, 1.0), "left_heart", "heart_ventricle_left")
        del cavity
    _paint_great_vessels(scene, shift)


def _along(region: object, centre: np.ndarray, axis: np.ndarray) -> np.ndarray:
    box = region.box  # type: ignore[attr-defined]
    return (box.x - centre[0]) * axis[0] + (box.y - centre[1]) * axis[1] + (box.z - centre[2]) * axis[2]


def _paint_great_vessels(scene: Scene, shift: np.ndarray) -> None:
    pulmonary = [
        ([[-18, 48, 185], [-20, 36, 205], [-14, 18, 212]], [14, 14, 13]),
        ([[-14, 22, 210], [10, 6, 204], [38, -6, 196], [52, -10, 188]], [12, 10, 9, 7]),
        ([[-16, 20, 212], [-32, 0, 212], [-48, -14, 200]], [12, 10, 8]),
    ]
    for points, radii in pulmonary:
        scene.paint(scene.tube(np.array(points) + shift * 0.5, radii), "right_heart", gap_mm=1.0)
    for side in (-1, 1):
        for dz in (-12, 10):
            scene.paint(scene.tube([[side * 26 - 6, 2, 172 + dz * 0.4], [side * 48, -8, 178 + dz]], [7, 5]), "left_heart")
    scene.paint(scene.tube([[30, 18, 300], [27, 22, 250], [26, 26, 205], [26, 32, 172]], [8, 9, 10, 10], flatten=(0.9, 1.1, 1)), "right_heart", gap_mm=1.0)
