"""In which numbers a network computes. Weights, gradients, logits, losses and probabilities are float32 whatever it is."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache

import torch

from arena_pipeline.machine import faster_half
from arena_pipeline.settings import PrecisionName

logger = logging.getLogger(__name__)

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """`half`: what convolutions and matrix products are computed in, under torch's autocast; None: float32 throughout.

    On a GPU float32 means TF32, as torch has it for convolutions: see `arena_pipeline.model.device.pick_device`.

    Attributes:
        scaler: keeps gradients from vanishing in float16, with a state of its own; does nothing in the others.
    """

    device: torch.device
    half: torch.dtype | None = None
    scaler: torch.amp.GradScaler = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scaler", torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16))

    @classmethod
    def of(cls, name: PrecisionName, device: torch.device) -> Precision:
        """`name` as a setting has it. A GPU without bfloat16 computes in float16 in its place, with scaled gradients."""
        faster = faster_half(str(device))
        if name == "bf16" and device.type == "cpu":
            _warn_of_bf16_on_cpu()
        if name == "fp32" or (name == "auto" and faster is None):
            return cls(device)
        return cls(device, HALVES[faster or "bf16"])

    @property
    def name(self) -> str:
        """fp32, bf16 or fp16."""
        return next((name for name, half in HALVES.items() if half is self.half), "fp32")

    def autocast(self) -> AbstractContextManager[object]:
        """Around a call of the network, whose answer may then be of 16 bits."""
        return torch.autocast(self.device.type, self.half, enabled=self.half is not None)


@cache
def _warn_of_bf16_on_cpu() -> None:
    """Once in a process. The gradients are oneDNN's, with AVX-512: of a convolution's weight where its input has two voxels along the first axis."""
    logger.warning(
        "bf16 on a CPU: most have no units for it and take up to 20 times as long as in fp32, and on some a network's deepest convolutions get "
        "NaN as gradients, so that adapting fails; -precision fp32 is safe"
    )
