"""The published figures, which are shown beside results on the same query cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from arena_pipeline.io.dataset import Objective
from arena_pipeline.io.facts import load_fact
from arena_pipeline.io.splits import published_split, published_structures

AVERAGE = "average"
ZERO_SHOT = "zero_shot"
_TABLES: dict[Objective, tuple[str, ...]] = {"binary": ("totalsegmentator_base", "totalsegmentator_novel"), "multiclass": ("flare22_multiclass",)}


def is_published_query_set(objective: Objective, structure: str, queries: Collection[str]) -> bool:
    """Whether these are all the cases that the published figure of the structure was computed on, and no others."""
    if objective == "multiclass":
        return set(queries) == set(published_split("FLARE22").test)
    return structure in published_structures() and set(queries) == set(published_split("TotalSegmentator", structure).test)


def published_dice(objective: Objective, shots: int, method: str, structures: Collection[str]) -> float | None:
    """The published Dice in [0, 1] of one structure, or of the average over exactly these structures; None where nothing was published.

    Zero-shot does not depend on `shots`.
    """
    wanted = set(structures)
    for table in _TABLES[objective]:
        figures = _figures(load_fact("published_dice")[table], shots, method)
        own = set(figures) - {AVERAGE}
        if len(wanted) == 1 and wanted <= own:
            return float(figures[next(iter(wanted))]) / 100
        if own and wanted == own:
            return float(figures[AVERAGE]) / 100
    return None


def published_source() -> str:
    """Where the figures come from, in words."""
    return str(load_fact("published_dice")["source"])


def _figures(table: Mapping[str, Any], shots: int, method: str) -> dict[str, float]:
    found: dict[str, float] = table.get("0" if method == ZERO_SHOT else str(shots), {}).get(method, {})
    return found
