"""Masks on the preprocessed grid: written, read back, and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.errors import ImageError
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.masks import masks_file, read_masks, write_masks

GRID = GridMap(
    native_shape=(10, 12, 14),
    axes=(1, 0, 2),
    flips=(True, False, False),
    native_spacing_mm=(0.7, 0.8, 3.0),
    scheme_spacing_mm=(1.5, 1.5, 1.5),
    resampled_shape=(6, 5, 27),
    crop_start=(1, 0, 2),
    crop_stop=(5, 5, 20),
)


def test_round_trip(tmp_path: Path, rng: np.random.Generator) -> None:
    masks = {name: rng.random(GRID.cropped_shape) > 0.5 for name in ("liver", "grid")}  # a structure may have any name
    path = masks_file(tmp_path, "s0001")
    write_masks(path, masks, GRID)
    assert path == tmp_path / "preprocessed" / "s0001.npz"
    assert [p.name for p in path.parent.iterdir()] == ["s0001.npz"]
    read, grid = read_masks(path, ("grid", "liver"))
    assert grid == GRID
    assert all(np.array_equal(read[name], masks[name]) and read[name].dtype == bool for name in masks)
    with pytest.raises(ImageError, match="no mask of spleen; it has: liver, grid"):
        read_masks(path, ("spleen",))


def test_a_mask_off_the_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"mask of liver has shape \(4, 5, 17\), its grid \(4, 5, 18\)"):
        write_masks(tmp_path / "a.npz", {"liver": np.zeros((4, 5, 17), bool)}, GRID)
    assert not list(tmp_path.iterdir())
