"""What the report of a comparison is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd


@dataclass(frozen=True)
class TrainingLogFile:
    """training_log.csv of one finished adaptation; `rank` is None for a method without one."""

    method: str
    rank: int | None
    shots: int
    task: str
    fold: int
    path: Path


@dataclass(frozen=True)
class Example:
    """A query that the report shows: ARENA's best, median or worst of one structure (`label` in both segmentations)."""

    which: Literal["best", "median", "worst"]
    method: str
    shots: int
    structure: str
    label: int
    case: str
    dice: float
    image: Path
    reference: Path
    prediction: Path
    window_hu: tuple[float, float]


@dataclass(frozen=True)
class ReportData:
    """All tables, as docs/comparison.md describes the files; `facts` is comparison.json; `dice` by number of shots; `ranks` may have no row."""

    facts: dict[str, Any]
    runs: pd.DataFrame
    summary: pd.DataFrame
    tests: pd.DataFrame
    differences: pd.DataFrame
    ranks: pd.DataFrame
    efficiency: pd.DataFrame
    dice: dict[int, pd.DataFrame]
    training_logs: list[TrainingLogFile]
    examples: list[Example]
