"""Everything measured in one training case, in one reading of its two files."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import nibabel as nib
import numpy as np
from scipy import ndimage

from arena_pipeline.errors import DatasetError
from arena_pipeline.fingerprint.models import CaseFacts
from arena_pipeline.io.dataset import Case
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.images import read_image
from arena_pipeline.io.labels import count_labels
from arena_pipeline.io.segmentations import read_case_segmentation

INTENSITY_SEED = 1234
LOWEST_TISSUE_HU = -50.0  # fat and air lie below in every CT
SMALLEST_RANGE_HU = 100.0  # even a window of soft tissue alone is wider
HIGHEST_HU = 32767.0


@dataclass(frozen=True)
class CaseJob:
    """What a worker needs to measure one case.

    Attributes:
        labels: structure -> integer.
        annotated: the structures annotated in this case.
        window_hu: the foundation's.
        samples: foreground voxels to draw.
    """

    case: Case
    labels: dict[str, int]
    annotated: tuple[str, ...]
    window_hu: tuple[float, float]
    samples: int


@dataclass(frozen=True)
class StructureMeasurement:
    """One structure with voxels in one case.

    Attributes:
        components: number of its 26-connected components.
        touches_border: whether it has a voxel in the outermost layer of the volume.
        clipped_share: share of its voxels outside the window.
    """

    volume_ml: float
    components: int
    touches_border: bool
    clipped_share: float


@dataclass(frozen=True)
class CaseMeasurement:
    """One case. `intensities` are HU of drawn foreground voxels, empty where none is labelled; `structures` has the non-empty ones."""

    facts: CaseFacts
    shape_after_crop: tuple[int, int, int]
    all_air: bool
    orthonormal: bool
    structures: dict[str, StructureMeasurement]
    intensities: np.ndarray


def measure_case(job: CaseJob) -> CaseMeasurement:
    """Reads and checks a case and measures it.

    Raises:
        ImageError: a file can't be read.
        DatasetError: no segmentation, another grid, labels that dataset.json doesn't have, or of structures it says are not annotated here.
    """
    case = job.case
    if case.segmentation is None:
        raise DatasetError(f"{case.identifier}: no segmentation; every training case needs one in labelsTr")
    image = read_image(case.image)
    segmentation = read_case_segmentation(case.identifier, case.segmentation, image.geometry, job.labels)
    voxels = segmentation.voxels
    check_annotated(case, job.labels, job.annotated, voxels)
    low, high = job.window_hu
    clipped = (image.array < low) | (image.array > high)
    facts = _case_facts(image.array, image.geometry, float(clipped.mean()), voxels)
    box = _bounding_box(image.array > low)
    axes = ras_axes(image.geometry)
    return CaseMeasurement(
        facts=facts,
        shape_after_crop=_ordered([s.stop - s.start for s in box] if box else image.geometry.shape, axes),
        all_air=box is None,
        orthonormal=image.geometry.is_orthonormal,
        structures=_measure_structures(segmentation.array, job.labels, voxels, clipped, image.geometry.voxel_volume_ml),
        intensities=_draw_foreground(image.array, segmentation.array, job.samples),
    )


def looks_like_hu(low: float, high: float) -> bool:
    """Whether a volume from `low` to `high` can be Hounsfield units: it reaches down to fat, is no tiny range and no more than HU can be."""
    return low < LOWEST_TISSUE_HU and high - low >= SMALLEST_RANGE_HU and high <= HIGHEST_HU


def ras_axes(geometry: Geometry) -> tuple[int, int, int]:
    """The array axes that run along the patient's x, y and z."""
    x, y, z = np.argsort(nib.io_orientation(geometry.affine)[:, 0])
    return int(x), int(y), int(z)


def check_annotated(case: Case, labels: dict[str, int], annotated: tuple[str, ...], voxels: np.ndarray) -> None:
    """Raises DatasetError for voxels of structures that dataset.json says are not annotated in this case.

    Args:
        labels: structure -> integer.
        voxels: number of voxels of each label.
    """
    unexpected = [name for name, label in labels.items() if voxels[label] and name not in annotated]
    if unexpected:
        raise DatasetError(
            f"{case.identifier}: {', '.join(unexpected)} has voxels in {case.segmentation}, but dataset.json says it is not annotated there; "
            f"add it to annotated.{case.identifier} in dataset.json, or set those voxels to 0"
        )


def _case_facts(array: np.ndarray, geometry: Geometry, clipped_share: float, voxels: np.ndarray) -> CaseFacts:
    axes = ras_axes(geometry)
    shape = _ordered(geometry.shape, axes)
    spacing = tuple(float(geometry.spacing_mm[axis]) for axis in axes)
    low, high = float(array.min()), float(array.max())
    return CaseFacts(
        shape=shape,
        spacing_mm=spacing,
        orientation=geometry.orientation,
        oblique=geometry.is_oblique,
        anisotropy=max(spacing) / min(spacing),
        min_hu=low,
        max_hu=high,
        clipped_share=clipped_share,
        field_of_view_mm=tuple(n * mm for n, mm in zip(shape, spacing, strict=True)),
        looks_like_hu=looks_like_hu(low, high),
        labels_present=tuple(int(label) for label in np.flatnonzero(voxels) if label),
    )


def _measure_structures(
    segmentation: np.ndarray, labels: dict[str, int], voxels: np.ndarray, clipped: np.ndarray, voxel_volume_ml: float
) -> dict[str, StructureMeasurement]:
    clipped_voxels = count_labels(segmentation[clipped], len(voxels))
    boxes = ndimage.find_objects(segmentation, max_label=len(voxels) - 1)
    measured = {}
    for name, label in labels.items():
        if not voxels[label]:
            continue
        box = boxes[label - 1]
        _, components = cc3d.connected_components(segmentation[box] == label, connectivity=26, return_N=True)
        measured[name] = StructureMeasurement(
            volume_ml=float(voxels[label] * voxel_volume_ml),
            components=int(components),
            touches_border=any(s.start == 0 or s.stop == n for s, n in zip(box, segmentation.shape, strict=True)),
            clipped_share=float(clipped_voxels[label] / voxels[label]),
        )
    return measured


def _draw_foreground(array: np.ndarray, segmentation: np.ndarray, samples: int) -> np.ndarray:
    """As nnU-Net draws: the same number from every case, with replacement, so that no large case outweighs the others."""
    foreground = array[segmentation > 0]
    if not foreground.size:
        return np.empty(0, np.float32)
    rng = np.random.default_rng(INTENSITY_SEED)
    return rng.choice(foreground, samples, replace=True).astype(np.float32)


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    box = ndimage.find_objects(mask.view(np.uint8))
    return box[0] if box else None


def _ordered(values: list[int] | tuple[int, int, int], axes: tuple[int, int, int]) -> tuple[int, int, int]:
    x, y, z = (int(values[axis]) for axis in axes)
    return x, y, z
