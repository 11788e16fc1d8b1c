"""FLARE'22 -> the standard layout, as one multi-class task.

ROOT/images/FLARE22_Tr_0001_0000.nii.gz   ROOT/labels/FLARE22_Tr_0001.nii.gz     50 training cases
ROOT/images/FLARETs_0001_0000.nii.gz      ROOT/labels/FLARETs_0001.nii.gz        50 tuning cases
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, StructureSplit
from arena_pipeline.io.facts import load_fact
from arena_pipeline.io.images import check_same_grid, read_image, read_segmentation
from arena_pipeline.io.labels import count_labels
from arena_pipeline.io.lock import locked
from arena_pipeline.io.splits import published_split
from arena_pipeline.words import listed, pluralize
from arena_pipeline.workspace import Workspace
from dataset_conversion.case import ENDING, CaseReport, ConversionJob, place_image, place_segmentation, save_report
from dataset_conversion.earlier import ConversionSettings
from dataset_conversion.target import convert_cases, dataset_folder, describe, finish_dataset, refuse_standard_layout, unknown_structures

logger = logging.getLogger(__name__)

# Where the release and its copies keep images and labels, below the folder given.
PARENTS = ("", "FLARE22Train", "FLARE22Tuning", "train", "tuning")
IDENTIFIER = re.compile(r"(FLARE22_Tr|FLARETs)_\d{4}")
TRAINING_PREFIX = "FLARE22_Tr_"
SOURCE = "FLARE'22"
LICENCE = "the rules of the FLARE'22 challenge, https://flare22.grand-challenge.org"


class FlareJob(ConversionJob):
    """One case.

    Attributes:
        segmentation: None for a tuning case without labels.
        raw_labels: the file's integer -> the dataset's; those of structures that were not chosen become 0.
    """

    segmentation: Path | None
    raw_labels: dict[int, int]

    def inputs(self) -> list[Path]:
        return [self.image] if self.segmentation is None else [self.image, self.segmentation]


@plain_arguments
def convert_flare22(
    source: Path,
    workspace: Workspace,
    dataset_id: int,
    name: str = "FLARE22",
    structures: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts a raw folder; what is converted already and unchanged is kept.

    FLARE22_Tr_* are the training cases, FLARETs_* (tuning) the queries. The published split (50 to draw from, 22 queries) is
    written to dataset.json with the cases that are here. Cases that fail are named in an error at the end, after all others.

    Args:
        source: the folder that has images/ and labels/, or train/ and tuning/ with them.
        structures: of FLARE'22's thirteen; default: the nine of the paper. They are numbered 1, 2, ... in facts/structures.json's order.
        exclude: cases to leave out.
        workers: processes; default: by cores and memory.
        overwrite: replace a dataset of other structures under this number, and files changed by hand since an earlier conversion.

    Returns:
        the dataset's folder, raw/DatasetXXX_NAME.

    Raises:
        DatasetError, UnknownStructure: as the message says; nothing half-written is left.
    """
    folder = dataset_folder(workspace, dataset_id, name)
    source = Path(source).absolute()
    labels = {"background": 0, **{structure: index for index, structure in enumerate(_choose_structures(structures), start=1)}}
    pairs = _find_pairs(source)
    unknown = sorted(set(exclude) - set(pairs))
    if unknown:
        raise DatasetError(f"--exclude {', '.join(unknown)}: no such case", file=source, advice=f"names look like {next(iter(pairs))}")
    jobs, failures = _jobs(folder, labels, {case: files for case, files in pairs.items() if case not in exclude})
    settings = ConversionSettings(source=SOURCE, structures=tuple(structures) if structures else None, labels=labels)
    with locked(folder):
        reports, failed = convert_cases(folder, jobs, convert_case, workers, settings, overwrite)
        split = {"*": _split(reports)} if reports else {}
        description = describe(labels, "multiclass", reports, split=split, name=name, source=SOURCE, licence=LICENCE)
        more = {"source": str(source), "left_out": dict.fromkeys(exclude, "excluded on request")}
        return finish_dataset(folder, description, reports, more, {**failures, **failed})


def convert_case(job: FlareJob) -> CaseReport:
    """Converts one case: checks CT and labels, renumbers the labels, writes both files and the record."""
    image = read_image(job.image)
    if job.segmentation is None:
        place_image(job, image)
        return save_report(job, voxels=None)
    raw = read_segmentation(job.segmentation)
    check_same_grid(job.identifier, image.geometry, raw.geometry, job.segmentation)
    counts = count_labels(raw.array)
    unknown = [int(label) for label in np.flatnonzero(counts) if label not in job.raw_labels]
    if unknown:
        expected = f"0..{max(job.raw_labels)}"
        raise DatasetError(
            f"labels {unknown}", case=job.identifier, file=job.segmentation, advice=f"FLARE'22 has {expected}, take the case's label file again"
        )
    table = np.zeros(max(job.raw_labels) + 1, np.uint8)
    table[list(job.raw_labels)] = list(job.raw_labels.values())
    segmentation = table[raw.array]
    place_segmentation(job, segmentation, image.geometry)
    place_image(job, image)
    voxels = count_labels(segmentation, len(job.labels))
    return save_report(job, voxels={structure: int(voxels[label]) for structure, label in job.labels.items() if label})


def _choose_structures(names: Sequence[str] | None) -> list[str]:
    """The chosen structures: those of the paper's nine first, then the others, both in the order of facts/structures.json."""
    facts = load_fact("structures")
    paper, known = facts["paper_tasks"]["base"], facts["flare22_labels"]
    if names is None:
        return list(paper)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise unknown_structures(unknown, list(known), f"{SOURCE} has: {', '.join(known)}")
    return [name for name in (*paper, *(n for n in known if n not in paper)) if name in names]


def _find_pairs(source: Path) -> dict[str, tuple[Path, Path | None]]:
    """Image and label file (None where there is none) of every case, sorted."""
    folders = [source / parent for parent in PARENTS if (source / parent / "images").is_dir()]
    if not folders:
        refuse_standard_layout(source)
        expected = ", ".join(f"{parent}/images" if parent else "images" for parent in PARENTS)
        raise DatasetError(f"none of {expected} in it", file=source, advice="give the folder of FLARE'22 that holds images/ and labels/")
    pairs: dict[str, tuple[Path, Path | None]] = {}
    others = 0
    for folder in folders:
        for image in sorted((folder / "images").glob(f"[!.]*{CHANNEL_SUFFIX}{ENDING}")):
            case = image.name[: -len(CHANNEL_SUFFIX + ENDING)]
            if not IDENTIFIER.fullmatch(case):
                others += 1
                continue
            if case in pairs:
                raise DatasetError(f"in {image} and in {pairs[case][0]}", case=case, advice="keep one of them")
            label = folder / "labels" / f"{case}{ENDING}"
            pairs[case] = (image, label if label.is_file() else None)
    if others:
        text = "%s neither FLARE22_Tr_XXXX nor FLARETs_XXXX (the unlabelled ones?) and ignored"
        logger.warning(text, pluralize(others, "image is", "images are"))
    if not pairs:
        example = f"FLARE22_Tr_0001{CHANNEL_SUFFIX}{ENDING}"
        raise DatasetError(f"no {example}", file=folders[0] / "images", advice="give the folder of FLARE'22 that holds images/ and labels/")
    return dict(sorted(pairs.items()))


def _jobs(folder: Path, labels: dict[str, int], pairs: dict[str, tuple[Path, Path | None]]) -> tuple[list[FlareJob], dict[str, str]]:
    """Jobs, and failures known without reading a voxel."""
    known = load_fact("structures")["flare22_labels"]
    raw_labels = {0: 0, **{raw: labels.get(structure, 0) for structure, raw in known.items()}}
    jobs, failures = [], {}
    for case, (image, label) in pairs.items():
        training = case.startswith(TRAINING_PREFIX)
        if training and label is None:
            expected = image.parent.parent / "labels" / f"{case}{ENDING}"
            failures[case] = f"{case}: no labels, expected {expected}; every training case has them, get the file"
            continue
        part = "Tr" if training else "Ts"
        jobs.append(FlareJob(identifier=case, part=part, dataset=folder, image=image, labels=labels, segmentation=label, raw_labels=raw_labels))
    return jobs, failures


def _split(reports: dict[str, CaseReport]) -> StructureSplit:
    """The published split with the cases that are here, in its order."""
    published = published_split("FLARE22")
    missing = [case for case in (*published.train, *published.test) if case not in reports]
    if missing:
        number = len(published.train) + len(published.test)
        level = logging.WARNING if len(missing) <= number / 2 else logging.INFO  # of a few cases nobody expects the published figures
        text = "%d of the published split's %d cases are here: support sets and figures differ from the published ones (missing: %s)"
        logger.log(level, text, number - len(missing), number, listed(missing, 5))
    return published.only(reports)
