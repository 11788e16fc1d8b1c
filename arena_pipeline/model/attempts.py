"""How often the adaptation of a fold was started: attempts.json while one has not learned, adapter.json when one has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from arena_pipeline.io.json_files import StoredModel
from arena_pipeline.settings import Frozen
from arena_pipeline.workspace import ATTEMPTS

MOST_ATTEMPTS = 2


class Attempt(Frozen):
    """One start of a fold's adaptation and what came of it.

    Attributes:
        seed: of the new weights and the batches.
        learning_rate, decoder_learning_rate, new_head_learning_rate: base rates, as in AdaptationSettings.
        epochs, final_loss: how it ended; None for a loss that was not finite.
        support_dice: structure -> Dice on patches of its own support set; empty for an adaptation too short to be judged.
        dice_before: the same before the first step, of a base structure: that of the unadapted foundation; empty in older records.
        not_learned: structures of a kept fit that it has not learned, beside others that it has; empty in older records.
        fault: why it has not learned, in words; None: it has.
    """

    seed: tuple[int, ...]
    learning_rate: float
    decoder_learning_rate: float
    new_head_learning_rate: float | None
    epochs: int
    final_loss: float | None
    support_dice: dict[str, float]
    dice_before: dict[str, float] = Field(default_factory=dict)
    not_learned: tuple[str, ...] = ()
    fault: str | None


class FailedAttempts(StoredModel):
    """attempts.json. `identity`: all that the adaptation depends on, in values that JSON has; with another one the file says nothing."""

    identity: dict[str, Any]
    attempts: tuple[Attempt, ...]

    @property
    def given_up(self) -> bool:
        return len(self.attempts) >= MOST_ATTEMPTS


def read_failed_attempts(folder: Path, identity: Mapping[str, Any] | None = None) -> FailedAttempts | None:
    """What a fold's attempts.json says; None where there is none that can be read, or none of `identity`."""
    found = FailedAttempts.read_if_valid(folder / ATTEMPTS)
    return found if found is None or identity in (None, found.identity) else None


def was_given_up(folder: Path) -> bool:
    """Whether a fold's attempts.json says that no further one will be made."""
    failed = read_failed_attempts(folder)
    return failed is not None and failed.given_up


def write_failed_attempts(folder: Path, identity: Mapping[str, Any], attempts: tuple[Attempt, ...]) -> None:
    """Writes attempts.json, whole or not at all; `identity` in values that JSON has."""
    FailedAttempts(identity=dict(identity), attempts=attempts).write(folder / ATTEMPTS)


def discard_failed_attempts(folder: Path) -> None:
    """Removes attempts.json: the next run starts with the first attempt."""
    (folder / ATTEMPTS).unlink(missing_ok=True)
