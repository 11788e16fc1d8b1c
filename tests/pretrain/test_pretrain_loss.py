"""Pre-training losses, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from arena_pipeline.pretrain.loss import sigmoid_loss, softmax_loss


def test_softmax_dice_counts_only_channels_that_a_sample_contains() -> None:
    target = torch.tensor([0, 1]).reshape(1, 1, 1, 2)
    # channel 2 is nowhere: p = 1/3 each; channels 0 and 1 have one true voxel: 1 - (2/3 + 1) / (2/3 + 1 + 1)
    assert softmax_loss(torch.zeros(1, 3, 1, 1, 2), target, with_cross_entropy=False).item() == pytest.approx(1 - (2 / 3 + 1) / (2 / 3 + 2))


def test_cross_entropy_is_added() -> None:
    target = torch.tensor([0, 1]).reshape(1, 1, 1, 2)
    logits = torch.zeros(1, 3, 1, 1, 2)
    difference = softmax_loss(logits, target, with_cross_entropy=True) - softmax_loss(logits, target, with_cross_entropy=False)
    assert difference.item() == pytest.approx(math.log(3))


def test_a_structure_that_is_not_annotated_has_no_say() -> None:
    target = torch.zeros(1, 1, 1, 2, dtype=torch.long)
    annotated = torch.tensor([[True, False]])
    logits = torch.zeros(1, 2, 1, 1, 2, requires_grad=True)
    sigmoid_loss(logits, target, annotated, with_cross_entropy=True).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() > 0 and logits.grad[0, 1].abs().sum() == 0


def test_nothing_annotated_costs_nothing() -> None:
    loss = sigmoid_loss(
        torch.zeros(1, 2, 1, 1, 2), torch.zeros(1, 1, 1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.bool), with_cross_entropy=True
    )
    assert loss.item() == 0
