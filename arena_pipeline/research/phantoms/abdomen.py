"""The solid organs of the upper abdomen: liver, gallbladder, spleen, pancreas, kidneys, adrenals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena_pipeline.research.phantoms.canvas import Box, Region
from arena_pipeline.research.phantoms.scene import Scene
from arena_pipeline.research.phantoms.shapes import directions, smooth_union
from arena_pipeline.research.phantoms.structures import PHANTOM_STRUCTURES


def paint_liver(scene: Scene, rng: np.random.Generator) -> None:
    """The liver: everything between the right dome of the diaphragm and a slanted lower surface, with a left lobe that thins out to the left."""
    size = float(rng.normal(-10, 9))
    tip, left_reach, left_low = float(rng.normal(0, 16)), float(rng.normal(0, 18)), float(rng.normal(0, 10))
    trees = [_hepatic_branch(rng, kind) for kind in ("hepatic",) * 7 + ("portal",) * 9]
    lesions = [(rng.normal([80, 30, 60], [25, 30, 30]), float(rng.uniform(4, 22)), float(rng.normal(-25, 25))) for _ in range(int(rng.poisson(0.7)))]
    canvas = scene.canvas
    corners = scene.frame.to_scanner(np.array([[x, y, z] for x in (-125, 150) for y in (-90, 150) for z in (-110, 165)]))
    for block in canvas.blocks(corners):
        _paint_liver_block(scene, block, size, tip, left_reach, left_low)
    for kind, points, radii in trees:
        vessel = scene.tube(points, radii)
        if vessel is not None:
            inside = canvas.labels[vessel.box.slices] == PHANTOM_STRUCTURES["liver"]
            canvas.paint(Region(vessel.box, np.where(inside, vessel.distance, 50)), scene.palette[kind], None)
    for centre, radius, offset in lesions:
        _paint_lesion(scene, centre, radius, "liver", scene.palette["liver"] + offset)


def _paint_liver_block(scene: Scene, box: Box, size: float, tip: float, left_reach: float, left_low: float) -> None:
    canvas = scene.canvas
    abdomen = canvas.field("abdomen", box)
    if abdomen.min() > canvas.edge_mm:
        return
    x, y, z = canvas.field("x", box), canvas.field("y", box), canvas.field("z", box)
    bump = canvas.field("noise1", box) * 3 + canvas.field("noise0", box) * 3
    underside = -((0.60 * (x - 97) + 0.05 * (y - 20) + 0.79 * (z + 16 - tip)) + size)
    medial = 8 + 0.10 * (z - 60) + 14 / (1 + np.exp((y - 14) / 6)) - x  # the caudate lobe reaches around the vena cava
    retroperitoneum = 46 - np.sqrt((x - 66) ** 2 + (y + 42) ** 2 + (0.6 * (z + 22)) ** 2)
    right = smooth_max(smooth_max(underside, np.maximum(medial, tip - z - 85), 18), retroperitoneum, 12)
    left = _left_lobe(x, y, z, left_reach, left_low)
    liver = smooth_union(right, left, 26) + bump
    cleft = np.abs(x - 10 + 0.35 * (z - 40) - 0.15 * (y - 60) + 5 * canvas.field("noise2", box)) - 1.2 - 0.02 * np.abs(y - 60)
    fissure = np.maximum(cleft, np.maximum(62 - y, z - 24 - 0.2 * (y - 60) - left_low))
    region = Region(box, np.maximum(smooth_max(liver, -fissure, 8), abdomen))
    scene.paint(region, "liver", "liver")


def _left_lobe(x: np.ndarray, y: np.ndarray, z: np.ndarray, reach: float, low: float) -> np.ndarray:
    """A flat ellipsoid from the right lobe across the midline, thinner towards its left tip."""
    u = (x - 5 + 0.5 * reach) / (82 - 0.5 * reach)
    thin = 1.0 + 0.30 * u
    v, w = (y - 72 + 10 * u) / (40 * thin), (z - 66 - low + 18 * u) / (44 * thin)
    k = np.sqrt(u * u + v * v + w * w)
    return (k - 1) * 40


def smooth_max(a: np.ndarray, b: np.ndarray, radius_mm: float) -> np.ndarray:
    """The intersection of two shapes with its edge rounded over about `radius_mm`."""
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
    thickness, scale = float(rng.uniform(38, 60)), float(np.clip(rng.normal(0.93, 0.13), 0.65, 1.4))
    centre = np.array([-110, -12, 40.0]) + rng.normal(0, 5, 3)
    mottled = scene.subject.phase == "arterial"
    region = scene.ellipsoid(centre, (58 * scale, 64 * scale, 58 * scale), directions((0.9, 0.3, 0.2), (0.2, -0.8, 0.55)))
    region = scene.clipped(region, "abdomen")
    if region is None:
        return
    deep = -(scene.canvas.field("cavity", region.box) + np.float32(thickness))
    region = scene.roughened(Region(region.box, smooth_max(region.distance, deep, 14)), 2.5, "noise2")
    region = scene.clipped(region, "abdomen")
    scene.paint(region, "spleen", "spleen", gap_mm=1.0)
    if mottled and region is not None:
        bands = 18 * scene.canvas.texture("coarse", region.box)
        scene.canvas.paint(region.grown(-2), scene.palette["spleen"] + bands, None)


def paint_pancreas(scene: Scene, rng: np.random.Generator) -> None:
    """Head in the duodenal loop, neck before the portal vein, body over the aorta, tail to the splenic hilum."""
    girth, tail = float(np.clip(rng.normal(1.1, 0.15), 0.7, 1.5)), rng.normal(0, 8)
    x, y = [34.0, 40, 34, 14, -12, -40, -66, -84], [36.0, 44, 50, 58, 56, 40, 18, 2]
    points = np.stack([x, y, [-34, -16, -2, 6, 14, 22 + tail * 0.5, 30 + tail, 34 + tail]], axis=1)
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


@dataclass(frozen=True, eq=False)
class _Kidney:
    """One kidney. `where`: its centre in canonical mm; `axes`: rows are directions along it, away from the spine, and across."""

    structure: str
    where: np.ndarray
    size: float
    axes: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, structure: str, side: int, centre: list[float]) -> _Kidney:
        where = np.array(centre) + rng.normal(0, [4, 4, 8])
        axes = directions((side * 0.20, 0.16 + rng.normal(0, 0.05), -1.0), (side * 0.75, -0.6, 0))
        return cls(structure, where, float(np.clip(rng.normal(1.06, 0.09), 0.8, 1.3)), axes)

    @property
    def medial(self) -> np.ndarray:
        return -self.axes[1]

    def radii(self, growth: float = 0.0) -> tuple[float, float, float]:
        """Half-lengths along `axes` in mm, including about `growth` mm of fat around the kidney."""
        return 54 * self.size + 1.2 * growth, 29 * self.size + 0.6 * growth, 25 * self.size + 0.5 * growth


def paint_kidneys(scene: Scene, rng: np.random.Generator) -> None:
    """Cortex, medulla, sinus with fat and renal pelvis, inside perirenal fat; sometimes cysts or a stone."""
    for structure, side, centre in (("kidney_right", 1, [74.0, -8, -20]), ("kidney_left", -1, [-73.0, -10, -6])):
        kidney = _Kidney.random(rng, structure, side, centre)
        stone, cysts = rng.random() < 0.08, [(rng.normal(0, 1, 3), float(rng.uniform(4, 20))) for _ in range(int(rng.poisson(0.35)))]
        region = scene.ellipsoid(kidney.where, kidney.radii(), kidney.axes)
        if region is None or scene.subject.missing_kidney == structure.split("_")[1]:
            continue
        _paint_perirenal_fat(scene, kidney, region, side)
        _paint_kidney(scene, kidney, region)
        for direction, radius in cysts:
            centre_of_cyst = kidney.where + 30 * direction / np.linalg.norm(direction) * np.array([0.8, 0.8, 1.4])
            cyst = scene.clipped(scene.ellipsoid(centre_of_cyst, (radius, radius, radius)), "abdomen", 1)
            if cyst is not None:
                scene.canvas.paint(cyst, 8.0, PHANTOM_STRUCTURES[structure])
        dot = scene.ellipsoid(kidney.where + 10 * kidney.medial, (3, 3, 4)) if stone else None
        if dot is not None:
            scene.canvas.paint(dot, 700.0, None)


def _paint_perirenal_fat(scene: Scene, kidney: _Kidney, outline: Region, side: int) -> None:
    """Fat around the kidney: little in front and at the side, more behind, below and medially."""
    around = scene.ellipsoid(kidney.where + np.array([-4.0 * side, -12, -10]), kidney.radii(6 + 12 * scene.subject.visceral), kidney.axes)
    for layer in (around, outline.grown(2.0 + 2.0 * scene.subject.visceral)):
        region = scene.clipped(layer, "abdomen")
        if region is not None:
            scene.canvas.paint(region, scene.palette["fat"] + 3 + 6 * scene.canvas.texture("fine", region.box))


def _paint_kidney(scene: Scene, kidney: _Kidney, outline: Region) -> None:
    where, medial, size = kidney.where, kidney.medial, kidney.size
    region = scene.clipped(scene.roughened(outline, 1.4, "noise2"), "abdomen", 1)
    if region is None:
        return
    scene.paint(region, "kidney_cortex", kidney.structure)
    pyramids = region.within(region.distance + 7.5 + 1.6 * scene.canvas.texture("coarse", region.box))
    scene.paint(pyramids, "kidney_medulla", kidney.structure)
    sinus = scene.ellipsoid(where + 14 * size * medial, (25 * size, 14 * size, 9 * size), kidney.axes)
    if sinus is not None:
        scene.canvas.paint(scene.roughened(sinus, 1.5, "noise1", fine_mm=2.0), scene.palette["fat"] + 12, 0)
    ureter = [where + 5 * medial, where + 20 * medial, where + 32 * medial + np.array([0, 4, -14]), where + 30 * medial + np.array([0, 6, -55])]
    pelvis = scene.tube(ureter, [6, 5.5, 3, 2])
    if pelvis is not None:
        scene.canvas.paint(pelvis, scene.palette["urine"], None)


def paint_adrenals(scene: Scene, rng: np.random.Generator) -> None:
    """Thin Y-shaped glands, unlabelled."""
    for centre in (np.array([-42, 12, 36.0]), np.array([34, 8, 38.0])):
        c = centre + rng.normal(0, 3, 3)
        out = np.sign(c[0])
        for leg in ([out * 10, -16, -8], [-out * 3, -18, -6]):
            scene.paint(scene.tube([c + np.array([0, 6, 4]), c, c + np.array(leg)], [2.5, 3.4, 2.4]), "adrenal")
