"""Phantoms as raw datasets on disk, in the layouts that TotalSegmentator (v1) and FLARE'22 are published in.

ROOT/meta.csv  ROOT/s0001/ct.nii.gz  ROOT/s0001/segmentations/liver.nii.gz ...
ROOT/FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz  ROOT/FLARE22Train/labels/FLARE22_Tr_0001.nii.gz
ROOT/FLARE22Tuning/images/FLARETs_0007_0000.nii.gz  ROOT/FLARE22Tuning/labels/FLARETs_0007.nii.gz
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.facts import load_fact
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import write_image, write_segmentation
from arena_pipeline.research.phantoms.field_of_view import FieldOfView
from arena_pipeline.research.phantoms.phantom import Phantom, make_phantom

LayoutName = Literal["totalsegmentator", "flare22"]
LAYOUTS: tuple[LayoutName, ...] = ("totalsegmentator", "flare22")
ORIENTATIONS = ("RAS", "LPS", "LAS", "RPS", "LAI", "PIR")
META_COLUMNS = ("image_id", "age", "gender", "institute", "study_type", "split")


@dataclass(frozen=True)
class PhantomCase:
    """One case to make and where it goes.

    Attributes:
        folder: the raw dataset's root.
        index: number of the case; it and `seed` alone decide what the case looks like.
        test: a query (TotalSegmentator: split "test"; FLARE'22: a tuning case).
        spacing_mm: (x, y, z) before reorientation; None: drawn from what scanners use.
        field_of_view: a name of field_of_view.RANGES; None: drawn.
        size: of the bodies, as in make_phantom.
        unannotated_share: how often a TotalSegmentator mask file is left out ("not annotated").
    """

    folder: Path
    layout: LayoutName
    index: int
    seed: int
    test: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    field_of_view: str | None = None
    size: float = 1.0
    unannotated_share: float = 0.0

    @property
    def identifier(self) -> str:
        if self.layout == "totalsegmentator":
            return f"s{self.index:04d}"
        return f"{'FLARETs' if self.test else 'FLARE22_Tr'}_{self.index:04d}"

    @property
    def image_path(self) -> Path:
        """The CT. It is written last: a case that has it is complete."""
        if self.layout == "totalsegmentator":
            return self.folder / self.identifier / "ct.nii.gz"
        return self._part / "images" / f"{self.identifier}_0000.nii.gz"

    @property
    def label_path(self) -> Path:
        """FLARE'22: the label map; TotalSegmentator: the folder of the masks."""
        if self.layout == "totalsegmentator":
            return self.folder / self.identifier / "segmentations"
        return self._part / "labels" / f"{self.identifier}.nii.gz"

    @property
    def _part(self) -> Path:
        return self.folder / ("FLARE22Tuning" if self.test else "FLARE22Train")


def write_phantom_case(case: PhantomCase) -> None:
    """Makes one phantom, gives it the orientation of some scanner, and writes it."""
    rng = np.random.default_rng([case.seed, case.index])
    spacing = draw_spacing(rng, case.layout)
    view = FieldOfView.named(case.field_of_view) if case.field_of_view else None
    phantom = make_phantom(rng, case.spacing_mm or spacing, view, size=case.size)
    phantom = reoriented(phantom, str(rng.choice(ORIENTATIONS, p=[0.35, 0.3, 0.15, 0.1, 0.05, 0.05])), _tilt(rng))
    if case.layout == "totalsegmentator":
        _write_masks(case, phantom, rng)
    else:
        _write_labels(case, phantom)
    write_image(case.image_path, phantom.image)


def draw_spacing(rng: np.random.Generator, layout: LayoutName) -> tuple[float, float, float]:
    """TotalSegmentator is mostly resampled to 1.5 mm; other scans have 0.7-1 mm pixels and slices of 1.5-5 mm."""
    uniform, in_plane = rng.random(), round(float(rng.uniform(0.7, 1.0)), 3)
    slices = float(rng.choice([1.5, 2.0, 2.5, 3.0, 5.0]))
    return (1.5, 1.5, 1.5) if layout == "totalsegmentator" and uniform < 0.6 else (in_plane, in_plane, slices)


def _tilt(rng: np.random.Generator) -> np.ndarray:
    """(3, 3) rotation of the grid in the scanner: mostly none, sometimes a few degrees."""
    oblique, angles = rng.random() < 0.2, np.deg2rad(rng.uniform(-8, 8, 2))
    if not oblique:
        return np.eye(3)
    (cx, cz), (sx, sz) = np.cos(angles), np.sin(angles)
    return np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])


def reoriented(phantom: Phantom, axis_codes: str, tilt: np.ndarray) -> Phantom:
    """The same phantom with array axes along `axis_codes` (e.g. "LPS"), and its grid rotated by `tilt`."""
    affine = phantom.image.geometry.affine
    change = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(axis_codes))
    image, segmentation = (
        np.ascontiguousarray(nib.orientations.apply_orientation(array, change)) for array in (phantom.image.array, phantom.segmentation)
    )
    turned = affine @ nib.orientations.inv_ornt_aff(change, phantom.image.array.shape)
    turned[:3] = tilt @ turned[:3]
    x, y, z = image.shape
    return replace(phantom, image=Image(image, Geometry((x, y, z), turned)), segmentation=segmentation)


def _write_masks(case: PhantomCase, phantom: Phantom, rng: np.random.Generator) -> None:
    for structure in totalsegmentator_structures(phantom.structures):
        if rng.random() < case.unannotated_share:
            continue
        mask = (phantom.segmentation == phantom.structures[structure]).astype(np.uint8)
        write_segmentation(case.label_path / f"{structure}.nii.gz", mask, phantom.image.geometry)


def totalsegmentator_structures(structures: dict[str, int]) -> list[str]:
    """The structures that TotalSegmentator v1 has too; lungs and bones, which it splits into parts, get no masks."""
    known = set(load_fact("totalsegmentator_classes")["v1"])
    return [name for name in structures if name in known]


def _write_labels(case: PhantomCase, phantom: Phantom) -> None:
    ids: dict[str, int] = load_fact("structures")["flare22_labels"]
    table = np.zeros(256, np.uint8)
    for structure, label in phantom.structures.items():
        table[label] = ids.get(structure, 0)
    write_segmentation(case.label_path, table[phantom.segmentation], phantom.image.geometry)


def write_meta(folder: Path, cases: list[PhantomCase], val_share: float = 0.1) -> None:
    """meta.csv as TotalSegmentator ships it (BOM, semicolons); rows of other cases already in it are kept."""
    path = folder / "meta.csv"
    rows: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8-sig").splitlines()[1:]:
            rows[line.split(";")[0]] = line
    for case in cases:
        training = "val" if np.random.default_rng([case.seed, case.index, 1]).random() < val_share else "train"
        rows[case.identifier] = f"{case.identifier};;;phantom;made-up CT;{'test' if case.test else training}"
    write_text(path, "\ufeff" + "\n".join([";".join(META_COLUMNS), *(rows[name] for name in sorted(rows))]) + "\n")
