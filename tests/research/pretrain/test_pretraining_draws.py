"""How often pre-training draws what: datasets, volumes and centres of patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.research.pretrain.patches import PatchSteps, PretrainingVolume, vary_structures
from arena_pipeline.research.pretrain.settings import PretrainSettings

SIZE = (8, 8, 8)
STRUCTURE, TISSUE = np.array([[20, 20, 20]]), np.array([[60, 60, 60]])
PATCHES = 600
THREE_DEVIATIONS = 3 * 0.5 / PATCHES**0.5


class Case:
    """A volume with one voxel of a structure and one of other tissue, far apart, that remembers where patches were cut."""

    shape = (80, 80, 80)
    tissue_positions = TISSUE

    def __init__(self, labels: int) -> None:
        self.labels, self.starts = labels, []

    def positions(self, label: int) -> np.ndarray:
        return STRUCTURE if label <= self.labels else STRUCTURE[:0]

    def image_patch(self, start: tuple[int, int, int], size: tuple[int, int, int]) -> np.ndarray:
        self.starts.append(start)
        return np.zeros(size, np.float32)

    def segmentation_patch(self, start: tuple[int, int, int], size: tuple[int, int, int]) -> np.ndarray:
        return np.zeros(size, np.uint8)


class Volume(PretrainingVolume):
    """One whose case is made in memory."""

    def __init__(self, annotated: tuple[bool, ...], labels: int = 1) -> None:
        super().__init__(Path(), "", {1: 1, 2: 2}, annotated)
        object.__setattr__(self, "made", Case(labels))

    @property
    def case(self) -> Case:  # type: ignore[override]
        return self.made


def draw(*datasets: list[Volume]) -> np.ndarray:
    """(patches, structures): what was annotated in the volume that each patch came from."""
    steps = PatchSteps(datasets, SIZE, PretrainSettings(steps=PATCHES // 20, batch_size=20))
    return np.concatenate([steps[index].annotated.numpy() for index in range(len(steps))])


def test_datasets_are_drawn_uniformly_however_many_volumes_they_have() -> None:
    drawn = draw([Volume((True, False))], [Volume((False, True)) for _ in range(9)])
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=THREE_DEVIATIONS)


def test_four_of_five_patches_are_centred_on_a_structure() -> None:
    volume = Volume((True,))
    draw([volume])
    on_structure = np.abs(np.array(volume.made.starts) - STRUCTURE).max(1) < 20
    assert on_structure.mean() == pytest.approx(0.8, abs=THREE_DEVIATIONS)


def test_a_volume_without_its_structures_gives_tissue() -> None:
    volume = Volume((True,), labels=0)
    draw([volume])
    assert (np.abs(np.array(volume.made.starts) - TISSUE).max(1) < 20).all()


def test_variety_changes_structures_and_never_what_lies_around_them() -> None:
    rng, target = np.random.default_rng(0), np.zeros((24, 24, 24), np.float32)
    target[2:10], target[12:20] = 1, 2
    before = np.full(target.shape, 0.5, np.float32)
    vary_structures(all_varied := before.copy(), target, 1.0, rng)
    assert (all_varied[target == 0] == 0.5).all()
    means = [float(all_varied[target == value].mean()) for value in (1, 2)]
    assert min(abs(mean - 0.5) for mean in means) > 1e-3
    assert means[0] != pytest.approx(means[1], abs=1e-3)
    vary_structures(none_varied := before.copy(), target, 0.0, rng)
    assert (none_varied == before).all()
