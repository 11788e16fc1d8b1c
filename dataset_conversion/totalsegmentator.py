"""TotalSegmentator (v1 or v2) -> the standard layout, as a binary task per structure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError
from arena_pipeline.io.dataset import StructureSplit
from arena_pipeline.io.images import check_same_grid, read_image, read_segmentation
from arena_pipeline.io.labels import count_labels
from arena_pipeline.io.lock import locked
from arena_pipeline.io.splits import published_split, published_structures
from arena_pipeline.words import listed, pluralize
from arena_pipeline.workspace import Workspace
from dataset_conversion.case import ENDING, CaseReport, ConversionJob, place_image, place_segmentation, save_report
from dataset_conversion.earlier import ConversionSettings
from dataset_conversion.merge import OVERLAP_RULE, merge_masks, voxel_indices
from dataset_conversion.target import convert_cases, dataset_folder, describe, finish_dataset
from dataset_conversion.totalsegmentator_raw import RawSubject, RawTotalSegmentator

logger = logging.getLogger(__name__)

NAMES_SHOWN = 10
SplitChoice = Literal["meta", "published"]
LICENCE = "CC BY 4.0 (TotalSegmentator dataset, https://zenodo.org/records/6802613 for v1, https://zenodo.org/records/10047292 for v2)"


class TotalSegmentatorJob(ConversionJob):
    """One subject; `masks`: chosen structure -> its mask file, where there is one."""

    masks: dict[str, Path]
    ignored: tuple[str, ...] = ()

    def inputs(self) -> list[Path]:
        return [self.image, *self.masks.values()]


@plain_arguments
def convert_totalsegmentator(
    source: Path,
    workspace: Workspace,
    dataset_id: int,
    name: str = "TotalSegmentator",
    structures: Sequence[str] | None = None,
    split: SplitChoice = "meta",
    exclude: Sequence[str] = (),
    exclude_defective: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts a raw folder; what is converted already and unchanged is kept.

    A structure without a mask file in a subject is not annotated there (`annotated` in dataset.json); an empty mask means absent.
    Subjects that fail are named in the error at the end, after all others have been converted; a subject known to be
    defective that can't be read is left out with a warning instead.

    Args:
        source: the folder with sXXXX/ and meta.csv.
        structures: names of the release; default: all that have a mask file (with the published split: all that it has).
        split: "meta" takes meta.csv's (train and val are training cases, test are queries; without meta.csv every
            subject is a training case), "published" the few-shot split per structure.
        exclude: subjects to leave out.
        exclude_defective: leave out all subjects known to be defective.
        workers: processes; default: by cores and memory.
        overwrite: replace a dataset of other structures under this number, and files changed by hand since an earlier conversion.

    Returns:
        the dataset's folder, raw/DatasetXXX_NAME.

    Raises:
        DatasetError, UnknownStructure: as the message says; nothing half-written is left.
    """
    folder = dataset_folder(workspace, dataset_id, name)
    raw = RawTotalSegmentator.open(Path(source).absolute())
    logger.info("%s: TotalSegmentator %s, %s (known by %s)", source, raw.version, pluralize(len(raw.subjects), "subject"), raw.version_reason)
    chosen = raw.choose_structures(structures, among=published_structures() if split == "published" else None)
    if not chosen:
        expected = f"expected sXXXX/segmentations/STRUCTURE{ENDING}"
        raise DatasetError(f"no subject has a mask of TotalSegmentator {raw.version}", file=source, advice=expected)
    left_out = _excluded(raw, exclude, exclude_defective)
    splits = _published_splits(raw, chosen, left_out) if split == "published" else {}
    parts = _parts_of_published(splits) if split == "published" else _parts_of_meta(raw)
    labels = {structure: index for index, structure in enumerate(chosen, start=1)}
    asked = None if structures is None else tuple(chosen)
    settings = ConversionSettings(source=f"TotalSegmentator {raw.version}", structures=asked, labels={"background": 0, **labels})
    jobs, failures, not_annotated = _jobs(raw, folder, labels, {case: part for case, part in parts.items() if case not in left_out})
    left_out.update(not_annotated)
    with locked(folder):
        reports, failed = convert_cases(folder, jobs, convert_subject, workers, settings, overwrite)
        failures.update(failed)
        for case in sorted(set(failures) & set(raw.defects())):
            left_out[case] = f"known to be defective ({raw.defects()[case]}), and unusable: {failures.pop(case)}"
            logger.warning("%s: left out, %s", case, left_out[case])
        annotated = {job.identifier: tuple(job.masks) for job in jobs if job.identifier in reports and 0 < len(job.masks) < len(chosen)}
        converted = {structure: published.only(reports) for structure, published in splits.items()}
        description = describe(
            settings.labels, "binary", reports, annotated=annotated, split=converted, name=name, source=settings.source, licence=LICENCE
        )
        return finish_dataset(folder, description, reports, _summary(raw, reports, left_out), failures)


def convert_subject(job: TotalSegmentatorJob) -> CaseReport:
    """Converts one subject: checks the CT and every mask, merges the masks, writes both files and the record."""
    image = read_image(job.image)
    indices: dict[str, np.ndarray] = {}
    for structure, path in job.masks.items():
        mask = read_segmentation(path)
        check_same_grid(job.identifier, image.geometry, mask.geometry, path)
        indices[structure] = voxel_indices(mask.array != 0)
        values = mask.array.ravel(order="F")[indices[structure]]
        if values.size and values.min() != values.max():
            found = ", ".join(map(str, np.unique(values)[:5]))
            raise DatasetError(f"values {found}, expected 0 and one other", case=job.identifier, file=path, advice="export the mask alone")
    segmentation, overlaps = merge_masks(indices, job.labels, image.geometry.shape)
    counts = count_labels(segmentation, len(job.labels) + 1)
    if job.masks:
        place_segmentation(job, segmentation, image.geometry)
    place_image(job, image)
    voxels = {structure: int(counts[job.labels[structure]]) for structure in job.masks} if job.masks else None
    return save_report(job, voxels=voxels, overlaps=overlaps, ignored=job.ignored)


def _excluded(raw: RawTotalSegmentator, exclude: Sequence[str], exclude_defective: bool) -> dict[str, str]:
    unknown = [case for case in exclude if case not in raw.subjects]
    if unknown:
        raise DatasetError(f"--exclude {', '.join(unknown)}: no such subject", file=raw.root, advice=f"names look like {next(iter(raw.subjects))}")
    left_out = dict.fromkeys(exclude, "excluded on request")
    for case, text in raw.defects().items():
        if case in left_out:
            continue
        if exclude_defective:
            left_out[case] = f"known to be defective: {text}"
        else:
            logger.warning("%s: known to be defective (%s); converted all the same, leave it out with --exclude_defective", case, text)
    return left_out


def _published_splits(raw: RawTotalSegmentator, chosen: Sequence[str], left_out: dict[str, str]) -> dict[str, StructureSplit]:
    """Per structure, the published lists in their order, without the subjects that are not here."""
    if raw.version != "v1":
        logger.warning(
            "the published split was drawn from TotalSegmentator v1, this is %s: figures can't be compared with the published ones", raw.version
        )
    splits, missing = {}, set()
    for structure in chosen:
        published = published_split("TotalSegmentator", structure)
        here = {case for case in (*published.train, *published.test) if case in raw.subjects and case not in left_out}
        missing |= {*published.train, *published.test} - here
        splits[structure] = published.only(here)
    if missing:
        text = "%d of the published split's subjects are not here (%s): support sets differ from the published ones"
        logger.warning(text, len(missing), listed(sorted(missing), NAMES_SHOWN))
    return splits


def _parts_of_published(splits: dict[str, StructureSplit]) -> dict[str, Literal["Tr", "Ts"]]:
    """A case that support sets of any structure are drawn from is a training case. (In the published lists none of those is a
    query of another structure; if one were, dataset.json's split would still name it as that structure's query.)"""
    parts: dict[str, Literal["Tr", "Ts"]] = {case: "Ts" for split in splits.values() for case in split.test}
    parts.update({case: "Tr" for split in splits.values() for case in split.train})
    return parts


def _parts_of_meta(raw: RawTotalSegmentator) -> dict[str, Literal["Tr", "Ts"]]:
    if raw.split is None:
        logger.warning("%s has no meta.csv: every subject is taken as a training case, there are no queries", raw.root)
        return dict.fromkeys(raw.subjects, "Tr")
    unlisted = [case for case in raw.subjects if case not in raw.split]
    if unlisted:
        logger.warning("not in meta.csv, taken as training cases: %s", ", ".join(unlisted))
    absent = sorted(set(raw.split) - set(raw.subjects))
    if absent:
        logger.warning("%s of meta.csv without a folder in %s: %s", pluralize(len(absent), "subject"), raw.root, listed(absent, NAMES_SHOWN))
    return {case: "Ts" if raw.split.get(case) == "test" else "Tr" for case in raw.subjects}


def _jobs(
    raw: RawTotalSegmentator, folder: Path, labels: dict[str, int], parts: dict[str, Literal["Tr", "Ts"]]
) -> tuple[list[TotalSegmentatorJob], dict[str, str], dict[str, str]]:
    """Jobs, failures known without reading a voxel, and training cases in which none of the structures is annotated."""
    jobs, failures, not_annotated = [], {}, {}
    for case, part in sorted(parts.items()):
        subject = raw.subjects[case]
        masks = {structure: subject.masks[structure] for structure in labels if structure in subject.masks}
        if other := raw.belongs_to_other_version(subject):
            failures[case] = (
                f"{case}: has masks that TotalSegmentator {raw.version} does not have ({', '.join(other[:5])}); convert the releases apart"
            )
        elif part == "Tr" and not masks:
            not_annotated[case] = "none of the chosen structures is annotated"
        else:
            ignored = _ignored(raw, subject)
            jobs.append(
                TotalSegmentatorJob(identifier=case, part=part, dataset=folder, image=subject.image, labels=labels, masks=masks, ignored=ignored)
            )
    if not_annotated:
        logger.warning("none of the chosen structures is annotated in %s; these training cases are left out", ", ".join(not_annotated))
    return jobs, failures, not_annotated


def _ignored(raw: RawTotalSegmentator, subject: RawSubject) -> tuple[str, ...]:
    names = sorted(set(subject.masks) - set(raw.classes))
    if names:
        logger.warning("%s: mask %s is not of TotalSegmentator %s and is ignored", subject.identifier, ", ".join(names), raw.version)
    return tuple(f"mask {name}: not a structure of TotalSegmentator {raw.version}" for name in names)


def _summary(raw: RawTotalSegmentator, reports: dict[str, CaseReport], left_out: dict[str, str]) -> dict[str, object]:
    """What conversion_report.json says besides cases and failures; logs what a person should not miss."""
    overlapping = {case: [o.model_dump() for o in report.overlaps] for case, report in reports.items() if report.overlaps}
    total = sum(overlap.voxels for report in reports.values() for overlap in report.overlaps)
    if overlapping:
        logger.warning(
            "%s in %s belong to more than one mask; %s (conversion_report.json lists them)",
            *(pluralize(total, "voxel"), pluralize(len(overlapping), "case"), OVERLAP_RULE),
        )
    return {
        "source": str(raw.root),
        "version": raw.version,
        "version_told_by": raw.version_reason,
        "overlap_rule": OVERLAP_RULE,
        "overlapping_voxels": total,
        "overlaps": overlapping,
        "ignored": {case: list(report.ignored) for case, report in reports.items() if report.ignored},
        "left_out": dict(sorted(left_out.items())),
    }
