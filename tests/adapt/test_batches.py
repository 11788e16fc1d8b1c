"""Patches: half around the structure, half around other tissue, inside the volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loss import UNKNOWN
from arena_pipeline.errors import SupportSetError
from arena_pipeline.io.labels import UNLABELLED
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.store import StoredCase, write_case
from arena_pipeline.settings import AdaptationSettings

Store = Callable[[np.ndarray, np.ndarray], StoredCase]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    def make(image: np.ndarray, segmentation: np.ndarray) -> StoredCase:
        shape = image.shape
        grid = GridMap(
            native_shape=shape, axes=(0, 1, 2), flips=(False,) * 3, native_spacing_mm=(1, 1, 1), scheme_spacing_mm=(1, 1, 1), resampled_shape=shape,
            crop_start=(0, 0, 0), crop_stop=shape,
        )  # fmt: skip
        write_case(tmp_path, "case", image.astype(np.float32), segmentation.astype(np.uint16), grid, np.random.default_rng(0))
        return StoredCase.open(tmp_path, "case")

    return make


def ramp(shape: tuple[int, int, int]) -> np.ndarray:
    """Every voxel's own value in (0, 1], so that a patch tells where it was cut."""
    return (np.arange(np.prod(shape)).reshape(shape) + 1) / np.prod(shape)


def test_half_of_the_centres_are_foreground(store: Store) -> None:
    segmentation = np.zeros((40, 40, 40))
    segmentation[20, 20, 20] = 3
    volume = SupportVolume.open(store(ramp((40, 40, 40)), segmentation), [3])
    images, targets = volume.patches((1, 1, 1), AdaptationSettings(patches_per_volume=6, intensity_shift_probability=0), np.random.default_rng(0))
    assert images.shape == (6, 1, 1, 1, 1) and targets.shape == (6, 1, 1, 1)
    assert targets.flatten().tolist() == [1, 1, 1, 0, 0, 0]


def test_background_centres_lie_in_tissue_outside_the_structure(store: Store) -> None:
    image, segmentation = np.zeros((12, 12, 12)), np.zeros((12, 12, 12))
    image[2:5, 2:5, 2:5] = 0.5
    segmentation[2:5, 2:5, 2:4] = 1
    volume = SupportVolume.open(store(image, segmentation), [1])
    assert sorted(map(tuple, volume.background.tolist())) == [(x, y, 4) for x in (2, 3, 4) for y in (2, 3, 4)]


def test_a_patch_at_the_border_moves_inside_and_keeps_image_and_target_together(store: Store) -> None:
    image, segmentation = ramp((20, 20, 20)), np.zeros((20, 20, 20))
    segmentation[0, 19, 10] = 1
    volume = SupportVolume.open(store(image, segmentation), [1])
    settings = AdaptationSettings(patches_per_volume=2, intensity_shift_probability=0)
    images, targets = volume.patches((8, 8, 8), settings, np.random.default_rng(0))
    np.testing.assert_array_equal(images[0, 0].numpy(), image[0:8, 12:20, 6:14].astype(np.float32))
    assert targets[0].sum() == 1 and targets[0, 0, 7, 4] == 1


def test_a_volume_smaller_than_the_patch_is_padded_with_zeros_around(store: Store) -> None:
    segmentation = np.zeros((4, 20, 20))
    segmentation[1, 10, 10] = 1
    volume = SupportVolume.open(store(ramp((4, 20, 20)), segmentation), [1])
    images, _ = volume.patches((8, 8, 8), AdaptationSettings(patches_per_volume=1, intensity_shift_probability=0), np.random.default_rng(0))
    filled = images[0, 0].numpy().any(axis=(1, 2))
    assert filled.tolist() == [False, False, True, True, True, True, False, False]


def test_labels_become_channels_in_the_tasks_order(store: Store) -> None:
    segmentation = np.zeros((8, 8, 8))
    segmentation[0], segmentation[1], segmentation[2] = 7, 2, 5
    volume = SupportVolume.open(store(ramp((8, 8, 8)), segmentation), [2, 7])
    _, targets = volume.patches((8, 8, 8), AdaptationSettings(patches_per_volume=1), np.random.default_rng(0))
    assert [int(targets[0, x].unique()) for x in range(4)] == [2, 1, 0, 0]


def test_the_intensity_shift_is_bounded_and_hits_its_share(store: Store) -> None:
    segmentation = np.zeros((8, 8, 8))
    segmentation[4, 4, 4] = 1
    volume = SupportVolume.open(store(np.full((8, 8, 8), 0.5), segmentation), [1])
    settings = AdaptationSettings(patches_per_volume=2, intensity_shift=0.1, intensity_shift_probability=0.2)
    rng = np.random.default_rng(0)
    shifts = torch.cat([volume.patches((1, 1, 1), settings, rng)[0].flatten() for _ in range(1000)]) - 0.5
    assert shifts.abs().max() <= 0.1 + 1e-6
    assert (shifts != 0).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_a_case_without_the_structure_is_refused_by_name(store: Store) -> None:
    with pytest.raises(SupportSetError, match="^case: none of the labels"):
        SupportVolume.open(store(ramp((8, 8, 8)), np.zeros((8, 8, 8))), [1])


def test_patches_are_centred_on_annotated_voxels_and_say_what_nobody_annotated(store: Store) -> None:
    segmentation = np.full((12, 12, 12), UNLABELLED)
    segmentation[:, :, 5] = 0
    segmentation[3:6, 3:6, 5] = 2
    volume = SupportVolume.open(store(ramp((12, 12, 12)), segmentation), [2])
    _, targets = volume.patches((1, 1, 3), AdaptationSettings(patches_per_volume=8), np.random.default_rng(0))
    assert targets[:, 0, 0, 1].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert (targets[:, 0, 0, [0, 2]] == UNKNOWN).all()
