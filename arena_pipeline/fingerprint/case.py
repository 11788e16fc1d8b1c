"""Everything measured in one training case."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage

from arena_pipeline.errors import DatasetError
from arena_pipeline.fingerprint.models import CaseFacts, Finding
from arena_pipeline.fingerprint.reading import looks_like_hu, read_case, structures_present
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.dataset import Case, DatasetJson
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.labels import bounding_box, count_labels, label_boxes
from arena_pipeline.io.nearest import corner_aligned_axes, edge_aligned_axes, edge_aligned_shape, take_nearest
from arena_pipeline.io.orientation import AxisOrder

INTENSITY_SEED = 1234


@dataclass(frozen=True)
class CaseJob:
    """What a worker needs to measure one case. `scheme`: the foundation's; `samples`: foreground voxels to draw."""

    case: Case
    description: DatasetJson
    scheme: Scheme
    samples: int


@dataclass(frozen=True)
class StructureMeasurement:
    """One structure with voxels in one case.

    Attributes:
        volume_ml, components: its volume, and the number of its 26-connected components; None where it borders on voxels that nobody annotated.
        touches_border: whether it has a voxel in the outermost layer of the volume.
        clipped_share: share of its voxels outside the window.
        vanishes: whether none of its voxels is left at the foundation's spacing.
    """

    volume_ml: float | None
    components: int | None
    touches_border: bool
    clipped_share: float
    vanishes: bool


@dataclass(frozen=True)
class CaseMeasurement:
    """One case. `intensities` are HU of drawn foreground voxels, empty where none is labelled; `structures` has the non-empty ones."""

    facts: CaseFacts
    findings: tuple[Finding, ...]
    shape_after_crop: tuple[int, int, int]
    orthonormal: bool
    structures: dict[str, StructureMeasurement]
    intensities: np.ndarray


def measure_case(job: CaseJob) -> CaseMeasurement:
    """Reads and checks a case and measures it.

    Raises:
        ImageError: a file can't be read.
        DatasetError: no segmentation, or what `read_case` raises.
    """
    case, description = job.case, job.description
    reading = read_case(case, "Tr", description)
    if reading.segmentation is None:
        raise DatasetError("no segmentation", case=case.identifier, advice="every training case needs one in labelsTr")
    image, segmentation, voxels = reading.image, reading.segmentation.array, reading.segmentation.voxels
    low, high = job.scheme.window_hu
    clipped = (image.array < low) | (image.array > high)
    box = bounding_box(image.array > low)
    shape = image.array[box].shape if box else image.geometry.shape
    return CaseMeasurement(
        facts=_case_facts(image.array, image.geometry, float(clipped.mean()), structures_present(description, voxels)),
        findings=_findings(case, reading.findings, all_air=box is None),
        shape_after_crop=AxisOrder.of(image.geometry.affine).ordered(shape),
        orthonormal=image.geometry.is_orthonormal,
        structures=_measured_structures(segmentation, voxels, clipped, image.geometry, job),
        intensities=_draw_foreground(image.array, segmentation, description.ignore_label, job.samples),
    )


def _findings(case: Case, found: tuple[Finding, ...], all_air: bool) -> tuple[Finding, ...]:
    """What may spoil a result, and faults that reading mends. A CT that shows nothing harms its own case alone, so it is no error here."""
    kept = [f if f.level != "error" else f.model_copy(update={"level": "warning"}) for f in found if f.level != "info"]
    if all_air:
        sentence = "nothing in the volume is above the lower end of the foundation's window: it is empty for the network; check the CT"
        kept.append(Finding(level="warning", case=case.identifier, sentence=sentence))
    return tuple(kept)


def _case_facts(array: np.ndarray, geometry: Geometry, clipped_share: float, labels_present: tuple[int, ...]) -> CaseFacts:
    order = AxisOrder.of(geometry.affine)
    shape, spacing = order.ordered(geometry.shape), order.ordered(geometry.spacing_mm)
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
        labels_present=labels_present,
    )


def _measured_structures(
    segmentation: np.ndarray, voxels: np.ndarray, clipped: np.ndarray, geometry: Geometry, job: CaseJob
) -> dict[str, StructureMeasurement]:
    """Those with `voxels` in a segmentation (x, y, z)."""
    outside_window = count_labels(segmentation[clipped], len(voxels))
    order = AxisOrder.of(geometry.affine)
    oriented, spacings = order.apply(segmentation), (order.ordered(geometry.spacing_mm), job.scheme.spacing_xyz_mm)
    if job.scheme.nnunet is None:
        axes = corner_aligned_axes(oriented.shape, *spacings)
    else:
        axes = edge_aligned_axes(oriented.shape, edge_aligned_shape(oriented.shape, *spacings))
    left = count_labels(take_nearest(oriented, axes), len(voxels))
    ignore_label, boxes, found = job.description.ignore_label, label_boxes(segmentation), {}
    for name, label in job.description.structures.items():
        if not voxels[label]:
            continue
        box = boxes[label]
        whole = ignore_label is None or not voxels[ignore_label] or _is_annotated_around(segmentation, label, box, ignore_label)
        found[name] = StructureMeasurement(
            volume_ml=float(voxels[label] * geometry.voxel_volume_ml) if whole else None,
            components=int(cc3d.connected_components(segmentation[box] == label, connectivity=26, return_N=True)[1]) if whole else None,
            touches_border=any(s.start == 0 or s.stop == n for s, n in zip(box, segmentation.shape, strict=True)),
            clipped_share=float(outside_window[label] / voxels[label]),
            vanishes=not left[label],
        )
    return found


def _is_annotated_around(segmentation: np.ndarray, label: int, box: tuple[slice, ...], ignore_label: int) -> bool:
    """Whether no voxel beside the structure is one that nobody annotated: there it may go on, and pieces may hang together."""
    region = segmentation[tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)]
    unlabelled = region == ignore_label
    return not (unlabelled.any() and (ndimage.binary_dilation(region == label, np.ones((3, 3, 3))) & unlabelled).any())


def _draw_foreground(array: np.ndarray, segmentation: np.ndarray, ignore_label: int | None, samples: int) -> np.ndarray:
    """As nnU-Net draws: the same number from every case, with replacement, so that no large case outweighs the others."""
    inside = segmentation > 0
    if ignore_label is not None:
        inside &= segmentation != ignore_label
    foreground = array[inside]
    if not foreground.size:
        return np.empty(0, np.float32)
    return np.random.default_rng(INTENSITY_SEED).choice(foreground, samples, replace=True).astype(np.float32)
