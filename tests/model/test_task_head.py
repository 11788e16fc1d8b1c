"""A task's head starts where the foundation's left off."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset, Scheme, Weights
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.task_head import empty_head, head_module, new_head, pretrained_head

SCHEME = Scheme(spacing_mm=(4, 4, 4), window_hu=(-175, 250), patch_size_voxels=(64, 32, 32))


def preset(kind: Literal["sigmoid", "softmax", "none"]) -> FoundationPreset:
    structures = {"spleen": 1, "liver": 2} if kind == "softmax" else {"spleen": 0, "liver": 1}
    architecture = SwinUnetr(feature_size=12, window_size_voxels=(2, 2, 2), out_channels=3, patch_merging="monai_1.5")
    weights = Weights(expected_file="x.pth", layout="arena", origin="made here")
    return FoundationPreset(
        name="toy",
        title="toy",
        architecture=architecture,
        scheme=SCHEME,
        head=kind,
        structures=structures,
        weights=weights,
        preference=1,
        licence="none",
        citation="none",
    )


def logits(convolution: torch.nn.Conv3d, features: torch.Tensor) -> torch.Tensor:
    return convolution(features).detach()


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(1, 12, 3, 3, 3)


def test_binary_task_of_a_sigmoid_foundation_takes_the_row(features: torch.Tensor) -> None:
    network = preset("sigmoid").architecture.build()
    taken = pretrained_head(network, preset("sigmoid"), ["liver"], softmax=False)
    torch.testing.assert_close(logits(taken, features)[:, 0], logits(head_module(network, preset("sigmoid").architecture), features)[:, 1])


def test_binary_task_of_a_softmax_foundation_starts_from_its_probability(features: torch.Tensor) -> None:
    network = preset("softmax").architecture.build()
    taken = pretrained_head(network, preset("softmax"), ["liver"], softmax=False)
    probability = logits(head_module(network, preset("sigmoid").architecture), features).softmax(dim=1)[:, 2]
    torch.testing.assert_close(logits(taken, features)[:, 0].sigmoid(), probability)
    assert logits(taken, features).shape == (1, 1, 3, 3, 3)
    assert taken.out_channels == head_module(network, preset("sigmoid").architecture).out_channels


def test_an_empty_head_takes_what_a_task_has_trained(features: torch.Tensor) -> None:
    for kind in ("softmax", "sigmoid"):
        network = preset(kind).architecture.build()
        trained = pretrained_head(network, preset(kind), ["liver"], softmax=False)
        empty = empty_head(preset(kind), 12, "sigmoid", "pretrained", 1)
        empty.load_state_dict(trained.state_dict())
        assert torch.equal(logits(empty, features), logits(trained, features))
    assert empty_head(preset("softmax"), 12, "sigmoid", "new", 1).out_channels == 1
    assert empty_head(preset("softmax"), 12, "softmax", "pretrained", 3).out_channels == 3


def test_multiclass_task_of_a_softmax_foundation_keeps_all_its_rows(features: torch.Tensor) -> None:
    network = preset("softmax").architecture.build()
    taken = pretrained_head(network, preset("softmax"), ["liver", "spleen"], softmax=True)
    torch.testing.assert_close(logits(taken, features), logits(head_module(network, preset("sigmoid").architecture), features)[:, [0, 2, 1]])


def test_multiclass_task_of_a_sigmoid_foundation_has_a_new_background_row(features: torch.Tensor) -> None:
    network = preset("sigmoid").architecture.build()
    taken = pretrained_head(network, preset("sigmoid"), ["spleen", "liver"], softmax=True)
    torch.testing.assert_close(logits(taken, features)[:, 1:], logits(head_module(network, preset("sigmoid").architecture), features)[:, :2])
    assert taken.bias[0] == 0 and taken.weight[0].abs().max() > 0


def test_new_head_is_xavier_with_zero_bias() -> None:
    fresh = new_head(12, 4, torch.Generator().manual_seed(0))
    assert torch.count_nonzero(fresh.bias) == 0
    assert fresh.weight.abs().max() <= (6 / (12 + 4)) ** 0.5


def test_a_prior_is_what_a_new_head_says_without_features() -> None:
    nothing = torch.zeros(1, 12, 1, 1, 1)
    alone, beside = new_head(12, 1, prior=0.01), new_head(12, 4, prior=0.01, softmax=True)
    assert torch.sigmoid(alone(nothing)).item() == pytest.approx(0.01)
    background, *structures = torch.softmax(beside(nothing), 1).flatten().tolist()
    assert [one / background for one in structures] == pytest.approx([0.01 / 0.99] * 3)


@pytest.mark.parametrize(
    ("kind", "structure", "message"), [("none", "liver", "no usable linear head"), ("sigmoid", "heart", "not pre-trained on heart .*spleen, liver")]
)
def test_a_row_that_is_not_there_is_refused(kind: Literal["sigmoid", "none"], structure: str, message: str) -> None:
    with pytest.raises(FoundationError, match=message):
        pretrained_head(preset(kind).architecture.build(), preset(kind), [structure], softmax=False)
