"""CASE.seg.dcm: a segmentation as DICOM-SEG over the series it was made from, in the patient's own study.

It carries the patient's tags, as every object of that study does; nothing else that is written here does.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from arena_pipeline import __version__
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.dicom import CTSeries, series_geometry
from arena_pipeline.io.facts import load_fact
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.study import MAY_BE_ABSENT, STUDY_TAGS, slices_to_refer_to, take_study_

logger = logging.getLogger(__name__)

PRODUCT = "ARENA pipeline"
OWN_SCHEME = "99ARENA"
SERIES_NUMBER = 9100
SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}
TEXT_LENGTH = 64  # of a code's meaning, a label and a description in DICOM


def write_dicom_seg(path: Path, segmentation: np.ndarray, series: CTSeries, label_map: LabelMap, labelmap: bool = False) -> None:
    """Writes `segmentation` (x, y, z), integers of `label_map`, on the grid of `series`, whole file or none.

    Args:
        series: the slices that `segmentation` was made from; each plane refers to its own.
        labelmap: one LABELMAP instead of a BINARY frame per structure and slice: smaller, but fewer viewers take it.

    Raises:
        ImageError: the series is no regular grid any more.
    """
    sources, thickness_mm = slices_to_refer_to(series), series_geometry(series).spacing_mm[2]
    numbers = {label: number for number, label in enumerate(sorted(label_map.structures.values()), start=1)}
    lookup = np.zeros(max(numbers, default=0) + 1, np.uint8 if len(numbers) < 256 else np.uint16)
    for label, number in numbers.items():
        lookup[label] = number
    names = {numbers[label]: name for name, label in label_map.structures.items()}
    segments = [_segment(number, name, label_map) for number, name in sorted(names.items())]
    encoded = hd.seg.Segmentation(
        source_images=[_plain(source, thickness_mm) for source in sources],
        pixel_array=np.ascontiguousarray(lookup[segmentation].transpose(2, 1, 0)),  # (slices, rows, columns)
        segmentation_type="LABELMAP" if labelmap else "BINARY",
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name=PRODUCT,
        software_versions=__version__,
        device_serial_number="none",
        transfer_syntax_uid=RLELossless if labelmap else ExplicitVRLittleEndian,
        content_label="ARENA",
        content_description="Research use only, not for diagnosis",
        series_description="ARENA segmentation, research use only",
    )
    take_study_(encoded, sources[0])
    with replace_when_done(path) as temporary:
        encoded.save_as(temporary, enforce_file_format=True)


def _plain(source: Dataset, thickness_mm: float) -> Dataset:
    """A slice's header without what highdicom would refuse in the tags of patient and study, which are taken over as they are afterwards."""
    plain = deepcopy(source)
    for tag in STUDY_TAGS:
        setattr(plain, tag, source.get(tag) if tag == "StudyInstanceUID" else "")
    for tag in MAY_BE_ABSENT:
        plain.pop(tag, None)
    plain.SliceThickness = source.get("SliceThickness") or round(thickness_mm, 6)
    return plain


def _segment(number: int, name: str, label_map: LabelMap) -> hd.seg.SegmentDescription:
    kind, side = structure_code(name)
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:TEXT_LENGTH],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            PRODUCT, codes.DCM.ArtificialIntelligence, __version__, parameters=_parameters(label_map.source)
        ),
        display_color=hd.color.CIELabColor.from_rgb(*label_map.colours_rgb[name]),
    )
    if side is not None:
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return described


def structure_code(name: str) -> tuple[CodedConcept, CodedConcept | None]:
    """The SNOMED CT code of a structure and of its side; one of a scheme of our own for a structure that facts/snomed_codes.json lacks."""
    known: Mapping[str, list[str]] = load_fact("snomed_codes")["codes"]
    words = name.split("_")
    side = next((word for word in words if word in SIDES), None)
    plain = "_".join(word for word in words if word not in SIDES and not (words[0] == "rib" and word.isdecimal()))
    if name in known:
        side, plain = None, name
    if plain in known:
        value, meaning = known[plain]
        return CodedConcept(value, "SCT", meaning), None if side is None else CodedConcept.from_code(SIDES[side])
    logger.info("%s: no SNOMED CT code known, it gets one of its own (scheme %s)", name, OWN_SCHEME)
    return CodedConcept(f"{zlib.crc32(name.encode()):08X}", OWN_SCHEME, name[:TEXT_LENGTH]), None


def _parameters(source: Mapping[str, str]) -> dict[str, str]:
    """What made it; of a model's path the name alone, since the folders above it are private."""
    return {key: (Path(value).name if key == "model" else value)[:TEXT_LENGTH] for key, value in source.items() if value}
