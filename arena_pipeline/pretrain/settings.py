"""How a pre-training runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from arena_pipeline.settings import Frozen


class PretrainSettings(Frozen):
    """All that a pre-training depends on, besides its volumes and the preset.

    Attributes:
        loss: "dice" is FSEFT's soft Dice; "dice_ce" adds cross-entropy, for small networks trained briefly.
        learning_rate, weight_decay: of AdamW; the rate rises linearly over `warmup_steps`, then falls as a cosine to zero.
        batch_size: patches per step, each from another volume.
        foreground_share: share of the patches centred on a labelled voxel.
        averaging: decay per step of the exponential moving average of the weights that is saved; 0 saves the last weights.
        seed: of everything random: the initial weights and every patch of every step.
    """

    steps: int = Field(ge=1)
    loss: Literal["dice", "dice_ce"] = "dice"
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    warmup_steps: int = Field(100, ge=0)
    batch_size: int = Field(2, ge=1)
    foreground_share: float = Field(0.8, ge=0, le=1)
    averaging: float = Field(0.0, ge=0, lt=1)
    seed: int = 0
