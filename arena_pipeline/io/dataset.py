"""The standard layout on disk (nnU-Net v2's raw layout) and its dataset.json.

    raw/DatasetXXX_Name/imagesTr/CASE_0000.nii.gz   labelsTr/CASE.nii.gz   imagesTs/   labelsTs/   dataset.json
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from arena_pipeline.errors import DatasetError, UnknownStructure
from arena_pipeline.io.atomic import write_json

Objective = Literal["binary", "multiclass"]
CHANNEL_SUFFIX = "_0000"


class DatasetJson(BaseModel):
    """dataset.json. Keys that neither nnU-Net nor ARENA knows are kept as they are.

    Attributes:
        channel_names: one channel, {"0": "CT"}.
        labels: structure name -> integer, background 0, consecutive.
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
    numTraining: int
    file_ending: str
    objective: Objective = "multiclass"
    annotated: dict[str, tuple[str, ...]] = {}
    split: dict[str, StructureSplit] = {}
    name: str | None = None
    source: str | None = None
    licence: str | None = None

    @model_validator(mode="after")
    def _check(self) -> DatasetJson:
        if len(self.channel_names) != 1:
            raise ValueError(f"channel_names: expected one channel, {{'0': 'CT'}}, found {self.channel_names}")
        if self.labels.get("background") != 0:
            raise ValueError("labels: expected 'background': 0")
        if sorted(self.labels.values()) != list(range(len(self.labels))):
            raise ValueError(f"labels: expected consecutive integers 0..{len(self.labels) - 1}, found {sorted(self.labels.values())}")
        if wrong := [name for name in self.labels if not name or name.startswith(".") or "/" in name or "\\" in name]:
            raise ValueError(f"labels: {', '.join(map(repr, wrong))} can't name a structure's folder; leave out /, \\ and dots in front")
        for case, names in self.annotated.items():
            unknown = sorted(set(names) - set(self.labels))
            if unknown:
                raise ValueError(f"annotated: case {case} names {', '.join(unknown)}, which labels does not have")
        if unknown := sorted(set(self.split) - {"*", *self.labels}):
            raise ValueError(f"split: {', '.join(unknown)} is neither * nor in labels")
        for key in self.model_extra or {}:
            if meant := _similar(key, ("objective", "annotated", "split")):
                raise ValueError(f"unknown key {key}, did you mean {meant}?")
        return self

    @property
    def structures(self) -> dict[str, int]:
        """The labels without the background."""
        return {name: label for name, label in self.labels.items() if label}

    def is_annotated(self, case: str, structure: str) -> bool:
        return case not in self.annotated or structure in self.annotated[case]

    def require_structures(self, names: list[str] | tuple[str, ...]) -> None:
        """Raises UnknownStructure, with the list of the known ones, unless all `names` are labels here."""
        unknown = [name for name in names if name not in self.structures]
        if unknown:
            raise UnknownStructure(f"unknown structure {', '.join(unknown)}; this dataset has: {', '.join(self.structures)}")

    @classmethod
    def read(cls, path: Path) -> DatasetJson:
        """Raises DatasetError naming the file and the key."""
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            return cls.model_validate(content)
        except FileNotFoundError:
            raise DatasetError(f"{path}: no such file; a dataset folder needs a dataset.json") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DatasetError(f"{path}: not a readable JSON file ({error}); mend it as in the README's example") from None
        except ValidationError as error:
            faults = "; ".join(_fault(entry, content) for entry in error.errors())
            raise DatasetError(f"{path}: {faults}; mend it as in the README's example") from None

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(exclude_defaults=True))


def _fault(entry: Any, content: Any) -> str:
    """One of pydantic's errors in words: which key, what was expected, what was found."""
    key = ".".join(map(str, entry["loc"]))
    if entry["type"] == "missing":
        meant = _similar(key, content)
        return f"key {key} is missing" + (f", is {meant} meant to be it?" if meant else "")
    if entry["type"] == "value_error":
        return str(entry["msg"]).removeprefix("Value error, ")
    if not key:
        return f"expected an object, {{...}}, found {type(content).__name__}"
    return f"{key}: {entry['msg']}, found {entry['input']!r}"


def _similar(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is most probably a misspelling of."""
    lowered = {name.lower(): name for name in known}
    return next((lowered[name] for name in difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.85)), None)


class StructureSplit(BaseModel):
    """Case ids, in the order that the support-set rule draws from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: tuple[str, ...]
    test: tuple[str, ...] = ()


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
        """Raises DatasetError for a missing folder, a missing label, or a label without its image."""
        description = DatasetJson.read(folder / "dataset.json")
        training = _list_cases(folder, "Tr", description.file_ending, labels_required=True)
        if not training:
            images, name = folder / "imagesTr", f"CASE{CHANNEL_SUFFIX}{description.file_ending}"
            found = ", ".join(sorted(path.name for path in images.glob("*"))[:3]) or "nothing"
            raise DatasetError(f"{images}: no {name} (as file_ending in dataset.json says), found {found}; put the annotated CTs there, so named")
        queries = _list_cases(folder, "Ts", description.file_ending, labels_required=False)
        return cls(folder, description, training, queries)


def _list_cases(folder: Path, part: str, ending: str, labels_required: bool) -> dict[str, Case]:
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    suffix = CHANNEL_SUFFIX + ending
    names = sorted(p.name for p in images.iterdir() if p.name.endswith(suffix)) if images.is_dir() else []
    cases = {}
    for name in names:
        identifier = name[: -len(suffix)]
        label = labels / f"{identifier}{ending}"
        if labels_required and not label.is_file():
            raise DatasetError(f"{identifier}: no segmentation {label}; every image in imagesTr needs one (an unlabelled CT belongs in imagesTs)")
        cases[identifier] = Case(identifier, images / name, label if label.is_file() else None)
    if labels.is_dir():
        orphans = sorted(p.name for p in labels.iterdir() if p.name.endswith(ending) and p.name[: -len(ending)] not in cases)
        if orphans:
            image = images / f"{orphans[0][: -len(ending)]}{suffix}"
            raise DatasetError(f"{labels}: {', '.join(orphans[:5])} without an image; expected {image}; add or rename the image, or remove the label")
    return cases
