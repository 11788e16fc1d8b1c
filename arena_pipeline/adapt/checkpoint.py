"""checkpoint.pt in a fold's folder: where an unfinished adaptation stands, so that arena_adapt --continue goes on from there.

A dictionary of tensors and plain values (torch.load with weights_only), written beside its place and renamed: the one before stays
until the new one is complete. The checksums of its zip format tell a damaged one.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_jsonable_python

from arena_pipeline.adapt.loop import Adaptation
from arena_pipeline.errors import AdapterError
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.damage import damage
from arena_pipeline.io.json_files import differences
from arena_pipeline.workspace import CHECKPOINT

FORMAT_VERSION = 1
SECONDS_PER_SECOND_OF_WRITING = 20
"""After a write of s seconds the next one comes at least this many times s seconds later, so that writing takes 1/20 of the time at most. Measured
on a shared disk: 0.2 s for LoRA with the decoder (49 MB), 5 to 9 s for all of a network of feature size 48 (746 MB)."""
START_ANEW_ADVICE = "delete it, or leave out --continue, to adapt this fold from its start"


class Checkpoints:
    """Keeps the checkpoint of one adaptation.

    Args:
        folder: of the fold.
        identity: all that the adaptation depends on; a checkpoint of another identity is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], adaptation: Adaptation) -> None:
        self.path, self._identity, self._adaptation = folder / CHECKPOINT, json_values(identity), adaptation
        self._earlier_seconds, self._started = 0.0, time.perf_counter()
        self._waiting: dict[str, Any] | None = None
        self._written_at, self._write_seconds = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Seconds that the adaptation has taken so far, those before interruptions included."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def resume_(self) -> bool:
        """Restores the adaptation from its checkpoint; False where there is none.

        Raises:
            AdapterError: the checkpoint is damaged, or was made with other plans, settings or support volumes.
        """
        if not self.path.is_file():
            return False
        stored = read_fold_checkpoint(self.path, self._identity)
        try:
            self._adaptation.load_state_dict(stored["state"])
            self._earlier_seconds = float(stored["seconds"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise AdapterError(f"does not fit the adaptation it belongs to ({error})", file=self.path, advice=START_ANEW_ADVICE) from None
        return True

    def keep(self) -> None:
        """After every epoch: writes where the adaptation stands, or keeps it in memory while writing would cost too much of the time."""
        state = {"version": FORMAT_VERSION, "identity": self._identity, "seconds": self.seconds, "state": self._adaptation.state_dict()}
        self._waiting = state  # while this method runs the adaptation stands still: an interrupt in the middle of it loses nothing
        now = time.perf_counter()
        if now - self._written_at < SECONDS_PER_SECOND_OF_WRITING * self._write_seconds:
            self._waiting = deepcopy(state)  # on the device, since most are never written and a step need not wait for them
            return
        self._write(state)
        self._written_at = time.perf_counter()
        self._write_seconds = self._written_at - now

    def flush(self) -> None:
        """Writes the last finished epoch, where it is only in memory."""
        if self._waiting is not None:
            self._write(self._waiting)

    def remove(self) -> None:
        """When the adapter is written."""
        self.path.unlink(missing_ok=True)

    def _write(self, state: dict[str, Any]) -> None:
        with replace_when_done(self.path) as temporary:
            torch.save(state, temporary)
        self._waiting = None


def read_fold_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The whole content.

    Raises:
        AdapterError: damaged, of another version, or of another identity (says what differs).
    """
    if (reason := damage(path)) is not None:
        raise AdapterError(f"damaged ({reason})", file=path, advice=START_ANEW_ADVICE)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["version"] != FORMAT_VERSION:
            raise AdapterError("written by another version of this program", file=path, advice=START_ANEW_ADVICE)
        changed = differences(stored["identity"], json_values(identity))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AdapterError(f"damaged, or not a checkpoint ({reason})", file=path, advice=START_ANEW_ADVICE) from None
    if changed:
        changes = "; ".join(f"{name} ({_shortened(there)} there, {_shortened(now)} now)" for name, (there, now) in changed.items())
        raise AdapterError(f"an unfinished adaptation with other {changes}", file=path, advice=f"go back to those, or {START_ANEW_ADVICE}")
    return dict(stored)


def json_values(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same value in the types that JSON has."""
    return dict(to_jsonable_python(dict(value)))


def _shortened(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
