"""What was run: the facts of the comparison, how its runs ended, and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from arena_pipeline.research.compare.report.parts import Table

FACT_NAMES = {
    "dataset": "dataset",
    "foundation": "foundation",
    "foundation_title": "its title",
    "licence": "its licence",
    "protocol": "evaluation",
    "interval": "interval",
    "command": "command",
    "machine": "machine",
    "hours_of_adaptation": "hours of adaptation, all runs",
    "published_source": "published figures",
    "queries": "query cases",
    "versions": "versions",
}
"""Key of comparison.json -> name on the page, in this order; other keys follow under their own names."""
SHOWN_ELSEWHERE = ("title", "notes", "settings")


def fact_lines(facts: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, lines of its value) of every fact that is not empty."""
    keys = [*FACT_NAMES, *(key for key in facts if key not in FACT_NAMES and key not in SHOWN_ELSEWHERE)]
    return [(FACT_NAMES.get(key, key.replace("_", " ")), _lines(facts[key])) for key in keys if facts.get(key) not in (None, "", [], {})]


def _lines(value: Any) -> list[str]:
    """One line; for named lists one line per distinct list, since most structures have the same query cases."""
    if not isinstance(value, Mapping):
        return [_words(value)]
    if not any(isinstance(entry, (list, tuple)) for entry in value.values()):
        return [", ".join(f"{name} {entry}" for name, entry in value.items())]
    names: dict[str, list[str]] = {}
    for name, entry in value.items():
        names.setdefault(_words(entry), []).append(str(name))
    return [f"{', '.join(same)}: {words}" for words, same in names.items()]


def _words(value: Any) -> str:
    return ", ".join(str(entry) for entry in value) if isinstance(value, (list, tuple)) else str(value)


def status_table(runs: pd.DataFrame) -> Table:
    """How many results each method has, by their status, and why its adaptations stopped."""
    own = runs[runs.default_rank.astype(bool)]
    statuses = list(dict.fromkeys(own.status))
    body = []
    for (method, shots), rows in own.groupby(["method", "shots"], sort=False):
        counts = rows.status.value_counts()
        adaptations = rows.drop_duplicates(["task", "fold"]).stop_reason.dropna()
        stops = ", ".join(f"{reason} ({count})" for reason, count in adaptations.value_counts().items())
        body.append([method, str(shots), *(str(int(counts.get(status, 0))) for status in statuses), str(len(adaptations)), stops])
    caption = "Results (structure x fold x query case) by their status, the number of adaptations, and why these ended."
    return Table(caption, ["method", "shots", *statuses, "adaptations", "ended by"], body)


def settings_tables(facts: Mapping[str, Any]) -> list[Table]:
    """One table of the settings of every run that has them (zero-shot has none); no table if none has."""
    settings = {name: entry for name, entry in (facts.get("settings") or {}).items() if entry}
    if not settings:
        return []
    keys = list(dict.fromkeys(key for entry in settings.values() for key in entry))
    body = [[name, *(_words(entry.get(key, "")) for key in keys)] for name, entry in settings.items()]
    return [Table("The settings of every method.", ["run", *(key.replace("_", " ") for key in keys)], body)]
