"""A segmentation as it belongs to its CT: on the CT's grid, with the labels that dataset.json names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from arena_pipeline.errors import DatasetError
from arena_pipeline.io import itk, nifti
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import check_same_grid, grid_difference, read_segmentation, storage_fix
from arena_pipeline.io.labels import count_labels

NAMED_LABELS = 8
EQUAL_MM = 1e-4
ROUNDING_MM = 0.01
"""At the volume's corners: grids may differ by so much, from rounding of their headers, and are taken for the same."""


@dataclass(frozen=True, eq=False)
class CaseSegmentation:
    """What was read for one CT.

    Attributes:
        array: (x, y, z) on the CT's grid, uint8 or uint16.
        voxels: number of voxels of each label, by label.
        fixes: small faults that reading mended, in a sentence each.
        off_grid_mm: how far its grid puts a voxel from the CT's, at most; never a tenth of a voxel.
    """

    array: np.ndarray
    voxels: np.ndarray
    fixes: tuple[str, ...]
    off_grid_mm: float


def read_case_segmentation(case: str, path: Path, grid: Geometry, labels: Mapping[str, int]) -> CaseSegmentation:
    """Reads and checks the segmentation of the CT on `grid`.

    Args:
        labels: everything that the file may hold, name -> integer.

    Raises:
        ImageError: unreadable, or no segmentation.
        DatasetError: on another grid, with labels that have no name, or with other names in its header.
    """
    check_segment_names(case, path, labels)
    stored = read_segmentation(path)
    segmentation = aligned(stored, grid)
    check_same_grid(case, grid, segmentation.geometry, path)
    voxels = count_labels(segmentation.array, max(labels.values(), default=0) + 1)
    _check_known(case, path, labels, voxels)
    sentence = storage_fix(path)
    fixes = [] if sentence is None else [f"{sentence}; read as {segmentation.array.dtype}"]
    if segmentation is not stored:
        fixes.append(f"its axes run {stored.geometry.orientation} where the CT's run {grid.orientation}, over the same voxels; turned to the CT's")
    distance = nifti.largest_distance_mm(grid, segmentation.geometry.affine)
    if EQUAL_MM < distance <= ROUNDING_MM:
        fixes.append(f"its grid is up to {distance:.4f} mm off the CT's, by rounding; read on the CT's grid")
    return CaseSegmentation(segmentation.array, voxels, tuple(fixes), distance)


def aligned(image: Image, grid: Geometry) -> Image:
    """The same voxels with axes flipped and permuted as `grid` has them, where they cover exactly the grid's voxels; else `image` itself."""
    if grid_difference(grid, image.geometry) is None:
        return image
    try:
        order = nib.io_orientation(np.linalg.inv(grid.affine) @ image.geometry.affine)
    except np.linalg.LinAlgError:
        return image
    if np.isnan(order).any():
        return image
    array = nib.apply_orientation(image.array, order)
    geometry = Geometry(array.shape, image.geometry.affine @ nib.orientations.inv_ornt_aff(order, image.geometry.shape))
    return Image(array, geometry) if grid_difference(grid, geometry) is None else image


def check_segment_names(case: str, path: Path, labels: Mapping[str, int]) -> None:
    """Raises DatasetError where the file's header, as 3D Slicer writes it, gives a structure of `labels` another integer."""
    names = {_plain(name): name for name in labels}
    for segment, value in itk.segment_names(path).items():
        name = names.get(_plain(segment))
        if name is not None and labels[name] != value:
            raise DatasetError(
                f"the header says that {segment} is {value}, dataset.json says that {name} is {labels[name]}",
                case=case,
                file=path,
                advice="correct labels in dataset.json, or export the segmentation with the dataset's numbers",
            )


def _plain(name: str) -> str:
    """Letters and digits alone: Slicer's 'Left kidney' is left_kidney."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _check_known(case: str, path: Path, labels: Mapping[str, int], voxels: np.ndarray) -> None:
    known = {0, *labels.values()}
    foreign = [int(label) for label in np.flatnonzero(voxels) if label not in known]
    if foreign:
        more = f" and {len(foreign) - NAMED_LABELS} more" if len(foreign) > NAMED_LABELS else ""
        raise DatasetError(
            f"labels {foreign[:NAMED_LABELS]}{more} in {path}, dataset.json has only {min(known)}..{max(known)}",
            case=case,
            advice="name them under labels in dataset.json, or set those voxels to 0",
        )
