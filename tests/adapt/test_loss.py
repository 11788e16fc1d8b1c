"""Soft Dice, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from arena_pipeline.adapt.loss import UNKNOWN, soft_dice_loss, task_loss


def test_soft_dice_by_hand() -> None:
    probabilities = torch.tensor([1.0, 0.5, 0.0, 0.0]).reshape(1, 1, 1, 2, 2)
    target = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 1, 2, 2)
    assert soft_dice_loss(probabilities, target).item() == pytest.approx(1 - (2 * 1 + 1) / (1.5 + 2 + 1))


def test_loss_is_a_mean_over_samples_and_channels() -> None:
    perfect, empty = torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    both = soft_dice_loss(torch.cat((perfect, empty)), torch.cat((perfect, perfect)))
    assert both.item() == pytest.approx((0 + (1 - 1 / 9)) / 2)


def test_an_absent_structure_predicted_absent_costs_nothing() -> None:
    assert soft_dice_loss(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)).item() == 0


def test_background_counts_in_a_multiclass_task() -> None:
    logits = torch.zeros(1, 2, 1, 1, 2)
    segmentation = torch.tensor([0, 1]).reshape(1, 1, 1, 2)
    # each of both channels: p = 0.5 everywhere, one true voxel: 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert task_loss(logits, segmentation).item() == pytest.approx(1 / 3)


def test_binary_task_uses_the_sigmoid() -> None:
    logits = torch.tensor([100.0, -100.0]).reshape(1, 1, 1, 1, 2)
    assert task_loss(logits, torch.tensor([1, 0]).reshape(1, 1, 1, 2)).item() == pytest.approx(0, abs=1e-6)


def test_voxels_that_nobody_annotated_count_for_nothing() -> None:
    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    segmentation = torch.randint(0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    sparse = segmentation.clone()
    sparse[:, :, :, 1:] = UNKNOWN
    assert task_loss(logits, sparse).item() == pytest.approx(task_loss(logits[..., :1], segmentation[..., :1]).item())
    binary = torch.where(segmentation > 0, 1, 0).to(torch.uint8)
    assert task_loss(logits[:, :1], torch.where(sparse == UNKNOWN, UNKNOWN, binary)).item() == pytest.approx(
        task_loss(logits[:, :1, ..., :1], binary[..., :1]).item()
    )
    logits.requires_grad_()
    task_loss(logits, sparse).backward()
    assert logits.grad is not None
    assert not logits.grad[..., 1:].any() and logits.grad[..., :1].any()


def test_dice_ce_is_dice_and_the_mean_cross_entropy_of_each_patch() -> None:
    logits = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1, 1).expand(2, 1, 1, 1, 4)
    segmentation = torch.tensor([[1, 0, UNKNOWN, UNKNOWN], [1, 1, 1, 1]]).reshape(2, 1, 1, 4)
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert task_loss(logits, segmentation, "dice_ce").item() == pytest.approx(task_loss(logits, segmentation).item() + expected, rel=1e-5)
    two_channels = torch.cat((torch.zeros_like(logits), logits), dim=1)  # a sigmoid is a softmax beside 0
    dice = task_loss(two_channels, segmentation).item()
    assert task_loss(two_channels, segmentation, "dice_ce").item() == pytest.approx(dice + expected, rel=1e-5)


def test_dice_ce_still_pulls_where_everything_is_called_background() -> None:
    segmentation = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    segmentation[0, 0, 0, 0] = 1
    gradients = []
    for loss in ("dice", "dice_ce"):
        logits = torch.full((1, 1, 4, 4, 4), -12.0, requires_grad=True)
        task_loss(logits, segmentation, loss).backward()  # type: ignore[arg-type]
        assert logits.grad is not None
        gradients.append(-logits.grad[0, 0, 0, 0, 0].item())
    assert gradients[0] < 1e-4 and gradients[1] == pytest.approx(1 / 64, rel=0.01)
