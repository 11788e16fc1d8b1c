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


def test_log_dice_is_its_logarithm_and_still_pulls_where_dice_is_flat() -> None:
    """One voxel of 64 is the structure, and all logits are -8: Dice's gradient there is that of the logarithm times the Dice of about 1/2."""
    segmentation = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    segmentation[0, 0, 0, 0] = 1
    logits = torch.full((1, 1, 4, 4, 4), -8.0, requires_grad=True)
    loss = task_loss(logits, segmentation)
    (flat,) = torch.autograd.grad(loss, logits)
    logarithm = task_loss(logits, segmentation, "log_dice")
    (steep,) = torch.autograd.grad(logarithm, logits)
    assert logarithm.item() == pytest.approx(-math.log(1 - loss.item()), rel=1e-5)
    assert torch.allclose(steep * (1 - loss.item()), flat)
