"""Stored cases: what is read is what was written, patches are cut-outs, and an unfinished case is no case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.errors import DatasetError
from arena_pipeline.preprocess import store
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.store import StoredCase, write_case

SHAPE = (70, 50, 90)


def grid_of(shape: tuple[int, int, int]) -> GridMap:
    one = (1.5, 1.5, 1.5)
    return GridMap(
        native_shape=shape, axes=(0, 1, 2), flips=(False, False, False), native_spacing_mm=one, scheme_spacing_mm=one,
        resampled_shape=shape, crop_start=(0, 0, 0), crop_stop=shape,
    )  # fmt: skip


@pytest.fixture
def arrays(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image = np.clip(rng.normal(0.3, 0.4, SHAPE), 0, 1).astype(np.float32)
    segmentation = np.zeros(SHAPE, np.uint8)
    segmentation[10:20, 10:20, 10:20] = 1
    segmentation[30:60, 20:50, 40:80] = 7
    return image, segmentation


@pytest.fixture
def case(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> StoredCase:
    write_case(tmp_path, "s0001", *arrays, grid_of(SHAPE), np.random.default_rng(0))
    return StoredCase.open(tmp_path, "s0001")


def test_whole_arrays_and_facts(case: StoredCase, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.array_equal(case.image(), arrays[0])
    assert case.image().dtype == np.float32
    assert np.array_equal(case.segmentation(), arrays[1])
    assert case.segmentation().dtype == np.uint8
    assert (case.identifier, case.shape, case.labels, case.grid) == ("s0001", SHAPE, (1, 7), grid_of(SHAPE))


@pytest.mark.parametrize("start", [(0, 0, 0), (5, -3, 17), (-40, 30, 60), (69, 49, 89), (-32, 0, 0), (0, 50, 0), (-500, 0, 0)])
def test_a_patch_is_the_zero_padded_volumes_cut_out(case: StoredCase, arrays: tuple[np.ndarray, np.ndarray], start: tuple[int, int, int]) -> None:
    size = (32, 33, 34)
    where = tuple(slice(s + 64, s + 64 + n) for s, n in zip(start, size, strict=True))
    for read, array in ((case.image_patch, arrays[0]), (case.segmentation_patch, arrays[1])):
        patch = read(start, size)
        assert np.array_equal(patch, np.pad(array, 64)[where] if min(start) > -64 else np.zeros(size))
        assert patch.dtype == array.dtype
        patch += 1  # a patch is the caller's own
    assert np.array_equal(case.image(), arrays[0])


def test_positions_are_voxels_of_their_label(case: StoredCase, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    image, segmentation = arrays
    small, large, tissue = case.positions(1), case.positions(7), case.tissue_positions
    assert np.array_equal(small, np.argwhere(segmentation == 1))  # 1,000 voxels: all of them
    assert large.shape == (20_000, 3)  # of 36,000
    assert tissue.shape == (50_000, 3)
    assert large.dtype == np.int32
    assert (segmentation[tuple(large.T)] == 7).all()
    assert (image[tuple(tissue.T)] > 0).all()
    assert len(np.unique(large, axis=0)) == 20_000
    # uniform: the mean of 20,000 draws from 30..59 has a standard error of 0.04
    assert large[:, 0].mean() == pytest.approx(44.5, abs=0.3)
    assert case.positions(3).shape == (0, 3)


def test_the_same_seed_stores_the_same_positions(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_case(tmp_path, name, *arrays, grid_of(SHAPE), np.random.default_rng(seed))
    a, b, c = (StoredCase.open(tmp_path, name).positions(7) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_case_without_labels(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    write_case(tmp_path, "query", arrays[0], None, grid_of(SHAPE), np.random.default_rng(0))
    case = StoredCase.open(tmp_path, "query")
    assert case.labels == ()
    assert np.array_equal(case.image(), arrays[0])
    with pytest.raises(DatasetError, match="query: stored without a segmentation"):
        case.segmentation()


def test_an_interrupted_write_leaves_no_case(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path, "s1", *arrays, grid_of(SHAPE), np.random.default_rng(0))
    assert StoredCase.exists(tmp_path, "s1")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "label_positions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_case(tmp_path, "s1", *arrays, grid_of(SHAPE), np.random.default_rng(0))
    assert not StoredCase.exists(tmp_path, "s1")
    with pytest.raises(DatasetError, match=r"s1: not preprocessed in .*run arena_preprocess"):
        StoredCase.open(tmp_path, "s1")


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".npz"])
def test_damaged_files_are_named(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray], ending: str) -> None:
    write_case(tmp_path, "s1", *arrays, grid_of(SHAPE), np.random.default_rng(0))
    (tmp_path / f"s1{ending}").write_bytes(b"not what it was")
    with pytest.raises(DatasetError, match=f"s1: .*s1{ending}: damaged"):
        _ = StoredCase.open(tmp_path, "s1").tissue_positions
    (tmp_path / f"s1{ending}").unlink()
    assert not StoredCase.exists(tmp_path, "s1")


def test_image_and_segmentation_of_different_shape_are_refused(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(DatasetError, match="one GridMap"):
        write_case(tmp_path, "s1", arrays[0], arrays[1][1:], grid_of(SHAPE), np.random.default_rng(0))


def test_volumes_smaller_than_a_block(tmp_path: Path) -> None:
    image = np.full((3, 1, 20), 0.5, np.float32)
    write_case(tmp_path, "thin", image, np.ones(image.shape, np.uint16), grid_of(image.shape), np.random.default_rng(0))
    case = StoredCase.open(tmp_path, "thin")
    assert np.array_equal(case.image(), image)
    assert case.image_patch((-1, -1, -1), (8, 8, 8)).sum() == 0.5 * 3 * 1 * 7
