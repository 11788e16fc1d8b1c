"""Layers of our own take the place of MONAI's and torch's only where they give the same numbers, which is tried once per process.

They stand on operators and attributes that no version promises. Where a version has changed them, the network keeps the layers it came with:
slower, and said so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

import torch

logger = logging.getLogger(__name__)

CHANGED = (AttributeError, TypeError, ValueError, LookupError, RuntimeError)
"""What a call to something that a version has changed raises; torch's NotImplementedError is a RuntimeError."""


@lru_cache(maxsize=8)
def gives_the_same(what: str, difference: Callable[[], float]) -> bool:
    """Whether `difference()`, between the two layers on a small input, is that of rounding; a warning where it isn't, or where it fails."""
    try:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            found = difference()
        reason = f"differ by {found:.1e}"
    except CHANGED as error:
        found, reason = float("inf"), f"{type(error).__name__}: {error}"
    if found < 1e-4:
        return True
    logger.warning("the fast %s of this package does not fit the installed torch %s and MONAI (%s): theirs is used", what, torch.__version__, reason)
    return False
