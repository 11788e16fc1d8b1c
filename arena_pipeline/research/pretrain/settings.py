"""The settings of a pre-training, and a recipe for each kind of head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from arena_pipeline.errors import ArenaError
from arena_pipeline.settings import Frozen, PrecisionName


class PretrainSettings(Frozen):
    """All that a pre-training depends on, besides its volumes and the preset.

    Attributes:
        loss: "dice" is FSEFT's soft Dice; "dice_ce" adds cross-entropy, "dice_balanced_ce" one that weights
            small structures up (see softmax_loss), for small networks trained briefly.
        learning_rate, weight_decay: of AdamW; the rate rises linearly over `warmup_steps`.
        cooldown_steps: None: after that it falls as a cosine to zero. A number: it stays, and falls linearly over this many last steps.
        batch_size: patches per step, each from a volume of its own draw; of all processes together.
        foreground_share: share of the patches centred on a labelled voxel.
        variety: share of the patches whose anatomy is bent smoothly, and of the structures in a patch that get a brightness and blotches
            of their own; for phantoms, which are too much alike.
        averaging: decay per step of the exponential moving average of the weights that is saved; 0 saves the last weights.
        seed: of everything random, the initial weights and every patch of every step.
        precision: of the network, as in AdaptationSettings. Older runs have `autocast` instead, true for bf16.
    """

    steps: int = Field(ge=1)
    loss: Literal["dice", "dice_ce", "dice_balanced_ce"] = "dice"
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    warmup_steps: int = Field(100, ge=0)
    cooldown_steps: int | None = Field(None, ge=0)
    batch_size: int = Field(2, ge=1)
    foreground_share: float = Field(0.8, ge=0, le=1)
    variety: float = Field(0.0, ge=0, le=1)
    averaging: float = Field(0.0, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    precision: PrecisionName = "auto"

    @model_validator(mode="before")
    @classmethod
    def _of_older_runs(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "autocast" in values:
            rest = {name: value for name, value in values.items() if name != "autocast"}
            return {"precision": "bf16" if values["autocast"] else "auto"} | rest
        return values


EPOCH_PATCHES = 3  # per volume, as FSEFT crops each scan three times
WARMUP_EPOCHS = 10

# By the kind of head. Sigmoid: FSEFT's recipe, 8 scans of 3 crops per step. Softmax: arena_mini's. docs/pretraining.md has the sources.
RECIPES: dict[str, dict[str, Any]] = {
    "sigmoid": {"epochs": 1000, "batch_size": 24},
    "softmax": {"steps": 1600, "loss": "dice_ce", "learning_rate": 2e-3, "warmup_steps": 100, "averaging": 0.998},
}


def make_settings(head: str, volumes: int, chosen: Mapping[str, Any]) -> PretrainSettings:
    """The recipe for this head, with the chosen settings in place of its own.

    An epoch is three patches per volume. Where nothing else is said, the warm-up takes 10 epochs, but at most a tenth of the steps.

    Args:
        chosen: names of `PretrainSettings`, or `epochs` in place of `steps`; None: as the recipe has it.

    Raises:
        ArenaError: a value out of range, or two that exclude each other.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    if "steps" in given and "epochs" in given:
        raise ArenaError("--steps and --epochs both say how long to train; give one of them")
    recipe = {name: value for name, value in RECIPES[head].items() if not ({"steps", "epochs"} & set(given) and name in ("steps", "epochs"))}
    values = recipe | given
    epoch = math.ceil(EPOCH_PATCHES * volumes / max(1, values.get("batch_size", 2)))
    if "epochs" in values:
        values["steps"] = values.pop("epochs") * epoch
    values.setdefault("warmup_steps", min(WARMUP_EPOCHS * epoch, values["steps"] // 10))
    if head == "sigmoid" and values.get("loss") == "dice_balanced_ce":
        raise ArenaError("--loss dice_balanced_ce is for softmax heads; a sigmoid head takes dice or dice_ce")
    try:
        return PretrainSettings(**values)
    except ValidationError as error:
        faults = "; ".join(f"--{'.'.join(map(str, entry['loc']))}: {entry['msg']}, found {entry['input']!r}" for entry in error.errors())
        raise ArenaError(faults) from None
