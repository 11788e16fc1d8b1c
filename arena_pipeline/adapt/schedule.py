"""When the rates fall, and when an adaptation ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

from arena_pipeline.settings import AdaptationSettings


def cosine_factor(epoch: int, max_epochs: int) -> float:
    """(1 + cos(pi e / E)) / 2 for e = 0 .. E - 1, which every base rate is multiplied with during epoch e."""
    return (1 + math.cos(math.pi * epoch / max_epochs)) / 2


def smoothed(losses: Sequence[float], window: int) -> float:
    """The mean of the last `window` losses, or of all where there are fewer."""
    last = losses[-window:]
    return sum(last) / len(last)


def has_converged(losses: Sequence[float], settings: AdaptationSettings) -> bool:
    """(L_{e-20} - L_e) / L_{e-20} <= 0.01 for the smoothed loss of the epochs so far; 20 and 0.01 are settings.

    False while either of the two means would cover fewer epochs than the smoothing asks for.
    """
    window, smoothing = settings.stop_window, settings.stop_smoothing
    if window == 0 or len(losses) < window + smoothing:
        return False
    before, now = smoothed(losses[:-window], smoothing), smoothed(losses, smoothing)
    return before <= 0 or (before - now) / before <= settings.stop_improvement
