"""The settings of an adaptation, with the published values as defaults (docs/method.md gives the source of each)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PrecisionName = Literal["auto", "fp32", "bf16"]
LossName = Literal["dice", "dice_ce"]
MethodName = Literal["arena", "arena_gradient", "arena_adamw", "lora", "adalora", "bitfit", "affine_ln", "linear_probe", "fft", "scratch"]


class Frozen(BaseModel):
    """A model that is stored in a file: validated, immutable; an unknown key, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AdaptationSettings(Frozen):
    """How one adaptation runs. Rates are per iteration of AdamW; one iteration is one support volume.

    Attributes:
        method: which parameters are adapted, and how; see arena_pipeline.adapt.methods.
        rank: allocated rank r of each update of `method`.
        l1_weight: lambda of the objective L + lambda ||v||_1.
        gate_step: rho of the gradient step on v; 0 is the published value.
        gate_optimizer: "proximal" is the published step; "adamw" moves v by AdamW before the soft threshold.
        learning_rate: base rate of A, B (and of the head while the decoder is frozen). Those of other methods follow: see adapt.methods.
        decoder_learning_rate: base rate of decoder and head when the decoder is trained.
        new_head_learning_rate: base rate of a head that starts from random weights; None: as any other head.
        new_head_prior: the probability that such a head gives each structure at first; None: a half, by a zero bias.
        loss: "dice" is the published soft Dice loss; "dice_ce" adds the cross-entropy; see arena_pipeline.adapt.loss.
        max_epochs: length of the cosine schedule, and the most epochs run.
        patches_per_volume: patches drawn from the support volume of one iteration.
        micro_batch: patches run at once; None: decided when the adaptation runs. Gradients are those of the full batch.
        recompute_activations: always forget most activations and compute them again in the backward pass: less memory, more time, the same numbers;
            if False, only where not even one patch is sure to fit otherwise and `micro_batch` is None.
        precision: of the network; "auto": bf16 on a GPU that has it, else fp16 or fp32. Weights, logits and the loss are always float32.
        intensity_shift, intensity_shift_probability: uniform shift of the [0, 1] intensities.
        stop_window: epochs between the two losses compared by early stopping; 0 switches it off.
        stop_improvement: relative improvement at or below which it stops.
        stop_smoothing: epochs that the loss is averaged over.
        least_support_dice: Dice on its own support set that an adaptation must exceed, else it has not learned; see arena_pipeline.adapt.watch.
        judged_from_epochs: an adaptation of fewer epochs is a trial, and not judged.
    """

    method: MethodName = "arena"
    rank: int = Field(8, ge=1, le=512)
    l1_weight: float = Field(0.5, ge=0)
    gate_step: float = Field(0.0, ge=0)
    gate_optimizer: Literal["proximal", "adamw"] = "proximal"
    learning_rate: float = Field(1e-3, gt=0)
    decoder_learning_rate: float = Field(1e-4, gt=0)
    new_head_learning_rate: float | None = Field(None, gt=0)
    new_head_prior: float | None = Field(None, gt=0, lt=1)
    loss: LossName = "dice"
    max_epochs: int = Field(200, ge=1)
    patches_per_volume: int = Field(6, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    recompute_activations: bool = False
    precision: PrecisionName = "auto"
    intensity_shift: float = Field(0.10, ge=0)
    intensity_shift_probability: float = Field(0.20, ge=0, le=1)
    stop_window: int = Field(20, ge=0)
    stop_improvement: float = 0.01
    stop_smoothing: int = Field(10, ge=1)
    least_support_dice: float = Field(0.1, ge=0, lt=1)
    judged_from_epochs: int = Field(10, ge=1)

    def without_memory(self) -> AdaptationSettings:
        """The settings that decide the result. The others trade memory for time: after a change of these an adaptation can still be continued."""
        return self.model_copy(update={"micro_batch": None, "recompute_activations": False})
