"""The gate step, by hand."""

from __future__ import annotations

import pytest
import torch

from arena_pipeline.adapt.proximal import proximal_step_, soft_threshold_
from arena_pipeline.adapt.schedule import cosine_factor


def test_soft_threshold_by_hand() -> None:
    v = torch.tensor([0.7, -0.7, 0.2, -0.2, 0.3, 0.0])
    soft_threshold_(v, 0.3)
    torch.testing.assert_close(v, torch.tensor([0.4, -0.4, 0.0, 0.0, 0.0, 0.0]))
    assert torch.count_nonzero(v) == 2


def test_gradient_step_comes_before_the_threshold() -> None:
    v = torch.tensor([0.5, -0.1], requires_grad=True)
    v.grad = torch.tensor([-2.0, 1.0])
    proximal_step_([v], gate_step=0.1, threshold=0.05)
    torch.testing.assert_close(v.detach(), torch.tensor([0.65, -0.15]))


def test_a_zero_gate_step_needs_no_gradient_and_only_shrinks() -> None:
    v = torch.tensor([0.5])
    proximal_step_([v], gate_step=0.0, threshold=0.2)
    torch.testing.assert_close(v, torch.tensor([0.3]))


def test_a_gradient_step_without_gradient_is_an_error() -> None:
    with pytest.raises(ValueError, match="run backward"):
        proximal_step_([torch.tensor([0.5])], gate_step=0.1, threshold=0.1)


@pytest.mark.parametrize(("shots", "shrink"), [(5, 0.25125), (10, 0.5025)])
def test_total_shrink_of_the_published_schedule(shots: int, shrink: float) -> None:
    """lambda * sum of eta over 200 epochs of K iterations: 0.5 * 1e-3 * K * 100.5."""
    v = torch.ones(1, dtype=torch.float64)
    for epoch in range(200):
        for _ in range(shots):
            proximal_step_([v], gate_step=0.0, threshold=0.5 * 1e-3 * cosine_factor(epoch, 200))
    assert 1 - v.item() == pytest.approx(shrink, abs=1e-12)


def test_share_of_gates_that_end_at_zero() -> None:
    v = torch.linspace(-1, 1, 20_001)
    soft_threshold_(v, 0.25125)
    assert (v == 0).float().mean().item() == pytest.approx(0.25125, abs=2e-4)
