"""Muscles inside the body cavity's outline: psoas, quadratus lumborum, diaphragmatic crura, iliacus."""

from __future__ import annotations

import numpy as np

from arena_pipeline.research.phantoms.body import spine_y
from arena_pipeline.research.phantoms.scene import Scene


def paint_deep_muscles(scene: Scene, rng: np.random.Generator) -> None:
    """Both sides, from the diaphragm down to the hip."""
    bulk = float(np.clip(rng.normal(1, 0.14), 0.65, 1.35)) * (0.9 if scene.subject.female else 1.05)
    for side in (-1, 1):
        z = np.array([36, 0, -40, -80, -120, -160, -200, -240, -275], float)
        x = side * np.array([20, 27, 34, 40, 48, 60, 74, 84, 94], float)
        y = spine_y(z) + np.array([4, 4, 6, 6, 10, 36, 80, 112, 80])
        y[5:] = [14, 26, 36, 22]
        scene.paint(scene.tube(np.stack([x, y, z], 1), np.array([6, 11, 16, 20, 22, 21, 20, 17, 14]) * bulk**0.5), "muscle", gap_mm=1.5)
        scene.paint(scene.tube([[side * 58, -34, 40], [side * 62, -34, -20], [side * 66, -36, -90]], [9, 13, 13], flatten=(0.7, 1.3, 1)), "muscle")
        z = np.array([120, 80, 40, 0, -20], float)
        crus = np.stack([side * np.array([14, 16, 15, 12, 9.0]), spine_y(z) + np.array([22, 24, 22, 20, 18]), z], 1)
        scene.paint(scene.tube(crus, [4, 5, 5.5, 4, 2.5]), "muscle")
        iliacus = [[side * 82, -12, -120], [side * 80, 2, -150], [side * 80, 14, -185], [side * 84, 24, -215]]
        scene.paint(scene.tube(iliacus, [8, 15, 18, 16]), "muscle")
