"""The label map beside the segmentations: labels.json for programs, labels.txt for ITK-SNAP."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from arena_pipeline.errors import PlansError
from arena_pipeline.io.atomic import write_json, write_text
from arena_pipeline.io.json_files import read_model
from arena_pipeline.settings import Frozen

JSON_NAME = "labels.json"
ITK_SNAP_NAME = "labels.txt"
RGB = tuple[int, int, int]
GOLDEN_RATIO = 0.6180339887498949
DISTINCT: tuple[RGB, ...] = (
    *((255, 60, 45), (0, 255, 0), (15, 90, 255), (60, 240, 255), (255, 225, 90), (255, 0, 180), (255, 180, 195), (60, 195, 105)),
    *((0, 120, 195), (210, 0, 255), (225, 150, 255), (195, 120, 60), (195, 60, 90), (210, 240, 180), (165, 225, 0), (255, 150, 0)),
    *((195, 195, 255), (0, 255, 210), (165, 60, 195), (0, 255, 120), (45, 195, 255), (240, 195, 150), (240, 105, 180), (105, 135, 255)),
)
"""Colours of the first integers, each as far as possible from those before it in CIELAB, light and saturated enough for a grey image: the
first 12 are at least 47 apart, all of them 31 (2 can just be told apart side by side)."""
SHADES = ((0.75, 1.0), (0.95, 0.8), (0.4, 1.0))  # (saturation, value)


class LabelMap(Frozen):
    """labels.json.

    Attributes:
        labels: structure -> integer in the segmentations, background 0.
        colours_rgb: structure -> 0..255 each; also those of the previews and of labels.txt.
        source: what made the segmentations, in words and a path; --continue_prediction compares it.
        support_ids: structure -> the cases that its adapters were adapted on, so that nobody takes their scores for those of unseen cases.
            Empty for zero-shot, and for an exported model, whose support cases have no names.
    """

    labels: dict[str, int]
    colours_rgb: dict[str, RGB]
    source: dict[str, str] = Field(default_factory=dict)
    support_ids: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> LabelMap:
        if missing := [name for name in self.structures if name not in self.colours_rgb]:
            raise ValueError(f"colours_rgb: no colour for {', '.join(missing)}")
        return self

    @classmethod
    def of(cls, labels: Mapping[str, int], source: Mapping[str, str], support_ids: Mapping[str, tuple[str, ...]] | None = None) -> LabelMap:
        named = {"background": 0, **{name: label for name, label in labels.items() if label}}
        colours = {name: colour(label) for name, label in named.items() if label}
        return cls(labels=named, colours_rgb=colours, source=dict(source), support_ids=dict(support_ids or {}))

    def with_support_in(self, folder: Path) -> LabelMap:
        """With the support cases in the folder's own label map too, if that is of the same model: those that it met under another name."""
        other = LabelMap.read_if_whole(folder) or self
        if (other.labels, other.source) != (self.labels, self.source):
            return self
        both = {name: tuple(dict.fromkeys(ids + other.support_ids.get(name, ()))) for name, ids in self.support_ids.items()}
        return self.model_copy(update={"support_ids": both})

    @property
    def structures(self) -> dict[str, int]:
        return {name: label for name, label in self.labels.items() if label}

    @classmethod
    def read(cls, folder: Path) -> LabelMap:
        """Raises PlansError naming the file."""
        missing = "no such file; arena_predict writes it beside the segmentations"
        return read_model(folder / JSON_NAME, cls, PlansError, missing, "predict again, or copy it from where the segmentations came")

    @classmethod
    def read_if_whole(cls, folder: Path) -> LabelMap | None:
        """None where there is none, or a damaged one."""
        try:
            return cls.read(folder)
        except PlansError:
            return None

    def write(self, folder: Path) -> None:
        """Writes labels.json and labels.txt."""
        write_json(folder / JSON_NAME, self.model_dump(mode="json"))
        write_text(folder / ITK_SNAP_NAME, self._itk_snap())

    def _itk_snap(self) -> str:
        lines = ["# ITK-SNAP label description: number, red, green, blue, opacity, visible, in 3D, name", '0 0 0 0 0 0 0 "Clear Label"']
        for name, label in self.structures.items():
            red, green, blue = self.colours_rgb[name]
            lines.append(f'{label} {red} {green} {blue} 1 1 1 "{name}"')
        return "\n".join(lines) + "\n"


def colour(label: int) -> RGB:
    """A colour that depends on the integer alone: one of DISTINCT, then hues a golden section apart, in turn strong, dark and pale."""
    if label <= len(DISTINCT):
        return DISTINCT[label - 1]
    saturation, value = SHADES[(label - 1) % len(SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(((label - 1) * GOLDEN_RATIO) % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
