"""One reading of a case's two files, for verification and fingerprint alike: the voxels, and everything odd about them as findings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from arena_pipeline.errors import DatasetError
from arena_pipeline.fingerprint.models import Finding, Level
from arena_pipeline.io import nifti
from arena_pipeline.io.dataset import Case, DatasetJson
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.images import read_image
from arena_pipeline.io.segmentations import ROUNDING_MM, CaseSegmentation, read_case_segmentation

LOWEST_TISSUE_HU = -50.0  # fat and air lie below in every CT
SMALLEST_RANGE_HU = 100.0  # even a window of soft tissue alone is wider
HIGHEST_HU = 32767.0
Part = Literal["Tr", "Ts"]


@dataclass(frozen=True, eq=False)
class CaseReading:
    """A readable case; `segmentation` is None for one without labels. A finding of level "error" says that the CT shows nothing."""

    image: Image
    segmentation: CaseSegmentation | None
    findings: tuple[Finding, ...]


def read_case(case: Case, part: Part, description: DatasetJson) -> CaseReading:
    """Reads both files whole and checks them against each other and against dataset.json.

    Raises:
        ImageError: a file can't be read.
        DatasetError: another grid, labels that dataset.json doesn't have, or of structures that it says are not annotated here.
    """
    image = read_image(case.image, warn=False)
    findings = [_of(case, case.image, *found) for found in _about_image(image)]
    if case.segmentation is None:
        return CaseReading(image, None, tuple(findings))
    segmentation = read_case_segmentation(case.identifier, case.segmentation, image.geometry, description.labels)
    _check_annotated(case, description, segmentation.voxels)
    found = _about_segmentation(segmentation)
    if part == "Tr" and (sentence := _why_no_support_case(case, description, segmentation.voxels)) is not None:
        found.append(("warning", sentence))
    return CaseReading(image, segmentation, (*findings, *(_of(case, case.segmentation, *entry) for entry in found)))


def annotated_structures(description: DatasetJson, case: str) -> tuple[str, ...]:
    """The structures annotated in a case, in the order of dataset.json."""
    return tuple(name for name in description.structures if description.is_annotated(case, name))


def structures_present(description: DatasetJson, voxels: np.ndarray) -> tuple[int, ...]:
    """The integers of the structures with voxels, of the numbers of voxels by label."""
    return tuple(label for label in description.structures.values() if voxels[label])


def looks_like_hu(low: float, high: float) -> bool:
    """Whether a volume from `low` to `high` can be Hounsfield units: it reaches down to fat, is not too narrow, and not wider than HU can be."""
    return low < LOWEST_TISSUE_HU and high - low >= SMALLEST_RANGE_HU and high <= HIGHEST_HU


def not_hu_sentence(low: float, high: float) -> str:
    """What is wrong with intensities from `low` to `high`, and what to do."""
    return f"intensities from {low:g} to {high:g} are not Hounsfield units{_not_hu_hint(low, high)}"


def _not_hu_hint(low: float, high: float) -> str:
    if high - low <= 10:
        return " (scaled to a small range?); export the CT without normalisation"
    if low >= 0 and high <= 255:
        return " (an 8-bit picture, or a windowed export?); export the CT with its full range"
    if low >= 0:
        return " (an MR image, or a CT without its offset?); export it with rescale slope and intercept applied, water is 0 and air -1000 HU"
    return "; export the CT with rescale slope and intercept applied, water is 0 and air -1000 HU"


def _of(case: Case, path: Path, level: Level, sentence: str) -> Finding:
    return Finding(level=level, case=case.identifier, file=f"{path.parent.name}/{path.name}", sentence=sentence)


def _about_image(image: Image) -> list[tuple[Level, str]]:
    low, high = float(image.array.min()), float(image.array.max())
    found: list[tuple[Level, str]] = []
    if low == high:
        found.append(("error", f"every voxel is {low:g}: there is no image in it; export the CT again"))
    elif high < LOWEST_TISSUE_HU:
        found.append(("error", f"intensities from {low:g} to {high:g} HU are air and nothing else; export the CT again"))
    elif not looks_like_hu(low, high):
        found.append(("warning", not_hu_sentence(low, high)))
    found += [("warning", oddity) for oddity in nifti.oddities(image.geometry)]
    if min(image.array.shape) == 1:
        shape = " x ".join(map(str, image.array.shape))
        found.append(("warning", f"a single slice ({shape} voxels); structures in 3D need a volume of many"))
    if np.linalg.det(image.geometry.affine[:3, :3]) < 0:
        found.append(("info", "stored left-handed, as many scans are; read right, nothing to do"))
    return found


def _about_segmentation(segmentation: CaseSegmentation) -> list[tuple[Level, str]]:
    found: list[tuple[Level, str]] = [("fixed", sentence) for sentence in segmentation.fixes]
    if segmentation.off_grid_mm > ROUNDING_MM:
        distance = f"its grid is up to {segmentation.off_grid_mm:.3g} mm off the CT's, less than a tenth of a voxel"
        found.append(("warning", f"{distance}; used on the CT's grid, re-export it to be sure"))
    return found


def _why_no_support_case(case: Case, description: DatasetJson, voxels: np.ndarray) -> str | None:
    """Why a training case can't be a support case of any structure, in a sentence."""
    if not annotated_structures(description, case.identifier):
        return "no structure is annotated: it can't be a support case; take it out of imagesTr or annotate it"
    if not structures_present(description, voxels):
        return "the segmentation is empty: it can't be a support case; annotate it, or take it out of imagesTr"
    return None


def _check_annotated(case: Case, description: DatasetJson, voxels: np.ndarray) -> None:
    annotated = annotated_structures(description, case.identifier)
    unexpected = [name for name, label in description.structures.items() if voxels[label] and name not in annotated]
    if unexpected:
        raise DatasetError(
            f"{', '.join(unexpected)} has voxels in {case.segmentation}, but dataset.json says it is not annotated there",
            case=case.identifier,
            advice=f"add it to annotated.{case.identifier} in dataset.json, or set those voxels to 0",
        )
