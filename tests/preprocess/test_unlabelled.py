"""Voxels that nobody annotated (nnU-Net's ignore) stay apart from the background on the way into the stored case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from arena_pipeline.foundations import load_preset
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.images import read_image, read_segmentation
from arena_pipeline.io.labels import UNLABELLED
from arena_pipeline.io.nearest import corner_aligned_axes
from arena_pipeline.preprocess.case import preprocess_segmentation
from arena_pipeline.preprocess.dataset import preprocess_dataset
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.resample import resample_annotated
from arena_pipeline.preprocess.store import StoredCase

SCHEME = load_preset("fseft").scheme  # 1.5 mm


def test_slices_between_the_planes_of_a_coarser_grid_are_not_lost() -> None:
    array = np.full((1, 1, 10), UNLABELLED, np.uint16)
    array[..., 1], array[..., 5] = 7, 0
    # planes of 3 voxels lie at 0, 3, 6, 9 and reach 1.5 voxels to both sides
    assert resample_annotated(array, corner_aligned_axes(array.shape, (1, 1, 1), (1, 1, 3))).ravel().tolist() == [7, UNLABELLED, 0, UNLABELLED]
    # at a finer grid each new voxel is what its nearest one is
    finer = corner_aligned_axes((1, 1, 2), (1, 1, 2), (1, 1, 1))
    assert resample_annotated(array[..., :2], finer).ravel().tolist() == [UNLABELLED, UNLABELLED, 7]


def test_nor_between_those_of_nnunet() -> None:
    array = np.zeros((1, 1, 10), np.uint8)
    array[..., 1], array[..., [0, 2, 3, 4, 6, 7, 8, 9]] = 7, 255
    # four planes of 2.5 voxels at 0.75, 3.25, 5.75, 8.25: the voxel nearest to the third is 6, which nobody annotated, and 5 lies in it
    grid = GridMap(
        native_shape=(1, 1, 10), axes=(0, 1, 2), flips=(False, False, False), native_spacing_mm=(1, 1, 1), scheme_spacing_mm=(1, 1, 2.5),
        resampled_shape=(1, 1, 4), crop_start=(0, 0, 0), crop_stop=(1, 1, 4), native_start=(0, 0, 0), native_stop=(1, 1, 10),
    )  # fmt: skip
    assert preprocess_segmentation(array, grid, ignore_label=255).ravel().tolist() == [7, UNLABELLED, 0, UNLABELLED]


def with_ignore(folder: Path) -> RawDataset:
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"]["ignore"] = 3
    (folder / "dataset.json").write_text(json.dumps(content))
    return RawDataset.open(folder)


def test_a_stored_case_knows_what_nobody_annotated(tiny_dataset: Callable[..., Path], write_nifti: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_dataset(cases=1)
    case = RawDataset.open(folder).training["case_0"]
    assert case.segmentation is not None
    array = read_segmentation(case.segmentation).array.copy()
    array[:, :, np.arange(24) % 4 != 0] = 3
    write_nifti(case.segmentation, array)
    raw = with_ignore(folder)
    assert preprocess_dataset(raw, SCHEME, tmp_path / "cases", workers=0) == ["case_0"]
    stored = StoredCase.open(tmp_path / "cases", "case_0")
    assert stored.labels == (1, 2)
    segmentation = stored.segmentation()
    assert np.array_equal(segmentation == UNLABELLED, array == 3)
    assert np.array_equal(segmentation == 1, array == 1)
    for positions in (stored.tissue_positions, stored.positions(1)):
        assert len(positions) and not (segmentation[tuple(positions.T)] == UNLABELLED).any()
    assert len(stored.tissue_positions) == np.count_nonzero((array != 3) & (read_image(case.image).array > SCHEME.window_hu[0]))
    assert preprocess_dataset(raw, SCHEME, tmp_path / "cases", workers=0) == []


def test_calling_a_label_ignore_makes_stored_cases_outdated(
    tiny_dataset: Callable[..., Path], write_nifti: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_dataset(cases=1)
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"]["unsure"] = 3
    (folder / "dataset.json").write_text(json.dumps(content))
    assert preprocess_dataset(RawDataset.open(folder), SCHEME, tmp_path / "cases", workers=0) == ["case_0"]
    del content["labels"]["unsure"]
    (folder / "dataset.json").write_text(json.dumps(content))
    assert preprocess_dataset(with_ignore(folder), SCHEME, tmp_path / "cases", workers=0) == ["case_0"]
