"""RTSTRUCT: the contours of a planning system. A region of interest (ROI) is a list of closed polygons in the planes of the CT's slices, in mm."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from arena_pipeline.errors import ImageError
from arena_pipeline.io.dicom.bridging import bridge_
from arena_pipeline.io.dicom.contours import fill
from arena_pipeline.io.geometry import LPS_TO_RAS, Geometry
from arena_pipeline.words import pluralize

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OFF_PLANE_VOXELS = 0.1  # how far a contour may lie from its slice
LEAST_POINTS = 3
CONTOUR_DATA = Tag("ContourData")


class StructureSet:
    """The closed contours of an RTSTRUCT file."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def region_names(self) -> tuple[list[str], list[str]]:
        """Of the ROIs with closed contours, and of the others."""
        drawn = {name: any(self._contours[number] for number in numbers) for name, numbers in self._numbers.items()}
        return [name for name, there in drawn.items() if there], [name for name, there in drawn.items() if not there]

    def references(self) -> tuple[set[str], set[str]]:
        """UIDs of the series that it refers to, and of its frame of reference."""
        frames = self.dataset.get("ReferencedFrameOfReferenceSequence") or []
        studies = [study for frame in frames for study in frame.get("RTReferencedStudySequence") or []]
        uids = {str(series.SeriesInstanceUID) for study in studies for series in study.get("RTReferencedSeriesSequence") or []}
        own = {str(roi.get("ReferencedFrameOfReferenceUID") or "") for roi in self.dataset.StructureSetROISequence} - {""}
        return uids, own or {str(frame.get("FrameOfReferenceUID") or "") for frame in frames} - {""}

    def region_mask(self, name: str, geometry: Geometry, bridge_mm: float) -> tuple[np.ndarray, list[str]]:
        """The voxels (x, y, z) inside an odd number of a ROI's contours, for any ROI of that name, and what a person should know of it."""
        to_voxels = np.linalg.inv(geometry.affine)
        last = geometry.shape[2] - 1
        planes: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
        outside = 0
        drawn = [(roi, contour) for roi in self._numbers[name] for contour in self._contours[roi]]
        for number, contour in drawn:
            points = (_points(contour) * np.diag(LPS_TO_RAS)) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
            plane = round(float(np.clip(points[:, 2].mean(), -2, last + 2)))
            if not 0 <= plane <= last:
                outside += 1
                continue
            if np.abs(points[:, 2] - plane).max() > OFF_PLANE_VOXELS:
                found = f"{name}: a contour between the CT's slices or across them, beside slice {plane + 1} of {last + 1}"
                raise ImageError(found, advice="it was drawn on another series, or on a reformatted one: export it for this CT")
            planes[plane, number].append(points[:, :2])
        if not planes:
            raise ImageError(f"{name}: all contours lie above or below the CT", advice="check that both belong together")
        mask = np.zeros(geometry.shape, bool, order="F")
        for (plane, _), contours in planes.items():
            mask[:, :, plane] |= fill(contours, geometry.shape[:2])
        notes = [f"{name}: {pluralize(outside, 'contour')} above or below the CT, left out"] if outside else []
        return mask, notes + [f"{name}: {note}" for note in bridge_(mask, sorted({plane for plane, _ in planes}), geometry.spacing_mm, bridge_mm)]

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        """ROI name -> numbers, in the file's order: names need not be unique."""
        names: dict[str, list[int]] = defaultdict(list)
        for roi in self.dataset.StructureSetROISequence:
            number = int(roi.ROINumber)
            names[" ".join(str(roi.get("ROIName") or "").split()) or f"ROI {number}"].append(number)
        return names

    @cached_property
    def _contours(self) -> dict[int, list[Dataset]]:
        """ROI number -> the contours that enclose something: not the points and open lines that planning systems keep among them."""
        contours: dict[int, list[Dataset]] = defaultdict(list)
        for item in self.dataset.get("ROIContourSequence") or []:
            contours[int(item.ReferencedROINumber)] += [contour for contour in item.get("ContourSequence") or [] if _encloses(contour)]
        return contours


def _encloses(contour: Dataset) -> bool:
    return contour.get("ContourGeometricType") in CLOSED and int(contour.get("NumberOfContourPoints") or LEAST_POINTS) >= LEAST_POINTS


def _points(contour: Dataset) -> np.ndarray:
    """(points, 3) mm, LPS. pydicom's own numbers take ten times as long, and there may be hundreds of thousands."""
    stored: object = contour.get_item(CONTOUR_DATA).value
    points = np.array(stored.split(b"\\") if isinstance(stored, bytes) else stored, float).reshape(-1, 3)
    expected = int(contour.get("NumberOfContourPoints") or len(points))
    if len(points) != expected:
        raise ImageError(f"a contour of {len(points)} points, expected {expected}")
    if not np.isfinite(points).all():
        raise ImageError("a contour with a coordinate that is NaN or infinity")
    return points
