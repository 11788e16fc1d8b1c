"""What a DICOM-SEG or RTSTRUCT takes from the slices that it refers to: the patient, the study, and the slices' own numbers."""

from __future__ import annotations

from pydicom.dataset import Dataset

from arena_pipeline.errors import ImageError
from arena_pipeline.io.dicom import CTSeries, sorted_headers

STUDY_TAGS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "StudyID", "AccessionNumber", "PositionReferenceIndicator"),
)  # which every object of the study has, if only empty (type 2)
MAY_BE_ABSENT = (
    *("SpecificCharacterSet", "StudyDescription", "PatientAge"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
)
SLICE_TAGS = (
    *("Modality", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"),
    *("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)


def why_not_referable(series: CTSeries) -> ImageError | None:
    """Why no other object can refer to the slices; None where one can."""
    if not series.lacks:
        return None
    found = f"slices without {' and '.join(series.lacks)}, or with several, so that no DICOM-SEG and no RTSTRUCT can refer to them"
    return ImageError(found, case=series.name, advice="export the series with them, or leave out --dicom_seg, --labelmap and --rtstruct")


def slices_to_refer_to(series: CTSeries) -> list[Dataset]:
    """The headers of the slices, in the order of the volume's z axis.

    Raises:
        ImageError: nothing can refer to them, or the series is no regular grid any more.
    """
    if (error := why_not_referable(series)) is not None:
        raise error
    return sorted_headers(series, (*STUDY_TAGS, *MAY_BE_ABSENT, *SLICE_TAGS))


def take_study_(dataset: Dataset, source: Dataset) -> None:
    """Puts `dataset` into the study of a slice, whose tags are taken as they are: anonymised ones are often absent, empty or no dates."""
    for tag in STUDY_TAGS:
        setattr(dataset, tag, source.get(tag, ""))
    for tag in MAY_BE_ABSENT:
        if tag in dataset:
            delattr(dataset, tag)
        if source.get(tag):
            setattr(dataset, tag, source.get(tag))
