"""CASE.rtstruct.dcm: a segmentation as contours for planning systems, an RTSTRUCT in the study of the series it was made from.

As a DICOM-SEG does, it carries the patient's tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from arena_pipeline import __version__
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.dicom import CTSeries, series_geometry
from arena_pipeline.io.dicom.contours import trace
from arena_pipeline.io.geometry import LPS_TO_RAS
from arena_pipeline.io.labels import label_boxes
from arena_pipeline.predict.dicom_seg import PRODUCT, SERIES_NUMBER, TEXT_LENGTH, structure_code
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.study import slices_to_refer_to, take_study_

CONTOUR_DATA = Tag("ContourData")


def write_rtstruct(path: Path, segmentation: np.ndarray, series: CTSeries, label_map: LabelMap) -> None:
    """Writes the outlines of `segmentation` (x, y, z), integers of `label_map`, in the planes of the slices of `series`, whole file or none.

    Outlines run half-way between voxels, so that the voxels whose centres they hold are the mask again; holes are keyholes. A structure that was
    not found is named without contours.

    Raises:
        ImageError: the series is no regular grid any more, or has no frame of reference.
    """
    sources = slices_to_refer_to(series)
    dataset = _header(sources)
    images = [_reference(source) for source in sources]
    affine, boxes = series_geometry(series).affine, label_boxes(segmentation)
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    for number, (name, label) in enumerate(label_map.structures.items(), start=1):
        contours = Dataset()
        contours.ROIDisplayColor, contours.ReferencedROINumber = list(label_map.colours_rgb[name]), number
        if label in boxes:
            contours.ContourSequence = list(_contours(segmentation, label, boxes[label], affine, images))
        dataset.ROIContourSequence.append(contours)
        dataset.StructureSetROISequence.append(_region(number, name, sources[0].FrameOfReferenceUID))
        dataset.RTROIObservationsSequence.append(_observation(number, name))
    with replace_when_done(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _header(sources: Sequence[Dataset]) -> Dataset:
    """All but the regions."""
    first, now = sources[0], datetime.now()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    # the length of a contour's text has 32 bits here, 16 in the explicit syntaxes
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    take_study_(dataset, first)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = "RTSTRUCT", generate_uid(), SERIES_NUMBER + 1
    dataset.SeriesDescription, dataset.OperatorsName = "ARENA contours, research use only", ""
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = PRODUCT, PRODUCT, __version__
    dataset.StructureSetLabel, dataset.StructureSetDescription = "ARENA", "Research use only, not for diagnosis or treatment"
    dataset.InstanceCreationDate = dataset.StructureSetDate = dataset.SeriesDate = f"{now:%Y%m%d}"
    dataset.InstanceCreationTime = dataset.StructureSetTime = dataset.SeriesTime = f"{now:%H%M%S}"
    dataset.ApprovalStatus, dataset.FrameOfReferenceUID = "UNAPPROVED", first.FrameOfReferenceUID
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = first.SeriesInstanceUID, [_reference(source) for source in sources]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", first.StudyInstanceUID  # a study, by its retired class
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    return dataset


def _reference(source: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return reference


def _region(number: int, name: str, frame_of_reference: str) -> Dataset:
    region = Dataset()
    region.ROINumber, region.ReferencedFrameOfReferenceUID, region.ROIName = number, frame_of_reference, name[:TEXT_LENGTH]
    region.ROIGenerationAlgorithm, region.ROIGenerationDescription = "AUTOMATIC", f"{PRODUCT} {__version__}"
    return region


def _observation(number: int, name: str) -> Dataset:
    kind, side = structure_code(name)
    if side is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [side]
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
    observation.RTROIIdentificationCodeSequence = [kind]
    return observation


def _contours(segmentation: np.ndarray, label: int, box: tuple[slice, ...], affine: np.ndarray, images: Sequence[Dataset]) -> Iterator[Dataset]:
    """The contours of one structure, slice by slice."""
    corner = [part.start for part in box[:2]]
    number = 0
    for z in range(box[2].start, box[2].stop):
        for outline in trace(segmentation[box[0], box[1], z] == label):
            number += 1
            voxels = np.column_stack([outline + corner, np.full(len(outline), z)])
            contour = Dataset()
            contour.ContourNumber, contour.ContourImageSequence = number, [images[z]]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(voxels)
            contour[CONTOUR_DATA] = _data(LPS_TO_RAS @ affine[:3, :3] @ voxels.T + (LPS_TO_RAS @ affine[:3, 3])[:, None])
            yield contour


def _data(points: np.ndarray) -> RawDataElement:
    """(3, points) mm as the file has them: pydicom's own numbers would take minutes."""
    text = "\\".join(f"{value:.3f}" for value in points.T.ravel().tolist())
    value = (text + " " * (len(text) % 2)).encode("ascii")
    return RawDataElement(CONTOUR_DATA, "DS", len(value), value, 0, True, True)
