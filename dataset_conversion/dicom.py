"""DICOM -> the standard layout, as a binary task per structure: CT series, and the RTSTRUCT and SEG files that refer to them.

Nothing of a patient is written: cases are named after folders or after a digest of their series' UID.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.io.dataset import check_case_name
from arena_pipeline.io.dicom import CTSeries, find_series, left_out_in_words
from arena_pipeline.io.dicom.annotations import Annotation, find_annotations, read_region_masks, series_of
from arena_pipeline.io.dicom.headers import shown_name
from arena_pipeline.io.images import read_image
from arena_pipeline.io.labels import count_labels
from arena_pipeline.io.lock import locked
from arena_pipeline.words import pluralize
from arena_pipeline.workspace import ROI_NAMES, Workspace
from dataset_conversion.case import CaseReport, ConversionJob, place_image, place_segmentation, save_report
from dataset_conversion.earlier import ConversionSettings
from dataset_conversion.merge import OVERLAP_RULE, merge_masks, voxel_indices
from dataset_conversion.region_names import decide_names
from dataset_conversion.target import convert_cases, dataset_folder, describe, finish_dataset

logger = logging.getLogger(__name__)

BRIDGE_MM = 10.0
Annotated = Mapping[str, tuple[CTSeries, Sequence[Annotation]]]  # case -> its CT and its annotation files


class DicomJob(ConversionJob):
    """One CT series.

    Attributes:
        slices: all files of the CT; `image` is the first of them.
        regions: RTSTRUCT or SEG file -> name in it -> structure.
        bridge_mm: as in `convert_dicom`.
    """

    slices: tuple[Path, ...]
    regions: dict[str, dict[str, str]]
    bridge_mm: float

    def inputs(self) -> list[Path]:
        return [*self.slices, *map(Path, self.regions)]

    def copied_bytes(self, device: int) -> int:
        """Slices become a new file wherever they lie; compressed, it has about half their bytes."""
        return sum(path.stat().st_size for path in self.slices if path.is_file()) // 2

    @property
    def structures(self) -> tuple[str, ...]:
        """The structures annotated in this case."""
        return tuple(dict.fromkeys(structure for names in self.regions.values() for structure in names.values()))


@plain_arguments
def convert_dicom(
    source: Path,
    workspace: Workspace,
    dataset_id: int,
    name: str = "DICOM",
    names: Path | None = None,
    queries: Sequence[str] = (),
    exclude: Sequence[str] = (),
    bridge_mm: float = BRIDGE_MM,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts the CTs that have an RTSTRUCT or a SEG; what is converted already and unchanged is kept.

    A structure that nobody has drawn in a case is not annotated there (`annotated` in dataset.json).

    Args:
        source: a folder of DICOM files, with folders inside.
        names: the table name -> structure; default: roi_names.csv in the dataset's folder. Missing names are added to it.
        queries: cases that become queries, not training cases.
        exclude: cases to leave out.
        bridge_mm: slices without contours are filled in between drawn ones that overlap and are at most this far apart; 0: none.
        workers: processes; default: by cores and memory.
        overwrite: replace a dataset of other structures under this number, and files changed by hand since an earlier conversion.

    Returns:
        the dataset's folder, raw/DatasetXXX_NAME.

    Raises:
        UndecidedNames: the table has to be filled in; nothing was converted.
        DatasetError: as the message says; nothing half-written is left.
    """
    folder = dataset_folder(workspace, dataset_id, name)
    source = Path(source).absolute()
    cases, faults = _annotated_cases(source)
    if unknown := sorted({*exclude, *queries} - set(cases)):
        raise DatasetError(f"no such case: {', '.join(unknown)}", file=source, advice=f"cases with a segmentation are {', '.join(cases) or 'none'}")
    cases = {case: entry for case, entry in cases.items() if case not in exclude}
    if not cases:
        raise DatasetError(
            "; ".join(["no RTSTRUCT or SEG of a CT in it", *map(str, faults)]),
            file=source,
            advice="put each beside the CT series that it refers to",
        )
    drawn = Counter(region for _, files in cases.values() for region in dict.fromkeys(region for file in files for region in file.names))
    meaning = decide_names(names or folder / ROI_NAMES, drawn)
    labels = {"background": 0, **{structure: index for index, structure in enumerate(dict.fromkeys(filter(None, meaning.values())), start=1)}}
    logger.info("%s", "; ".join(f"{region} -> {structure or 'left out'}" for region, structure in meaning.items()))
    jobs, failures = _jobs(folder, cases, meaning, labels, queries, bridge_mm)
    settings = ConversionSettings(source=_source(source), structures=None, labels=labels)
    with locked(folder):
        reports, failed = convert_cases(folder, jobs, convert_case, workers, settings, overwrite)
        for case, report in reports.items():
            for note in report.ignored:
                logger.warning("%s: %s", case, note)
        annotated = {job.identifier: job.structures for job in jobs if job.identifier in reports and len(job.structures) < len(labels) - 1}
        description = describe(labels, "binary", reports, annotated=annotated, name=name, source="DICOM")
        finish_dataset(folder, description, reports, _summary(meaning, cases, reports, exclude), {**failures, **failed})
    if faults:
        advice = "mend them, or move them away; all others are converted"
        raise DatasetError(f"{pluralize(len(faults), 'file')} not used: {'; '.join(map(str, faults))}", file=source, advice=advice)
    return folder


def convert_case(job: DicomJob) -> CaseReport:
    """Converts one case: the slices to a volume, every region to a mask on its grid; writes both files and the record."""
    image = read_image(CTSeries(job.identifier, job.slices))
    indices: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for file, regions in job.regions.items():
        for mask in read_region_masks(Path(file), list(regions), image.geometry, job.bridge_mm):
            structure, own = regions[mask.name], voxel_indices(mask.array)
            indices[structure] = np.union1d(indices[structure], own) if structure in indices else own
            notes += mask.notes
    segmentation, overlaps = merge_masks(indices, job.labels, image.geometry.shape)
    counts = count_labels(segmentation, len(job.labels))
    place_segmentation(job, segmentation, image.geometry)
    place_image(job, image)
    return save_report(job, voxels={name: int(counts[job.labels[name]]) for name in job.structures}, overlaps=overlaps, ignored=tuple(notes))


def _source(folder: Path) -> str:
    """Identifies the folder: the cases of another one would replace this one's. A digest, since a folder may bear a patient's name."""
    return f"DICOM (folder {hashlib.sha256(str(folder).encode()).hexdigest()[:8]})"


def _annotated_cases(source: Path) -> tuple[dict[str, tuple[CTSeries, list[Annotation]]], list[ImageError]]:
    """The CTs with their annotation files, by case, and the faults of annotation files that can't be used. Other files left out are logged.

    Raises:
        DatasetError: no CT.
    """
    if not source.is_dir():
        raise DatasetError("no such folder", file=source, advice="give the folder above the CTs and their RTSTRUCT or SEG")
    series, left_out = find_series(source)
    if not series:
        raise DatasetError(
            f"no CT slices, found {left_out_in_words(left_out)}", file=source, advice="give the folder above the CTs and their RTSTRUCT or SEG"
        )
    annotations, faults = find_annotations(left_out)
    cases: dict[str, tuple[CTSeries, list[Annotation]]] = {}
    strays = 0
    for annotation in annotations:
        try:
            of = series_of(annotation, series)
        except ImageError as fault:
            faults.append(fault)
            continue
        strays += of is None
        if of is not None and annotation.names:
            check_case_name(of.name, Path(of.name))
            cases.setdefault(of.name, (of, []))[1].append(annotation)
    others = [entry for entry in left_out if entry.kind not in ("RTSTRUCT", "SEG")]
    if strays:
        logger.warning("%s to series that are not here, left out", pluralize(strays, "RTSTRUCT or SEG file refers", "RTSTRUCT or SEG files refer"))
    if without := [one.name for one in series if one.name not in cases]:
        logger.warning("CT without RTSTRUCT or SEG, left out (arena_predict takes it as it is): %s", ", ".join(without))
    if others:
        logger.info("no slices of a CT, left out: %s", left_out_in_words(others))
    for unused in faults:
        logger.warning("%s", unused.without_advice)
    return dict(sorted(cases.items())), faults


def _jobs(
    folder: Path, cases: Annotated, meaning: Mapping[str, str], labels: dict[str, int], queries: Sequence[str], bridge_mm: float
) -> tuple[list[DicomJob], dict[str, str]]:
    """Jobs, and failures known without reading a voxel. Cases in which nothing chosen is drawn are left out, with a warning."""
    jobs, failures = [], {}
    for case, (series, files) in cases.items():
        regions = {str(file.path): {region: meaning[region] for region in file.names if meaning[region]} for file in files}
        regions = {file: names for file, names in regions.items() if names}
        count = Counter(structure for names in regions.values() for structure in set(names.values()))
        if twice := [structure for structure, files_of_it in count.items() if files_of_it > 1]:
            where = ", ".join(shown_name(Path(file), "a file whose name tells of the patient") for file in regions)
            failures[case] = f"{case}: {', '.join(twice)} in several files ({where}); move away all but the one that counts"
            continue
        if not regions:
            logger.warning("%s: none of the chosen structures is drawn, left out", case)
            continue
        part: Literal["Tr", "Ts"] = "Ts" if case in queries else "Tr"
        slices = tuple(sorted(series.files))
        own = {"identifier": case, "part": part, "dataset": folder, "image": slices[0], "labels": labels}
        jobs.append(DicomJob.model_validate({**own, "slices": slices, "regions": regions, "bridge_mm": bridge_mm}))
    return jobs, failures


def _summary(meaning: Mapping[str, str], cases: Annotated, reports: Mapping[str, CaseReport], exclude: Sequence[str]) -> dict[str, object]:
    """What conversion_report.json says of names and overlaps; logs what a person should not miss."""
    not_drawn = {case: empty for case, (_, files) in cases.items() if (empty := [name for file in files for name in file.empty])}
    for case, regions in not_drawn.items():
        logger.info("%s: named, but not drawn: %s", case, ", ".join(regions))
    overlapping = {case: [overlap.model_dump() for overlap in report.overlaps] for case, report in reports.items() if report.overlaps}
    for case, overlaps in overlapping.items():
        pairs = ", ".join(f"{overlap['voxels']} of {overlap['taken_from']} are {overlap['kept_by']}'s" for overlap in overlaps)
        logger.warning("%s: voxels of two structures: %s; %s", case, pairs, OVERLAP_RULE)
    return {
        "names": dict(meaning),
        "overlap_rule": OVERLAP_RULE,
        "overlaps": overlapping,
        "notes": {case: list(report.ignored) for case, report in reports.items() if report.ignored},
        "not_drawn": not_drawn,
        "left_out": dict.fromkeys(exclude, "excluded on request"),
    }
