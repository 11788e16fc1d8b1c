"""The files of a comparison, from its finished runs: tables, Markdown, comparison.json, and what the report needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from arena_pipeline.adapt.methods import METHODS
from arena_pipeline.io.atomic import replace_when_done, write_json, write_text
from arena_pipeline.machine import memory_bytes, usable_cores
from arena_pipeline.records import versions
from arena_pipeline.research.compare import markdown, tables
from arena_pipeline.research.compare.published import ZERO_SHOT, is_published_query_set, published_dice, published_source
from arena_pipeline.research.compare.report_data import Example, ReportData, TrainingLogFile
from arena_pipeline.research.compare.runs import FinishedRun, Run, row_values
from arena_pipeline.research.compare.statistics import CONFIDENCE, interval_meaning
from arena_pipeline.workspace import TRAINING_LOG, ComparisonFolder

TABLE_ORDER = (ZERO_SHOT, *reversed(METHODS))
"""ARENA last, as in the papers."""
PROTOCOLS = {
    "native": "native: Dice, NSD and HD95 on the image's own grid, after the planned post-processing",
    "published": "published: Dice = 2 TP / (|P| + |G| + 1) on the preprocessed grid, references of binary tasks reduced to their largest component",
}


@dataclass(frozen=True)
class RunWithRecord:
    """A run and its record."""

    run: Run
    record: FinishedRun


def make_report_data(found: Sequence[RunWithRecord], command: str, notes: Sequence[str]) -> ReportData:
    """All tables and facts of a comparison; writes nothing."""
    ordered = sorted(found, key=lambda one: (TABLE_ORDER.index(one.run.method), one.run.shots, one.run.fold))
    planned = ordered[0].run.planned
    results = planned.workspace.results
    rows: list[dict[str, object]] = []
    for one in ordered:
        folder = "" if one.run.job is None else str(one.run.job.folder.relative_to(results))
        rows += row_values(one.run, one.record, folder)
    labels = list(planned.plans.labels)
    runs = tables.runs_table(sorted(rows, key=lambda row: labels.index(str(row["structure"]))))
    methods = [method for method in TABLE_ORDER if method in set(runs["method"])]
    runs = runs.sort_values("method", key=lambda column: column.map(methods.index), kind="stable", ignore_index=True)
    comparable = _comparable(runs, planned.plans.objective)

    def published(shots: int, method: str, structures: Sequence[str]) -> float | None:
        return published_dice(planned.plans.objective, shots, method, structures) if set(structures) <= comparable else None

    summary = tables.summary_table(runs, published)
    differences = tables.difference_table(runs)
    return ReportData(
        facts=_facts(ordered, runs, bool(comparable)) | {"command": command, "notes": list(notes)},
        runs=runs,
        summary=summary,
        tests=tables.contrast_table(differences, runs),
        differences=differences,
        ranks=tables.rank_table(runs),
        efficiency=tables.efficiency_table(runs),
        dice={shots: tables.dice_table(summary, shots) for shots in tables.shots_of(runs[runs["default_rank"]])},
        training_logs=_training_logs(ordered),
        examples=_examples(ordered, runs),
    )


def write_outputs(folder: ComparisonFolder, data: ReportData) -> None:
    """Writes every table as CSV, some as Markdown too, and comparison.json. Tables of an earlier comparison that this one lacks are removed."""
    for path in (*folder.root.glob("dice_*shots.*"), *(place(name) for name in ("ranks", "tests") for place in (folder.table, folder.markdown))):
        path.unlink(missing_ok=True)
    named = {"runs": data.runs, "summary": data.summary, "tests": data.tests, "differences": data.differences, "efficiency": data.efficiency}
    for name, table in (named | ({"ranks": data.ranks} if len(data.ranks) else {})).items():
        _write_csv(folder.table(name), table, index=False)
    for shots, table in data.dice.items():
        _write_csv(folder.table(f"dice_{shots}shots"), table, index=True)
        write_text(folder.markdown(f"dice_{shots}shots"), markdown.dice_markdown(data.summary, shots, published_source()))
    if len(data.tests):
        write_text(folder.markdown("tests"), markdown.contrasts_markdown(data.tests))
    if len(data.ranks):
        write_text(folder.markdown("ranks"), markdown.ranks_markdown(data.ranks))
    write_text(folder.markdown("efficiency"), markdown.efficiency_markdown(data.efficiency))
    write_json(folder.description, data.facts)


def _write_csv(path: Path, table: pd.DataFrame, index: bool) -> None:
    with replace_when_done(path) as temporary:
        table.to_csv(temporary, index=index, float_format="%.6g")


def _comparable(runs: pd.DataFrame, objective: Any) -> set[str]:
    """The structures that have exactly the published query cases here."""
    return {str(name) for name, rows in runs.groupby("structure") if is_published_query_set(objective, str(name), set(rows["case"]))}


def _facts(found: Sequence[RunWithRecord], runs: pd.DataFrame, has_published: bool) -> dict[str, Any]:
    run = found[0].run
    plans, preset = run.planned.plans, run.planned.preset
    return {
        "title": f"{plans.dataset_name}: {', '.join(runs['method'].unique())}",
        "dataset": plans.dataset_name,
        "foundation": preset.name,
        "foundation_title": preset.title,
        "foundation_sha256": plans.foundation_sha256,
        "licence": preset.licence,
        "objective": plans.objective,
        "protocol": PROTOCOLS[run.protocol],
        "spacing_mm": list(plans.scheme.spacing_mm),
        "methods": list(runs["method"].unique()),
        "shots": tables.shots_of(runs),
        "folds": sorted(int(fold) for fold in runs["fold"].unique()),
        "queries": {str(name): sorted(rows["case"].unique()) for name, rows in runs.groupby("structure", sort=False)},
        "runs": len(found),
        "finished": datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
        "hours_of_adaptation": round(sum(one.record.adapter.get("seconds", 0.0) for one in found) / 3600, 2),
        "settings": {one.run.name: one.record.identity.get("settings") for one in found},
        "interval": f"{CONFIDENCE:.0%} {interval_meaning(runs['fold'].nunique())}, two-way jackknife and t",
        "published_source": published_source() if has_published else None,
        "machine": {"cores": usable_cores(), "memory_gib": round(memory_bytes() / 2**30, 1), "device": run.device},
        "versions": versions(),
    }


def _training_logs(found: Sequence[RunWithRecord]) -> list[TrainingLogFile]:
    logs = []
    for run in (one.run for one in found):
        if run.job is not None and run.job.is_recorded() and (path := run.job.folder / TRAINING_LOG).is_file():
            logs.append(TrainingLogFile(run.method, run.job.settings.rank, run.shots, run.task.name, run.fold, path))
    return logs


def _examples(found: Sequence[RunWithRecord], runs: pd.DataFrame) -> list[Example]:
    """ARENA's best, median and worst query of every structure and number of shots, in the first fold whose segmentations are kept."""
    examples: list[Example] = []
    of_default_rank = [one for one in found if one.run.method == tables.REFERENCE and one.run.default_rank]
    arena = {(one.run.shots, one.run.task.name, one.run.fold): one for one in of_default_rank}
    of_arena = runs[(runs["method"] == tables.REFERENCE) & runs["default_rank"]].dropna(subset="Dice")
    for (shots, structure), rows in of_arena.groupby(["shots", "structure"], sort=False):
        first = rows[rows["fold"] == rows["fold"].min()].sort_values("Dice", ascending=False)
        one = arena[shots, first["task"].iloc[0], first["fold"].iloc[0]]
        places: dict[int, Literal["best", "median", "worst"]]
        places = {0: "best", len(first) // 2: "median", len(first) - 1: "worst"} if len(first) > 2 else {0: "best"}
        for place, which in places.items():
            example = _example(one, which, str(structure), first.iloc[place])
            if example is not None:
                examples.append(example)
    return examples


def _example(one: RunWithRecord, which: Literal["best", "median", "worst"], structure: str, row: pd.Series) -> Example | None:
    run = one.run
    query = next(query for query in run.queries if query.case == row["case"])
    prediction = None if run.predictions is None else run.predictions / f"{query.case}.nii.gz"
    if prediction is None or not prediction.is_file() or prediction.name in run.damaged(one.record):
        return None
    scheme = run.planned.plans.scheme
    label = run.task.structures[structure]
    dice = float(row["Dice"])
    return Example(which, run.method, run.shots, structure, label, query.case, dice, query.image, query.reference, prediction, scheme.window_hu)
