"""The label map as other programs read it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.errors import PlansError
from arena_pipeline.predict.labels import DISTINCT, ITK_SNAP_NAME, JSON_NAME, LabelMap, colour


def test_both_files_say_the_same(tmp_path: Path) -> None:
    label_map = LabelMap.of({"background": 0, "liver": 1, "inferior vena cava": 7}, {"model": "m"})
    label_map.write(tmp_path)
    assert LabelMap.read(tmp_path) == label_map
    lines = [line for line in (tmp_path / ITK_SNAP_NAME).read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == '0 0 0 0 0 0 0 "Clear Label"'
    rows = [re.fullmatch(r'(\d+) (\d+) (\d+) (\d+) 1 1 1 "(.+)"', line) for line in lines[1:]]
    assert [(row[5], int(row[1])) for row in rows if row] == [("liver", 1), ("inferior vena cava", 7)]
    assert [tuple(int(row[i]) for i in (2, 3, 4)) for row in rows if row] == list(label_map.colours_rgb.values())


def test_the_first_hundred_colours_differ_and_none_is_dark() -> None:
    colours = {colour(label) for label in range(1, 101)}
    assert len(colours) == 100
    assert min(max(rgb) for rgb in colours) > 180


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / JSON_NAME).write_text('{"labels": {}}')
    with pytest.raises(PlansError, match=JSON_NAME):
        LabelMap.read(tmp_path)


def test_the_first_colours_can_be_told_apart() -> None:
    """In CIELAB, worked out here from the definition of sRGB."""
    linear = np.array(DISTINCT) / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]) / (0.9505, 1, 1.089)
    x, y, z = np.cbrt(xyz.clip(0.008856)).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab, axis=2) + 1000 * np.eye(len(lab))
    assert apart[:12, :12].min() > 45 and apart.min() > 28
