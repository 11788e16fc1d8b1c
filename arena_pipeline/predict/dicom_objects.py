"""The DICOM objects beside a segmentation: which are written for a case, and the check, if possible before the network runs, that they can be."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import numpy as np

from arena_pipeline.errors import ImageError, NoSpace
from arena_pipeline.io.dicom import CTSeries
from arena_pipeline.io.images import ImageSource
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.options import OutputOptions
from arena_pipeline.predict.outputs import CaseFiles
from arena_pipeline.predict.study import why_not_referable

logger = logging.getLogger(__name__)


def writes_dicom_seg(source: ImageSource, options: OutputOptions) -> bool:
    """Whether a DICOM-SEG is asked for, or can be had without."""
    return isinstance(source, CTSeries) and (not source.lacks if options.dicom_seg is None else options.dicom_seg)


def check_referable(source: ImageSource, options: OutputOptions) -> None:
    """Raises ImageError where what was asked for can't be written; a DICOM-SEG that nobody asked for is left out with a warning."""
    if not isinstance(source, CTSeries) or (error := why_not_referable(source)) is None:
        return
    if options.dicom_seg or options.rtstruct:
        raise error
    if options.dicom_seg is None:
        logger.warning("%s; the segmentation is written without", error.without_advice)


def write_objects(files: CaseFiles, segmentation: np.ndarray, source: ImageSource, label_map: LabelMap, options: OutputOptions) -> ImageError | None:
    """Writes those that are asked for. Returns what is wrong where one can't be made, since the segmentation needs none of them."""
    if not isinstance(source, CTSeries):
        return None
    fault = None
    if writes_dicom_seg(source, options):
        from arena_pipeline.predict.dicom_seg import write_dicom_seg  # takes a second to import: only for DICOM

        fault = _fault(lambda: write_dicom_seg(files.dicom_seg, segmentation, source, label_map, options.labelmap), "DICOM-SEG")
    if options.rtstruct:
        from arena_pipeline.predict.rtstruct import write_rtstruct

        fault = _fault(lambda: write_rtstruct(files.rtstruct, segmentation, source, label_map), "RTSTRUCT") or fault
    return fault


def _fault(write: Callable[[], None], kind: str) -> ImageError | None:
    """What is wrong, without the words of pydicom and highdicom, which may quote the patient's tags and have no common base."""
    try:
        write()
    except ImageError as error:
        return error
    except (NoSpace, OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001
        logger.debug("%s", "".join(traceback.format_tb(error.__traceback__)))
        return ImageError(f"no {kind} can be made of this series ({type(error).__name__}); the segmentation is written without")
    return None
