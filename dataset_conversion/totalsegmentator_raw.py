"""A raw TotalSegmentator folder as it is found: its release (v1 or v2), subjects, masks and published split. Nothing is written here.

ROOT/meta.csv   ROOT/sXXXX/ct.nii.gz   ROOT/sXXXX/segmentations/STRUCTURE.nii.gz
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arena_pipeline.errors import DatasetError
from arena_pipeline.io.facts import load_fact
from arena_pipeline.words import pluralize
from dataset_conversion.case import ENDING
from dataset_conversion.target import refuse_standard_layout, unknown_structures

Version = Literal["v1", "v2"]
V2_COLUMNS = {"manufacturer", "scanner_model", "kvp", "pathology", "pathology_location"}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class RawSubject:
    """One sXXXX folder.

    Attributes:
        masks: name -> file, also of names that no release has; a structure without a file is not annotated.
    """

    identifier: str
    image: Path
    masks: dict[str, Path]


@dataclass(frozen=True)
class RawTotalSegmentator:
    """The folder.

    Attributes:
        version: the release whose list of classes is used; masks of the other release are not mixed in.
        version_reason: what the version was recognised by.
        split: subject -> train, val or test, from meta.csv; None without meta.csv.
    """

    root: Path
    version: Version
    version_reason: str
    subjects: dict[str, RawSubject]
    split: dict[str, str] | None

    @classmethod
    def open(cls, root: Path) -> RawTotalSegmentator:
        """Raises DatasetError: no subjects, or a meta.csv that is not the dataset's or contradicts the masks."""
        subjects = _find_subjects(root)
        columns, split = _read_meta(root / "meta.csv")
        version, reason = _detect_version(root, subjects, columns)
        return cls(root, version, reason, subjects, split)

    @property
    def classes(self) -> list[str]:
        """The release's structures, in its class file's order."""
        return class_list(self.version)

    def choose_structures(self, names: Sequence[str] | None, among: Sequence[str] | None = None) -> list[str]:
        """The structures to convert, in the class file's order.

        Args:
            names: those asked for; None means all that have a mask file.
            among: where `names` is None, only these.

        Raises:
            UnknownStructure: a name the release doesn't have, with the list of those it has.
            DatasetError: no subject has a mask of it.
        """
        there = {name for subject in self.subjects.values() for name in subject.masks}
        if names is None:
            return [name for name in self.classes if name in there and (among is None or name in among)]
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            other = [name for name in unknown if name in class_list(_other(self.version))]
            hint = f" ({', '.join(other)}: only in {_other(self.version)}, this folder is {self.version})" if other else ""
            where = f"TotalSegmentator {self.version} has {len(self.classes)} structures, named as the files in segmentations/{hint}"
            raise unknown_structures(unknown, self.classes, where)
        missing = [name for name in names if name not in there]
        if missing:
            raise DatasetError(
                f"{', '.join(missing)}: no subject has the mask segmentations/{missing[0]}{ENDING}",
                file=self.root,
                advice="choose among those it has",
            )
        return [name for name in self.classes if name in names]

    def belongs_to_other_version(self, subject: RawSubject) -> list[str]:
        """Masks that show a subject to be of the other release: names that only that one has, where it has none that only this one has."""
        own, other = _masks_only_in(subject, self.version), _masks_only_in(subject, _other(self.version))
        return other if other and not own else []

    def defects(self) -> dict[str, str]:
        """The known defective subjects that are in this folder, with what is wrong."""
        return {case: text for case, text in load_fact("totalsegmentator_defects")[self.version].items() if case in self.subjects}


def class_list(version: Version) -> list[str]:
    """The structures of a release, in its class file's order."""
    return list(load_fact("totalsegmentator_classes")[version])


def _other(version: Version) -> Version:
    return "v2" if version == "v1" else "v1"


def _masks_only_in(subject: RawSubject, version: Version) -> list[str]:
    """Masks whose names only this release has."""
    only = set(class_list(version)) - set(class_list(_other(version)))
    return sorted(only & set(subject.masks))


def _find_subjects(root: Path) -> dict[str, RawSubject]:
    if not root.is_dir():
        raise DatasetError("no such folder", file=root, advice=f"give TotalSegmentator's folder with sXXXX/ct{ENDING}")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and ((p / f"ct{ENDING}").exists() or (p / "segmentations").is_dir()))
    if not folders:
        refuse_standard_layout(root)
        inner = sorted({str(p.parent.parent) for p in root.glob(f"*/*/ct{ENDING}")})
        raise DatasetError(f"no subject sXXXX/ct{ENDING} in it", file=root, advice=f"perhaps you mean -i {inner[0]}" if inner else None)
    subjects = {}
    for folder in folders:
        masks = {p.name[: -len(ENDING)]: p for p in sorted((folder / "segmentations").glob(f"[!.]*{ENDING}"))}
        subjects[folder.name] = RawSubject(folder.name, folder / f"ct{ENDING}", masks)
    return subjects


def _read_meta(path: Path) -> tuple[set[str], dict[str, str] | None]:
    """The columns of meta.csv, and the split of each subject."""
    if not path.is_file():
        return set(), None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=";")
            columns, rows = set(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"not a readable table ({error})", file=path, advice="take the dataset's own meta.csv again") from None
    if not {"image_id", "split"} <= columns:
        raise DatasetError(
            f"expected columns image_id and split, separated by ';', found {', '.join(sorted(columns)) or 'none'}",
            file=path,
            advice="take the dataset's own meta.csv, or move it away (every subject is a training case then)",
        )
    odd = [row["image_id"] for row in rows if row["split"] not in SPLITS]
    if odd:
        raise DatasetError(f"split of {', '.join(odd[:5])} is none of {', '.join(SPLITS)}", file=path, advice="fill it in")
    return columns, {row["image_id"]: row["split"] for row in rows}


def _detect_version(root: Path, subjects: dict[str, RawSubject], columns: set[str]) -> tuple[Version, str]:
    telling: Counter[Version] = Counter()
    for subject in subjects.values():
        v1, v2 = len(_masks_only_in(subject, "v1")), len(_masks_only_in(subject, "v2"))
        if v1 != v2:
            telling["v1" if v1 > v2 else "v2"] += 1
    by_masks: Version | None = telling.most_common(1)[0][0] if telling and telling["v1"] != telling["v2"] else None
    by_meta: Version | None = ("v2" if columns & V2_COLUMNS else "v1") if columns else None
    if by_meta and by_masks and by_meta != by_masks:
        raise DatasetError(
            f"meta.csv has the columns of {by_meta}, but the masks of {pluralize(telling[by_masks], 'subject')} have names of {by_masks}",
            file=root,
            advice="the releases can't be mixed (CT and mask sizes differ): put meta.csv, CTs and masks of one release together",
        )
    if by_masks:
        return by_masks, f"mask names of {pluralize(telling[by_masks], 'subject')}" + (" and the columns of meta.csv" if by_meta else "")
    if by_meta:
        return by_meta, "the columns of meta.csv"
    if telling:
        raise DatasetError(
            f"as many subjects have masks of v1 as of v2 ({telling['v1']} each), and there is no meta.csv",
            file=root,
            advice="convert the releases apart",
        )
    return "v1", "no mask name and no meta.csv tells the releases apart; the names here mean the same in both"
