"""Raw folders in the public datasets' layouts, of volumes a few voxels wide."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest

SHAPE = (6, 5, 4)
OBLIQUE = np.array([[-1.4, 0.3, 0.0, 12.0], [0.3, 1.4, 0.0, -7.0], [0.0, 0.0, 1.5, 3.0], [0.0, 0.0, 0.0, 1.0]])
Box = tuple[slice, slice, slice]


def box(x: tuple[int, int], y: tuple[int, int] = (0, 5), z: tuple[int, int] = (0, 4)) -> Box:
    """Voxels from the first (included) to the second (excluded) number along each axis."""
    return slice(*x), slice(*y), slice(*z)


@pytest.fixture
def raw_subject(write_nifti: Callable[..., Path], rng: np.random.Generator) -> Callable[..., Path]:
    """raw_subject(root, "s0001", {"liver": box, "spleen": None}): a TotalSegmentator subject; None is an empty mask. Returns its folder."""

    def make(root: Path, name: str, masks: Mapping[str, Box | None], affine: np.ndarray = OBLIQUE) -> Path:
        write_nifti(root / name / "ct.nii.gz", rng.integers(-1000, 1000, SHAPE).astype(np.int16), affine)
        (root / name / "segmentations").mkdir()
        for structure, where in masks.items():
            mask = np.zeros(SHAPE, np.uint8)
            if where is not None:
                mask[where] = 1
            write_nifti(root / name / "segmentations" / f"{structure}.nii.gz", mask, affine)
        return root / name

    return make


@pytest.fixture
def write_meta() -> Callable[..., None]:
    """write_meta(root, {"s0001": "train"}, v2=False, bom=False): meta.csv as the releases have it."""

    def write(root: Path, split: Mapping[str, str], v2: bool = False, bom: bool = False) -> None:
        header = "image_id;age;gender;institute;study_type;split" + (";manufacturer;scanner_model;kvp;pathology;pathology_location" if v2 else "")
        lines = [f"{case};60;m;A;ct abdomen;{part}" + (";S;X;120;no;" if v2 else "") for case, part in split.items()]
        (root / "meta.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8-sig" if bom else "utf-8")

    return write


@pytest.fixture
def flare_case(write_nifti: Callable[..., Path], rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """flare_case(parent of images/ and labels/, "FLARE22_Tr_0001", labels=True): writes both files and returns the raw labels."""

    def make(parent: Path, case: str, labels: bool = True) -> np.ndarray:
        write_nifti(parent / "images" / f"{case}_0000.nii.gz", rng.integers(-1000, 1000, SHAPE).astype(np.int16))
        segmentation = (np.arange(np.prod(SHAPE)) % 14).reshape(SHAPE).astype(np.uint8)
        if labels:
            write_nifti(parent / "labels" / f"{case}.nii.gz", segmentation)
        return segmentation

    return make


LEFT = (slice(0, 2), slice(0, 5), slice(0, 4))
RIGHT = (slice(4, 6), slice(0, 5), slice(0, 4))


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def report(folder: Path) -> dict:
    return json.loads((folder / "conversion_report.json").read_text())


@pytest.fixture
def v1_root(tmp_path: Path, raw_subject, write_meta) -> Path:
    """Three v1 subjects; s0002 has no spleen mask (not annotated), s0001 an empty one (absent)."""
    root = tmp_path / "raw v1"
    raw_subject(root, "s0001", {"liver": LEFT, "spleen": None, "heart_myocardium": RIGHT})
    raw_subject(root, "s0002", {"liver": RIGHT})
    raw_subject(root, "s0003", {"liver": LEFT, "spleen": RIGHT, "heart_myocardium": None})
    write_meta(root, {"s0001": "train", "s0002": "val", "s0003": "test"})
    return root
