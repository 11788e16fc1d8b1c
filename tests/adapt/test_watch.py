"""Dice on the support set, and what it means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loop import Adaptation
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.adapt.watch import attempt_seed, attempt_settings, not_learned, support_dice, why_not_learned
from arena_pipeline.settings import AdaptationSettings


class Half(SupportVolume):
    """A support volume made in memory: noise, and a structure of 8 to 12 of 16 layers."""

    def __init__(self) -> None:
        pass

    def patches(self, size: tuple[int, int, int], settings: AdaptationSettings, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        segmentations = np.zeros((settings.patches_per_volume, *size), np.uint8)
        segmentations[:, : rng.integers(8, 13)] = 1
        return torch.from_numpy(rng.random((settings.patches_per_volume, 1, *size), np.float32)), torch.from_numpy(segmentations)


def adaptation() -> Adaptation:
    """Of a network that is one 1x1x1 convolution."""
    network = nn.Conv3d(1, 1, 1)
    trainable = Trainable(groups=[(1e-3, list(network.parameters()))])
    return Adaptation(
        network, trainable, [Half(), Half()], AdaptationSettings(patches_per_volume=3, micro_batch=2), (16, 4, 4), np.random.default_rng(0)
    )


@pytest.mark.parametrize("sign", [-1, 1], ids=["nothing", "everything"])
def test_a_network_that_says_the_same_everywhere_has_not_learned(sign: int) -> None:
    started = adaptation()
    with torch.no_grad():
        started.network.weight.zero_()  # type: ignore[operator, union-attr]
        started.network.bias.fill_(sign * 30.0)  # type: ignore[operator, union-attr]
    dice, everything = support_dice(started)
    assert dice[0] == (everything[0] if sign > 0 else 0)
    assert 2 * 8 / 24 <= everything[0] <= 2 * 12 / 28
    assert why_not_learned(dice, everything, 0.1) is not None
    again = support_dice(started)
    assert np.array_equal(again[0], dice) and np.array_equal(again[1], everything)


def test_one_structure_of_several_is_enough() -> None:
    everything = np.array([0.05, 0.05, math.nan])
    assert why_not_learned(np.array([0.0, 0.7, math.nan]), everything, 0.1) is None
    assert not_learned(np.array([0.0, 0.7, math.nan]), everything, 0.1).tolist() == [True, False, False]
    assert not_learned(np.array([0.3, 0.7]), np.array([0.3, 0.3]), 0.1).tolist() == [True, False]
    assert why_not_learned(np.array([0.0, 0.1, math.nan]), everything, 0.1) == "Dice on its own support set is 0.100, expected more than 0.100"
    assert why_not_learned(np.array([0.3]), np.array([0.3]), 0.1) == "Dice on its own support set is 0.300, expected more than 0.300"


def test_the_first_attempt_is_the_planned_one() -> None:
    planned = AdaptationSettings(new_head_learning_rate=0.05)
    assert attempt_settings(planned, 0) == planned and attempt_seed(3, 0) == (3,)
    again = attempt_settings(planned, 1)
    assert (again.learning_rate, again.decoder_learning_rate, again.new_head_learning_rate) == (5e-4, 5e-5, 0.025)
    assert attempt_seed(3, 1) == (3, 1)
    assert np.random.SeedSequence((3,)).generate_state(1) == np.random.SeedSequence(3).generate_state(1)
