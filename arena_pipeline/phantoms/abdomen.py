"""The solid organs of the upper abdomen: liver, gallbladder, spleen, pancreas, kidneys, adrenals."""

from __future__ import annotations

import numpy as np

from arena_pipeline.phantoms.canvas import Region
from arena_pipeline.phantoms.scene import Scene
from arena_pipeline.phantoms.shapes import directions, smooth_union
from arena_pipeline.phantoms.structures import PHANTOM_STRUCTURES


def paint_liver(scene: Scene, rng: np.random.Generator) -> None:
    """Everything under the right dome above a slanted visceral surface, with a left lobe that thins out to the left."""
    size = float(rng.normal(0, 9))
    tip, left_reach, left_low = float(rng.normal(0, 16)), float(rng.normal(0, 18)), float(rng.normal(0, 10))
    trees = [_hepatic_branch(rng, kind) for kind in ("hepatic",) * 7 + ("portal",) * 9]
    lesions = [(rng.normal([80, 30, 60], [25, 30, 30]), float(rng.uniform(4, 22)), float(rng.normal(-25, 25))) for _ in range(int(rng.poisson(0.7)))]
    canvas = scene.canvas
    corners = scene.frame.to_scanner(np.array([[x, y, z] for x in (-125, 150) for y in (-90, 150) for z in (-110, 165)]))
    box = canvas.box(corners.min(0), corners.max(0))
    if box is None:
        return
    x, y, z = canvas.field("x", box), canvas.field("y", box), canvas.field("z", box)
    bump = canvas.field("noise1", box) * 3 + canvas.field("noise0", box) * 3
    underside = -((0.60 * (x - 97) + 0.05 * (y - 20) + 0.79 * (z + 16 - tip)) + size)
    medial = 8 + 0.10 * (z - 60) + 14 / (1 + np.exp((y - 14) / 6)) - x  # the caudate lobe reaches around the vena cava
    retroperitoneum = 46 - np.sqrt((x - 66) ** 2 + (y + 42) ** 2 + (0.6 * (z + 22)) ** 2)
    right = smooth_max(smooth_max(underside, np.maximum(medial, tip - z - 85), 18), retroperitoneum, 12)
    left = _left_lobe(x, y, z, left_reach, left_low)
    liver = smooth_union(right, left, 26) + bump
    fissure = np.maximum(np.abs(x - 10 + 0.35 * (z - 40) - 0.15 * (y - 60)) - 1.8 - 0.03 * np.abs(y - 45), np.maximum(48 - y, z - 42 - 0.2 * (y - 60)))
    region = Region(box, np.maximum(smooth_max(liver, -fissure, 6), canvas.field("abdomen", box)))
    scene.paint(region, "liver", "liver")
    for kind, points, radii in trees:
        vessel = scene.tube(points, radii)
        if vessel is not None:
            inside = canvas.labels[vessel.box.slices] == PHANTOM_STRUCTURES["liver"]
            canvas.paint(Region(vessel.box, np.where(inside, vessel.distance, 50)), scene.palette[kind], None)
    for centre, radius, offset in lesions:
        _paint_lesion(scene, centre, radius, "liver", scene.palette["liver"] + offset)


def _left_lobe(x: np.ndarray, y: np.ndarray, z: np.ndarray, reach: float, low: float) -> np.ndarray:
    """A flat ellipsoid from the right lobe across the midline, thinner towards its left tip."""
    u = (x - 5 + 0.5 * reach) / (82 - 0.5 * reach)
    thin = 1.0 + 0.30 * u
    v, w = (y - 72 + 10 * u) / (40 * thin), (z - 66 - low + 18 * u) / (44 * thin)
    k = np.sqrt(u * u + v * v + w * w)
    return (k - 1) * 40


def smooth_max(a: np.ndarray, b: np.ndarray, radius_mm: float) -> np.ndarray:
    return -smooth_union(-a, -b, radius_mm)


def _hepatic_branch(rng: np.random.Generator, kind: str) -> tuple[str, np.ndarray, np.ndarray]:
    start = np.array([26.0, 22, 98]) if kind == "hepatic" else np.array([46.0, 46, 44])
    end = np.array([rng.uniform(-30, 125), rng.uniform(-20, 110), rng.uniform(10, 90)])
    middle = (start + end) / 2 + rng.normal(0, 8, 3)
    tissue = "hepatic_vessel" if kind == "hepatic" else "portal_vein"
    return tissue, np.stack([start, middle, end]), np.array([5.0, 3.2, 1.0]) * rng.uniform(0.6, 1.1)


def _paint_lesion(scene: Scene, centre: np.ndarray, radius: float, structure: str, hu: float) -> None:
    region = scene.ellipsoid(centre, (radius, radius * 0.9, radius * 0.95))
    if region is None:
        return
    inside = scene.canvas.labels[region.box.slices] == PHANTOM_STRUCTURES[structure]
    scene.canvas.paint(Region(region.box, np.where(inside, scene.roughened(region, 1.5).distance, 50)), hu, None)


def paint_gallbladder(scene: Scene, rng: np.random.Generator) -> None:
    """A pear under the liver; sometimes collapsed, sometimes with stones or dense bile, sometimes removed."""
    full = float(np.clip(rng.normal(1.0, 0.28), 0.35, 1.6))
    jitter, stones, dense = rng.normal(0, 5, 3), rng.random() < 0.12, rng.random() < 0.1
    neck, body, fundus = np.array([46, 50, 22.0]) + jitter, np.array([62, 70, 4.0]) + jitter, np.array([74, 90, -16.0]) + jitter * 1.5
    if scene.subject.no_gallbladder:
        return
    region = scene.tube([neck, neck + 0.3 * (body - neck), body, fundus], np.array([3, 8, 14, 13.0]) * full**0.8)
    region = scene.clipped(region, "abdomen", 1)
    scene.paint(region.grown(1.5) if region else None, "gut_wall")
    scene.paint(region, "gallbladder", "gallbladder")
    if region is not None and dense:
        scene.canvas.paint(region.grown(-1.5), scene.palette["gallbladder"] + 35, None)
    if stones:
        stone = scene.ellipsoid(fundus - np.array([0, 9 * full, 2]), (5, 5, 5))
        if stone is not None:
            scene.canvas.paint(stone, 180.0, None)


def paint_spleen(scene: Scene, rng: np.random.Generator) -> None:
    """A crescent along the left posterior wall under the diaphragm."""
    thickness, scale = float(rng.uniform(34, 52)), float(np.clip(rng.normal(1, 0.12), 0.72, 1.4))
    centre = np.array([-110, -12, 40.0]) + rng.normal(0, 5, 3)
    mottled = scene.subject.phase == "arterial"
    region = scene.ellipsoid(centre, (52 * scale, 58 * scale, 54 * scale), directions((0.9, 0.3, 0.2), (0.2, -0.8, 0.55)))
    region = scene.clipped(region, "abdomen")
    if region is None:
        return
    deep = -(scene.canvas.field("cavity", region.box) + np.float32(thickness))
    region = scene.roughened(Region(region.box, smooth_max(region.distance, deep, 14)), 2.0, "noise2")
    region = scene.clipped(region, "abdomen")
    scene.paint(region, "spleen", "spleen", gap_mm=1.0)
    if mottled and region is not None:
        bands = 18 * scene.canvas.texture("coarse", region.box)
        scene.canvas.paint(region.grown(-2), scene.palette["spleen"] + bands, None)


def paint_pancreas(scene: Scene, rng: np.random.Generator) -> None:
    """Head in the duodenal loop, neck before the portal vein, body over the aorta, tail to the splenic hilum."""
    girth, tail = float(np.clip(rng.normal(1.0, 0.14), 0.65, 1.35)), rng.normal(0, 8)
    points = np.array([[34, 36, -34], [40, 44, -16], [34, 50, -2], [14, 58, 6], [-12, 56, 14], [-40, 40, 22 + tail * 0.5], [-66, 18, 30 + tail], [-84, 2, 34 + tail]], float)
    points += rng.normal(0, 3.5, points.shape)
    radii = np.array([8, 14, 13, 8.5, 10, 10, 10, 7.5]) * girth
    region = scene.tube(points, radii, flatten=(1, 1.08, 0.95))
    if region is None:
        return
    region = scene.clipped(scene.roughened(region, 1.2, "noise2", fine_mm=1.6), "abdomen", 1)
    scene.paint(region, "pancreas", "pancreas", gap_mm=1.0)
    if region is not None:
        clefts = np.clip(scene.canvas.texture("coarse", region.box) - (1.7 - 1.2 * scene.subject.age), 0, 1)
        scene.canvas.paint(region, scene.textured(region, "pancreas") - 70 * clefts, None)


def paint_kidneys(scene: Scene, rng: np.random.Generator) -> None:
    """Cortex, medulla, sinus with fat and renal pelvis, inside perirenal fat."""
    for side, structure, centre in ((1, "kidney_right", [74, -8, -20.0]), (-1, "kidney_left", [-73, -10, -6.0])):
        where, size = np.array(centre) + rng.normal(0, [4, 4, 8]), float(np.clip(rng.normal(1, 0.08), 0.8, 1.2))
        stone, cysts = rng.random() < 0.08, [(rng.normal(0, 1, 3), float(rng.uniform(4, 20))) for _ in range(int(rng.poisson(0.35)))]
        axes = directions((side * 0.20, 0.16 + rng.normal(0, 0.05), -1.0), (side * 0.75, -0.6, 0))
        medial = -axes[1]
        if scene.subject.missing_kidney == structure.split("_")[1]:
            continue
        shape = (54 * size, 29 * size, 25 * size)
        kidney = scene.ellipsoid(where, shape, axes)
        if kidney is None:
            continue
        _paint_perirenal_fat(scene, where + np.array([-4.0 * side, -12, -10]), shape, axes, kidney)
        _paint_kidney(scene, scene.clipped(scene.roughened(kidney, 1.4, "noise2"), "abdomen", 1), where, medial, axes, size, structure)  # type: ignore[arg-type]
        for direction, radius in cysts:
            lesion = scene.ellipsoid(where + 30 * direction / np.linalg.norm(direction) * np.array([0.8, 0.8, 1.4]), (radius,) * 3)
            if lesion is not None:
                scene.canvas.paint(lesion, scene.palette["urine"] * 0 + 8, PHANTOM_STRUCTURES[structure])
        if stone:
            dot = scene.ellipsoid(where + 10 * medial, (3, 3, 4))
            if dot is not None:
                scene.canvas.paint(dot, 700.0, None)


def _paint_perirenal_fat(scene: Scene, where: np.ndarray, shape: tuple[float, float, float], axes: np.ndarray, kidney: Region) -> None:
    """Little in front and beside the kidney, more behind, below and medially."""
    extra = 6 + 12 * scene.subject.visceral
    behind = scene.ellipsoid(where, (shape[0] + 1.2 * extra, shape[1] + 0.6 * extra, shape[2] + 0.5 * extra), axes)
    for region in (behind, kidney.grown(2.0 + 2.0 * scene.subject.visceral)):
        region = scene.clipped(region, "abdomen")
        if region is not None:
            scene.canvas.paint(region, scene.palette["fat"] + 3 + 6 * scene.canvas.texture("fine", region.box))


def _paint_kidney(scene: Scene, kidney: Region, where: np.ndarray, medial: np.ndarray, axes: np.ndarray, size: float, structure: str) -> None:
    label = PHANTOM_STRUCTURES[structure]
    scene.paint(kidney, "kidney_cortex", structure)
    columns = 1.6 * scene.canvas.texture("coarse", kidney.box)
    scene.paint(Region(kidney.box, kidney.distance + 7.5 + columns), "kidney_medulla", structure)
    scene.canvas.labels[kidney.box.slices][kidney.distance < 0] = label
    sinus = scene.ellipsoid(where + 14 * size * medial, (25 * size, 14 * size, 9 * size), axes)
    if sinus is not None:
        sinus = scene.roughened(sinus, 1.5, "noise1", fine_mm=2.0)
        scene.canvas.paint(sinus, scene.palette["fat"] + 12, 0)
    pelvis = scene.tube([where + 5 * medial, where + 20 * medial, where + 32 * medial + np.array([0, 4, -14]), where + np.array([0, 6, -55]) + 30 * medial], [6, 5.5, 3, 2])
    if pelvis is not None:
        scene.canvas.paint(pelvis, scene.palette["urine"], None)


def paint_adrenals(scene: Scene, rng: np.random.Generator) -> None:
    """Thin Y-shaped glands, unlabelled."""
    for centre in (np.array([-42, 12, 36.0]), np.array([34, 8, 38.0])):
        c = centre + rng.normal(0, 3, 3)
        out = np.sign(c[0])
        for leg in ([out * 10, -16, -8], [-out * 3, -18, -6]):
            scene.paint(scene.tube([c + np.array([0, 6, 4]), c, c + np.array(leg)], [2.5, 3.4, 2.4]), "adrenal")
