"""The facts that ship with the package (arena_pipeline/facts/*.json): published splits, results and lists of structures."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, Literal

FactName = Literal["few_shot_splits", "published_dice", "snomed_codes", "structures", "totalsegmentator_classes", "totalsegmentator_defects"]


@cache
def load_fact(name: FactName) -> dict[str, Any]:
    """The content of facts/NAME.json, read once; the caller doesn't change it."""
    content: dict[str, Any] = json.loads((resources.files("arena_pipeline") / "facts" / f"{name}.json").read_text(encoding="utf-8"))
    return content
