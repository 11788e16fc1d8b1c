"""Spine, ribs, sternum, shoulder girdle, pelvis and femurs; all under the one label "bone"."""

from __future__ import annotations

import numpy as np

from arena_pipeline.research.phantoms.body import spine_y
from arena_pipeline.research.phantoms.canvas import Box, Region
from arena_pipeline.research.phantoms.scene import Scene
from arena_pipeline.research.phantoms.structures import PHANTOM_STRUCTURES

# canonical z of the discs, from L5/S1 up to C6/C7
DISCS_MM = np.array([-137, -101, -67, -33, 0, 32, 62, 91, 119, 146, 172, 197, 221, 244, 266, 287, 307, 326, 343, 359, 374, 389, 404, 419, 434], float)
RIB_PITCH_MM = 25.0
BONE = PHANTOM_STRUCTURES["bone"]


def paint_bone(scene: Scene, region: Region | None, cortex_mm: float = 2.2, density: float = 1.0, label: int = BONE) -> None:
    """A bone: cortex outside, textured marrow inside."""
    if region is None:
        return
    fragile = 1.15 - 0.4 * scene.subject.age
    cortical = scene.palette["cortical"] * density * (0.8 + 0.2 * fragile)
    marrow = scene.textured(region, "marrow") * fragile * density
    shell = np.clip(1 + region.distance / np.float32(cortex_mm + 0.5 * scene.canvas.edge_mm), 0, 1)
    scene.canvas.paint(region, marrow + shell * (cortical - marrow), label)


def paint_spine(scene: Scene, rng: np.random.Generator) -> None:
    """Vertebrae with discs, canal, arches and processes."""
    density, spine_width = float(rng.uniform(0.45, 0.8)), float(rng.uniform(0.92, 1.1))
    canvas = scene.canvas
    levels = (-150, -50, 50, 150, 250, 350, 440)
    corners = scene.frame.to_scanner(np.array([[x, spine_y(z) + dy, z] for x in (-62, 62) for z in levels for dy in (-85, 30)]))
    for block in canvas.blocks(corners, 8):
        _paint_spine_block(scene, block, density, spine_width)


def _paint_spine_block(scene: Scene, box: Box, density: float, spine_width: float) -> None:
    canvas = scene.canvas
    x, y, z = np.abs(canvas.field("x", box)) / np.float32(spine_width), canvas.field("spine", box), canvas.field("z", box)
    level, in_level, pitch = _levels(z)
    lumbar = np.clip((140 - z) / 160, 0, 1)
    rx, ry = 15.5 + 8.5 * lumbar, 14.0 + 3.5 * lumbar
    rx, ry = rx * (1.02 - 0.32 * in_level * (1 - in_level)), ry * (1.02 - 0.24 * in_level * (1 - in_level))
    radius = np.sqrt((x / rx) ** 2 + (y / ry) ** 2) + np.float32(1e-3)
    body = np.sqrt(x * x + y * y) * (1 - 1 / radius)
    end = np.float32(-150) - z
    from_disc = np.minimum(in_level, 1 - in_level) * pitch
    disc_half = 2.2 + 2.2 * lumbar
    back = -y - (ry + 11)  # distance behind the middle of the canal
    canal = np.sqrt((x / 1.15) ** 2 + back**2) - 9.5
    mid = np.abs(in_level - 0.45) * pitch
    arch = np.maximum(np.maximum(np.abs(canal - 3.0) - 3.2, mid - 0.36 * pitch), y + ry - 4)
    spinous = np.maximum(np.maximum(x - 3.6, mid - 0.30 * pitch + 0.004 * back), np.abs(back - 26) - 17 - 4 * lumbar)
    reach = 31 + 9 * lumbar * (level > -90)
    tilt = np.abs((in_level - 0.5) * pitch - 0.25 * (x - 20)) - 5.0
    transverse = np.maximum(np.maximum(np.abs(back + 1 - 0.12 * x) - 3.6, tilt), np.maximum(x - reach, 9 - x))
    facet = np.sqrt((x - 17) ** 2 + (back - 5) ** 2 + (np.minimum(in_level, 1 - in_level) * pitch) ** 2) - 8.5
    bones = np.minimum(np.minimum(np.maximum(body, disc_half - from_disc), np.minimum(arch, facet)), np.minimum(spinous, transverse))
    bones = np.maximum(np.maximum(bones, end), -canal)
    canvas.paint(Region(box, np.maximum(body - 1.0, end)), scene.palette["disc"])
    paint_bone(scene, Region(box, bones), 1.2, density)
    canvas.paint(Region(box, np.maximum(canal, end)), scene.palette["fat"] + 60)
    canvas.paint(Region(box, np.maximum(canal + 3, end)), scene.palette["cord"])


def _levels(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per voxel: z of the disc below, position in its vertebra (0 at the lower, 1 at the upper disc), vertebra's height in mm."""
    index = np.clip(np.searchsorted(DISCS_MM, z.ravel()) - 1, 0, len(DISCS_MM) - 2).reshape(z.shape)
    low = DISCS_MM.astype(np.float32)[index]
    pitch = np.diff(DISCS_MM).astype(np.float32)[index]
    return low, (z - low) / pitch, pitch


def paint_ribs(scene: Scene, rng: np.random.Generator) -> None:
    """Twelve pairs of ribs in the wall of the chest, with cartilage in front, and the sternum."""
    density, phase, droop = float(rng.uniform(0.4, 0.75)), float(rng.uniform(0, RIB_PITCH_MM)), float(rng.uniform(85, 120))
    canvas = scene.canvas
    corners = scene.frame.to_scanner(np.array([[sx * 165, y, z] for sx in (-1, 1) for y in (-125, 130) for z in (-35, 345)]))
    for block in canvas.blocks(corners):
        _paint_rib_block(scene, block, density, phase, droop)


def _paint_rib_block(scene: Scene, box: Box, density: float, phase: float, droop: float) -> None:
    canvas = scene.canvas
    cavity = canvas.field("cavity", box)
    near = (cavity > -4 - canvas.edge_mm) & (cavity < 16 + canvas.edge_mm)
    if not near.any():
        return
    x, y, z = canvas.field("x", box), canvas.field("y", box), canvas.field("z", box)
    # 0 at the spine, 1 at the sternum, along the wall
    round_body = np.arctan2(np.abs(x), -(y - 5 - 0.05 * z) * 1.25).astype(np.float32) / np.float32(np.pi)
    drop = droop * np.where(round_body < 0.62, (round_body / 0.62) ** 0.9, 1 - 0.9 * np.clip((round_body - 0.62) / 0.38, 0, 1) ** 1.3)
    height = z + drop.astype(np.float32) + np.float32(phase) - 40
    number = np.round(height / RIB_PITCH_MM)
    off = np.abs(height - number * RIB_PITCH_MM)
    lowest = np.where(number <= 1, 0.33 + 0.16 * number, 1.0)  # floating ribs end early
    shell = np.abs(cavity - 5.0) - 3.4
    rib = np.maximum(np.maximum(shell, off - 5.5), (round_body - lowest) * 120)
    rib = np.maximum(np.maximum(rib, (0 - number) * 10), np.maximum(height - 345, 16 - np.abs(x)))
    front_end = (round_body - 0.70 - 0.001 * (number - 4)) * 200
    cartilage = np.maximum(rib - 0.8, -front_end)
    canvas.paint(Region(box, cartilage), scene.palette["cartilage"])
    paint_bone(scene, Region(box, np.maximum(rib, front_end)), 1.6, density)
    sternum = np.maximum(np.abs(cavity - 8) - 6, np.abs(x) - 15 - 7 * np.clip((z - 215) / 40, 0, 1) + 6 * np.clip((150 - z) / 40, 0, 1))
    sternum = np.maximum(np.maximum(sternum, 118 - z), np.maximum(z - 275, -y))
    paint_bone(scene, Region(box, sternum), 1.4, 0.55 * density)


def paint_shoulders(scene: Scene, rng: np.random.Generator) -> None:
    """Clavicles, scapulae, humeri (raised beside the head, or beside the body), in front of them the fat of the armpits."""
    density = float(rng.uniform(0.55, 0.9))
    for side in (-1, 1):
        pit = scene.clipped(scene.ellipsoid([side * 136, 8, 240], (24, 38, 48)), "outer", 6)
        if pit is not None:
            pit = scene.roughened(pit, 6, "noise1").without(scene.canvas.field("cavity", pit.box) - 12)
            scene.canvas.paint(pit, scene.palette["fat"] + 5)
        paint_bone(scene, scene.tube([[side * 14, 52, 278], [side * 50, 45, 292], [side * 100, 10, 308], [side * 140, -15, 312]], 6.0), 2.0, density)
        _paint_scapula(scene, side, density)
        paint_bone(scene, scene.ellipsoid([side * 158, -30, 296], (21, 21, 22)), 1.8, density * 0.8)
        end = [side * 205, -45, 60] if scene.subject.arms_down else [side * 182, -30, 440]
        _paint_arm(scene, np.array([[side * 160, -30, 285], end]))
        paint_bone(scene, scene.tube([[side * 160, -30, 290], end], 11.0), 4.0, density)


def _paint_arm(scene: Scene, points: np.ndarray) -> None:
    """Skin, fat and muscle of an upper arm, outside the torso."""
    fat = 2 + 0.3 * scene.subject.fat_mm
    for radius, tissue in ((38 + fat, "skin"), (36 + fat, "fat"), (36, "muscle")):
        arm = scene.tube(points, float(radius))
        if arm is not None:
            torso = scene.canvas.field("skin" if tissue != "muscle" else "outer", arm.box)
            scene.canvas.paint(arm.without(torso), scene.textured(arm, tissue))


def _paint_scapula(scene: Scene, side: int, density: float) -> None:
    for row in range(7):  # a triangle, point down: horizontal rods that get shorter
        z, width = 292 - 22 * row, 9 * (6 - row) + 6
        rod = [[side * 74, -108 - 2 * row, z], [side * (74 + width), -108 - 2 * row + width, z + 3]]
        paint_bone(scene, scene.tube(rod, 3.2), 1.5, density)
    paint_bone(scene, scene.tube([[side * 80, -118, 268], [side * 115, -105, 292], [side * 150, -55, 316]], 5.0), 1.6, density)


def paint_pelvis(scene: Scene, rng: np.random.Generator) -> None:
    """Sacrum, hip bones and femurs."""
    density = float(rng.uniform(0.45, 0.75))
    _paint_sacrum(scene, density)
    for side in (-1, 1):
        _paint_ilium(scene, side, density)
        socket = scene.ellipsoid([side * 88, -2, -240], (33, 33, 33))
        if socket is not None:
            x = scene.canvas.field("x", socket.box) * side
            head = socket.distance + 7 * scene.size
            paint_bone(scene, socket.without(head).within(x - 100), 2.5, density)
        paint_bone(scene, scene.tube([[side * 88, -22, -262], [side * 76, -40, -285], [side * 66, -42, -312]], [16, 14, 15]), 2.2, density)
        paint_bone(scene, scene.tube([[side * 66, -42, -312], [side * 40, 5, -300], [side * 22, 32, -285]], [9, 7, 8]), 2.0, density)
        paint_bone(scene, scene.tube([[side * 82, 18, -236], [side * 50, 38, -248], [side * 16, 44, -268]], [13, 9, 11]), 2.0, density)
        paint_bone(scene, scene.ellipsoid([side * 90, -3, -240], (23.5, 23.5, 23.5)), 1.5, density * 1.3)
        paint_bone(scene, scene.tube([[side * 90, -3, -240], [side * 112, -8, -258], [side * 128, -14, -275]], [15, 13, 18]), 2.4, density)
        paint_bone(scene, scene.tube([[side * 126, -12, -272], [side * 124, -4, -340], [side * 116, 6, -480]], [17, 14, 13]), 5.0, density)


def _paint_sacrum(scene: Scene, density: float) -> None:
    z = np.array([-142, -155, -172, -190, -207, -222, -240, -255], float)
    y = spine_y(z) - np.array([0, 4, 6, 6, 4, 2, 0, 0])
    for side in (-1, 0, 1):
        width = np.array([26, 28, 25, 19, 12, 7, 2, 0]) * side
        radius = np.array([17, 18, 16, 13, 10, 8, 6, 5]) - 2 * abs(side)
        paint_bone(scene, scene.tube(np.stack([width, y - 6 * abs(side), z], 1), radius), 1.5, density * 0.85)
    region = scene.tube(np.stack([0 * z[:6], y[:6] - 17, z[:6]], 1), np.array([8, 7, 6, 5, 3, 2.0]))
    if region is not None:
        scene.canvas.paint(region, scene.palette["fat"] + 70)


def _paint_ilium(scene: Scene, side: int, density: float) -> None:
    canvas = scene.canvas
    corners = scene.frame.to_scanner(np.array([[side * x, y, z] for x in (25, 150) for y in (-90, 75) for z in (-250, -75)]))
    for block in canvas.blocks(corners):
        _paint_ilium_block(scene, block, side, density)


def _paint_ilium_block(scene: Scene, box: Box, side: int, density: float) -> None:
    canvas = scene.canvas
    x, y, z = canvas.field("x", box) * side, canvas.field("y", box), canvas.field("z", box)
    rise = np.clip(z + 230, 0, 150)
    sheet = 78 + 0.62 * y + 0.30 * rise - 0.0035 * y * y - 0.0009 * rise * rise * (y > 0)
    across = (x - sheet) * np.float32(0.76)
    narrow = np.clip((-150 - z) / 70, 0, 1)  # the sciatic notch lies behind the lower part
    rim = np.sqrt(((y + 6 - 16 * narrow) / (66 - 36 * narrow)) ** 2 + ((z + 165) / 78) ** 2) - 1
    thickness = 4.2 + 4.0 * np.clip(1 + rim * 3, 0, 1) + 9 * np.clip((-190 - z) / 40, 0, 1)
    plate = np.maximum(np.abs(across) - thickness, rim * 60)
    paint_bone(scene, Region(box, plate.astype(np.float32)), 2.0, density)
