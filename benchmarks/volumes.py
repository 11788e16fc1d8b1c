"""The made-up CT that the measurements of preprocessing share."""

from __future__ import annotations

import numpy as np

SHAPE = (512, 512, 200)
SPACING_MM = (0.8, 0.8, 2.5)


def torso(shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A body in air: int16 HU with noise, sharp bones and smooth organs; and a segmentation of two of these. In NIfTI's memory order."""
    rng = np.random.default_rng(0)
    image, segmentation = np.empty(shape, np.int16, order="F"), np.zeros(shape, np.uint8, order="F")
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0], dtype=np.float32), np.linspace(-1, 1, shape[1], dtype=np.float32), indexing="ij")
    body = (x / 0.75) ** 2 + (y / 0.55) ** 2
    for k, z in enumerate(np.linspace(-1, 1, shape[2])):
        liver = ((x - 0.3) / 0.3) ** 2 + (y / 0.35) ** 2 + (z / 0.4) ** 2 < 1
        aorta = (x + 0.03) ** 2 + (y + 0.25) ** 2 < 0.03**2
        bone = (np.abs(body - 0.85) < 0.03) & (np.sin(40 * z) > 0.3) | (x**2 + (y + 0.42) ** 2 < 0.07**2)
        hu = np.select([body > 1, bone, aorta, liver], [-1000.0, 700.0, 180.0, 90.0], 20 + 40 * np.sin(9 * x + 5 * z) * np.cos(7 * y))
        image[:, :, k] = hu + rng.normal(0, 15, hu.shape)
        segmentation[:, :, k] = np.select([aorta, liver], [2, 1], 0)
    return image, segmentation
