"""The heart: four chambers, the left ventricle's wall, great vessels at its base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena_pipeline.research.phantoms.canvas import Region
from arena_pipeline.research.phantoms.scene import Scene
from arena_pipeline.research.phantoms.shapes import directions


@dataclass(frozen=True, eq=False)
class _Heart:
    """One heart's position and size; points are canonical mm."""

    size: float
    wall_mm: float
    shift: np.ndarray
    axes: np.ndarray  # rows: long axis towards the apex, and two across

    @classmethod
    def random(cls, rng: np.random.Generator, breath_mm: float) -> _Heart:
        size = float(np.clip(rng.normal(1.1, 0.08), 0.9, 1.32))
        wall = float(rng.uniform(8.5, 12.5))
        shift = rng.normal(0, 3, 3) + np.array([0, 0, 0.5 * breath_mm])
        x, y, z = np.array([-0.68, 0.52, -0.50]) + rng.normal(0, 0.06, 3)
        return cls(size, wall, shift, directions((x, y, z), (0.3, 0.3, 1.0)))

    def at(self, x: float, y: float, z: float) -> np.ndarray:
        return np.array([x, y, z]) + self.shift

    def radii(self, a: float, b: float, c: float) -> tuple[float, float, float]:
        return a * self.size, b * self.size, c * self.size


def paint_heart(scene: Scene, rng: np.random.Generator) -> None:
    """Later parts cover earlier ones: pericardial fat, right ventricle and atrium, left atrium, left ventricle's wall, its cavity."""
    heart = _Heart.random(rng, scene.subject.breath_mm)
    fat = scene.ellipsoid(heart.at(-26, 44, 144), heart.radii(63, 42, 40), directions((-0.8, 0.35, -0.5), (0.3, 0.3, 1.0)))
    scene.paint(_in_chest(scene, fat, 4), "fat")
    _paint_right_heart(scene, heart, rng)
    left_atrium = scene.ellipsoid(heart.at(-8, 4, 170), heart.radii(34, 21, 24), directions((1, 0.1, -0.15), (0, 1, 0.2)))
    if left_atrium is not None:
        scene.paint(left_atrium.grown(2), "myocardium")
        scene.paint(scene.roughened(left_atrium, 1.5), "left_heart", "heart_atrium_left")
    _paint_left_ventricle(scene, heart)
    _paint_great_vessels(scene, heart.shift)


def _in_chest(scene: Scene, region: Region | None, wall_mm: float) -> Region | None:
    """The part inside the chest wall and above the diaphragm."""
    return scene.clipped(scene.clipped(region, "cavity", wall_mm), "thorax", wall_mm - 4)


def _paint_right_heart(scene: Scene, heart: _Heart, rng: np.random.Generator) -> None:
    outflow = np.array([[-2, 64, 150], [-14, 58, 172], [-16, 46, 188]]) + heart.shift
    bulk = float(rng.uniform(0.92, 1.1))
    parts = (
        (scene.ellipsoid(heart.at(-18, 66, 140), heart.radii(47, 30 * bulk, 27 * bulk), heart.axes), "heart_ventricle_right"),
        (scene.tube(outflow, np.array([22, 18, 13]) * heart.size), "heart_ventricle_right"),
        (scene.ellipsoid(heart.at(27, 36, 150), heart.radii(25, 29, 31)), "heart_atrium_right"),
    )
    for part, structure in parts:
        region = _in_chest(scene, part, 7)
        if region is not None:
            scene.paint(region.grown(2), "myocardium")
            scene.paint(region, "right_heart", structure)


def _paint_left_ventricle(scene: Scene, heart: _Heart) -> None:
    """Wall and cavity of a half-ellipsoid that ends at the valve plane."""
    centre, length, width, depth = heart.at(-44, 38, 142), 49.0, 32.0, 31.0
    valve = scene.frame.to_scanner(centre)[0] - 34 * heart.size * scene.size * heart.axes[0]
    wall = _in_chest(scene, scene.ellipsoid(centre, heart.radii(length, width, depth), heart.axes), 6)
    if wall is not None:
        scene.paint(wall.within(_behind(wall, valve, heart.axes[0])), "myocardium", "heart_myocardium")
    inside = (length - heart.wall_mm, width - heart.wall_mm, depth - heart.wall_mm)
    cavity = scene.ellipsoid(centre + np.array([2, -1, 1]), heart.radii(*inside), heart.axes)
    cavity = _in_chest(scene, cavity, 10)
    if cavity is not None:
        cavity = scene.roughened(cavity, 1.0).within(_behind(cavity, valve, heart.axes[0]))
        scene.paint(cavity, "left_heart", "heart_ventricle_left")


def _behind(region: Region, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Distance to the half-space that lies beyond `point` along `direction`, negative there."""
    x, y, z = (axis - np.float32(p) for axis, p in zip((region.box.x, region.box.y, region.box.z), point, strict=True))
    return -(x * np.float32(direction[0]) + y * np.float32(direction[1]) + z * np.float32(direction[2]))


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
    scene.paint(
        scene.tube([[30, 18, 300], [27, 22, 250], [26, 26, 205], [26, 32, 172]], [8, 9, 10, 10], flatten=(0.9, 1.1, 1)), "right_heart", gap_mm=1.0
    )
