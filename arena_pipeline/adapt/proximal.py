"""The step on the gates v, which stands apart from the optimizer of A and B."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def soft_threshold_(v: Tensor, threshold: float) -> None:
    """v <- sign(v) max(|v| - threshold, 0), in place: the proximal map of threshold ||v||_1."""
    v.copy_(v.sign() * (v.abs() - threshold).clamp_(min=0))


@torch.no_grad()
def proximal_step_(gates: Iterable[Tensor], gate_step: float, threshold: float) -> None:
    """v <- S(v - rho dL/dv, eta lambda) with rho = `gate_step`; `threshold` is eta lambda. A zero rho leaves the gradient unused."""
    for v in gates:
        if gate_step:
            if v.grad is None:
                raise ValueError("a gradient step on v needs dL/dv; run backward first")
            v.sub_(v.grad, alpha=gate_step)
        soft_threshold_(v, threshold)
