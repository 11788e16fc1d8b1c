"""DICOM-SEG: masks as frames, each with its place in the patient."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

from arena_pipeline.errors import ImageError
from arena_pipeline.io.geometry import GRID_TOLERANCE_VOXELS, LPS_TO_RAS, Geometry
from arena_pipeline.words import pluralize

HALF = 0.5  # what a fractional segment must reach


class Segments:
    """BINARY, FRACTIONAL or LABELMAP."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def region_names(self) -> tuple[list[str], list[str]]:
        """Of all segments: one without a voxel says that the structure is absent."""
        return list(self._numbers), []

    def references(self) -> tuple[set[str], set[str]]:
        """UIDs of the series that it refers to, and of its frame of reference."""
        uids = {str(series.SeriesInstanceUID) for series in self.dataset.get("ReferencedSeriesSequence") or []}
        return uids, {str(self.dataset.get("FrameOfReferenceUID") or "")} - {""}

    def region_mask(self, name: str, geometry: Geometry, bridge_mm: float) -> tuple[np.ndarray, list[str]]:
        """The voxels (x, y, z) of the segments of that name, and what a person should know of it. Slices without a frame are empty."""
        mask = np.zeros(geometry.shape, bool, order="F")
        outside = 0
        for number in self._numbers[name]:
            volume = self._segmentation.get_volume(segment_numbers=[number], allow_missing_positions=True)
            voxels = np.argwhere(volume.array[..., 0] >= HALF) @ (to_ct := _whole_steps(volume, geometry))[:3, :3].T + to_ct[:3, 3]
            inside = ((voxels >= 0) & (voxels < geometry.shape)).all(axis=1)
            outside += int((~inside).sum())
            mask[tuple(voxels[inside].T)] = True
        return mask, [f"{name}: {pluralize(outside, 'voxel')} beyond the CT, left out"] if outside else []

    @cached_property
    def _segmentation(self) -> hd.seg.Segmentation:
        return hd.seg.Segmentation.from_dataset(self.dataset, copy=False)

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        """Label -> numbers, without the background that a LABELMAP may name."""
        names: dict[str, list[int]] = defaultdict(list)
        for segment in self.dataset.SegmentSequence:
            if number := int(segment.SegmentNumber):
                names[" ".join(str(segment.get("SegmentLabel") or "").split()) or f"segment {number}"].append(number)
        return names


def _whole_steps(volume: hd.Volume, geometry: Geometry) -> np.ndarray:
    """(4, 4) integers: an index of the segmentation -> the CT's voxel. Raises ImageError where it meets no whole voxel."""
    exact = np.linalg.inv(geometry.affine) @ np.diag([*np.diag(LPS_TO_RAS), 1.0]) @ volume.affine
    last = np.array(volume.spatial_shape) - 1
    exact[:3, :3] *= last > 0  # what the distance to a second slice would be doesn't matter where there is none
    corners = np.array(np.meshgrid(*zip((0, 0, 0), last, strict=True), [1])).reshape(4, -1)
    if np.abs((exact - np.rint(exact)) @ corners).max() > GRID_TOLERANCE_VOXELS:
        raise ImageError("its voxels are not those of its CT: another grid", advice="export it on the CT's grid")
    return np.rint(exact).astype(int)
