"""The standard layout on disk (nnU-Net v2's raw layout) and its dataset.json.

raw/DatasetXXX_Name/imagesTr/CASE_0000.nii.gz   labelsTr/CASE.nii.gz   imagesTs/   labelsTs/   dataset.json
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from arena_pipeline.errors import DatasetError, UnknownStructure
from arena_pipeline.io import endings
from arena_pipeline.io.atomic import write_json
from arena_pipeline.io.geometry import broken_link
from arena_pipeline.io.json_files import read_model
from arena_pipeline.io.label_names import BACKGROUND, IGNORE, check_labels, refuse_other_forms
from arena_pipeline.words import listed, names_to_choose, similar

Objective = Literal["binary", "multiclass"]
CHANNEL_SUFFIX = "_0000"
FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
NAMED_FAULTS = 10
LONGEST_CASE_BYTES = 200  # a file's name may have 255 bytes, and CASE_probabilities.npz has a longer one while it is written


def without_slicer_copies(files: Iterable[Path]) -> list[Path]:
    """Sorted, without each NAME.seg.nrrd beside a NAME.nii.gz: the same segmentation once more, for 3D Slicer."""
    files = sorted(files)
    names = {path.name for path in files}
    return [path for path in files if not (path.name.endswith(".seg.nrrd") and f"{path.name.removesuffix('.seg.nrrd')}.nii.gz" in names)]


class DatasetJson(BaseModel):
    """dataset.json. Keys that neither nnU-Net nor ARENA knows are kept as they are.

    Attributes:
        channel_names: one channel, {"0": "CT"}.
        labels: structure name -> integer, background 0, consecutive; "ignore", if there, has the highest: voxels that nobody annotated.
        numTraining: number of cases in imagesTr.
        file_ending: of images and labels, e.g. ".nii.gz".
        objective: one binary task per structure, or one multi-class task of all. nnU-Net has no such key: multiclass then.
        annotated: for the cases that are annotated only in part, the structures that are; absent cases are fully annotated.
        split: where the support sets may come from and which cases are queries, per structure ("*": every structure).
        name, source, licence: for people.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    channel_names: dict[str, str]
    labels: dict[str, int]
    numTraining: int = Field(ge=0)
    file_ending: str
    objective: Objective = "multiclass"
    annotated: dict[str, tuple[str, ...]] = {}
    split: dict[str, StructureSplit] = {}
    name: str | None = None
    source: str | None = None
    licence: str | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _check_form(cls, labels: object) -> object:
        refuse_other_forms(labels)
        return labels

    @model_validator(mode="after")
    def _check(self) -> DatasetJson:
        if {key: name.upper() for key, name in self.channel_names.items()} != {"0": "CT"}:
            raise ValueError(
                f"channel_names: expected one channel, {{'0': 'CT'}}, found {self.channel_names}; only CTs in Hounsfield units can be used"
            )
        if self.file_ending not in endings.IMAGES:
            raise ValueError(f"file_ending: expected one of {', '.join(endings.IMAGES)}, found {self.file_ending!r}")
        check_labels(self.labels)
        for case, names in self.annotated.items():
            unknown = sorted(set(names) - set(self.labels))
            if unknown:
                raise ValueError(f"annotated: case {case} names {', '.join(unknown)}, which labels does not have")
        if unknown := sorted(set(self.split) - {"*", *self.labels}):
            raise ValueError(f"split: {', '.join(unknown)} is neither * nor in labels")
        for key in self.model_extra or {}:
            if meant := similar(key, ("objective", "annotated", "split")):
                raise ValueError(f"unknown key {key}, did you mean {meant}?")
        return self

    @property
    def structures(self) -> dict[str, int]:
        """The labels without the background and nnU-Net's `ignore`."""
        return {name: label for name, label in self.labels.items() if name not in (BACKGROUND, IGNORE)}

    @property
    def ignore_label(self) -> int | None:
        """The integer of voxels that nobody annotated, where the dataset has such."""
        return self.labels.get(IGNORE)

    def is_annotated(self, case: str, structure: str) -> bool:
        return case not in self.annotated or structure in self.annotated[case]

    def require_structures(self, names: list[str] | tuple[str, ...]) -> None:
        """Raises UnknownStructure, with the list of the known ones, unless all `names` are labels here."""
        unknown = [name for name in names if name not in self.structures]
        if unknown:
            advice = names_to_choose(unknown, list(self.structures), "this dataset has")
            raise UnknownStructure(f"unknown structure {', '.join(unknown)}", advice=advice)

    @classmethod
    def read(cls, path: Path) -> DatasetJson:
        """Raises DatasetError naming the file and the key."""
        return read_model(path, cls, DatasetError, "no such file; a dataset folder needs a dataset.json", "mend it as in the README's example")

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(exclude_defaults=True))


class StructureSplit(BaseModel):
    """Case ids, in the order that the support-set rule draws from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: tuple[str, ...]
    test: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> StructureSplit:
        if both := [case for case in dict.fromkeys(self.test) if case in self.train]:
            named = listed(both, NAMED_FAULTS)
            raise ValueError(f"{named} under train and under test: a case adapted on can't be a query, take it out of one")
        return self

    def only(self, cases: Container[str]) -> StructureSplit:
        """The same without the cases that are not among these."""
        return StructureSplit(train=tuple(case for case in self.train if case in cases), test=tuple(case for case in self.test if case in cases))


DatasetJson.model_rebuild()


@dataclass(frozen=True)
class Case:
    """Image and segmentation under one identifier; `segmentation` is None for a case without labels."""

    identifier: str
    image: Path
    segmentation: Path | None


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset folder, read once: its dataset.json and its cases by identifier, sorted."""

    folder: Path
    json: DatasetJson
    training: dict[str, Case]
    queries: dict[str, Case]

    @classmethod
    def open(cls, folder: Path) -> RawDataset:
        """Raises DatasetError naming what is wrong with the folder: what `survey` finds."""
        raw, faults = cls.survey(folder)
        if len(faults) > 1:
            raise DatasetError(f"{folder.name}, {len(faults)} faults: {listed(faults, NAMED_FAULTS, '; ')}")
        for fault in faults:
            raise fault
        return raw

    @classmethod
    def survey(cls, folder: Path) -> tuple[RawDataset, list[DatasetError]]:
        """What there is, and what keeps it from being used: training cases without a label, labels without an image, no case at all.

        Raises:
            DatasetError: no valid dataset.json, without which no file's name means anything.
        """
        description = DatasetJson.read(folder / "dataset.json")
        training, faults = _list_cases(folder, "Tr", description.file_ending)
        if not training and not faults:
            images, name = folder / "imagesTr", f"CASE{CHANNEL_SUFFIX}{description.file_ending}"
            found = ", ".join(sorted(path.name for path in images.glob("*"))[:3]) or "nothing"
            faults.append(
                DatasetError(
                    f"no {name} (as file_ending says in dataset.json), found {found}", file=images, advice="put the annotated CTs there, so named"
                )
            )
        queries, more = _list_cases(folder, "Ts", description.file_ending)
        return cls(folder, description, training, queries), faults + more


def check_case_name(identifier: str, file: Path) -> None:
    """Raises DatasetError for no name, or one that can't be written to a log, a JSON file or a progress bar."""
    if len(os.fsencode(identifier)) > LONGEST_CASE_BYTES:
        raise DatasetError(f"{str(file)!r}: a case's name may have {LONGEST_CASE_BYTES} bytes, files made of it have more", advice="rename the file")
    if not identifier or not identifier.isprintable():
        if identifier and os.fsencode(identifier).decode("utf-8", "surrogateescape").isprintable():
            found = f"a name in UTF-8, in a locale of {sys.getfilesystemencoding()}"
            raise DatasetError(f"{str(file)!r}: {found}", advice="set PYTHONUTF8=1, or a UTF-8 locale")
        raise DatasetError(f"{str(file)!r}: a case can't be named {identifier!r}, empty, with line breaks or not in UTF-8", advice="rename the file")


def _list_cases(folder: Path, part: Literal["Tr", "Ts"], ending: str) -> tuple[dict[str, Case], list[DatasetError]]:
    """Cases by identifier, sorted, and faults. Files whose name starts with a dot are no cases: macOS leaves ._CASE_0000.nii.gz beside each.

    Segmentations in labelsTs may be without their CT: nothing but a comparison needs both.
    """
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    cases: dict[str, Case] = {}
    faults: list[DatasetError] = []
    for identifier, image in _files(images, CHANNEL_SUFFIX + ending):
        label = labels / f"{identifier}{ending}"
        try:
            check_case_name(identifier, image)
            if part == "Tr" and not label.is_file():
                raise DatasetError(
                    f"no segmentation {label}", case=identifier, advice=f"{_whereabouts(label, folder)}every image in imagesTr needs one"
                )
        except DatasetError as fault:
            faults.append(fault)
            continue
        cases[identifier] = Case(identifier, image, label if label.is_file() else None)
    told = {fault.case for fault in faults}
    for identifier, label in _files(labels, ending):
        image = images / f"{identifier}{CHANNEL_SUFFIX}{ending}"
        if part == "Tr" and identifier not in cases and identifier.removesuffix(".seg") not in told and not image.exists():
            where = _whereabouts(image, folder)
            faults.append(
                DatasetError(
                    f"{label.name} without an image; expected {image}", file=labels, advice=f"{where}add or rename the image, or remove the label"
                )
            )
    return cases, faults


def _files(folder: Path, ending: str) -> list[tuple[str, Path]]:
    """(name without `ending`, path), sorted, of what has that ending."""
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(ending) and not path.name.startswith("."))
    return [(path.name[: -len(ending)], path) for path in paths]


def _whereabouts(path: Path, folder: Path) -> str:
    """A hint where a file that is not in its place may be."""
    if (fault := broken_link(path)) is not None:
        return f"it is {fault}; "
    if path.is_dir():
        return "it is a folder, not a file; "
    slicers = path.with_name(f"{path.stem}.seg{path.suffix}")  # 3D Slicer saves what it segmented as CASE.seg.nrrd
    if slicers.is_file():
        return f"it is called {slicers.name}, rename it; "
    other = next((place for name in FOLDERS if name != path.parent.name and (place := folder / name / path.name).is_file()), None)
    return f"it is in {other.parent.name}, move it; " if other else ""
