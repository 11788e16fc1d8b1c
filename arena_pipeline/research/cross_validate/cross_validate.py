"""arena_cross_validate: K adaptations, each scored on the scan it did not see, and the expected Dice from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from arena_pipeline.adapt.job import read_planned_dataset
from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError, PlansError
from arena_pipeline.io.atomic import replace_when_done, write_json
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.lock import locked
from arena_pipeline.model.device import pick_device
from arena_pipeline.records import note, stage, versions
from arena_pipeline.research.compare.execution import execute_all, run_needs
from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.runs import Run, row_values
from arena_pipeline.research.cross_validate.expected import SCAN_COLUMNS, caveats, expected_table, ranked_methods
from arena_pipeline.research.cross_validate.leave_one_out import SUPPORT_SET, LeaveOneOut
from arena_pipeline.research.cross_validate.picture import write_picture
from arena_pipeline.workspace import ComparisonFolder, Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """`scans`: a row per structure, method and left-out scan; `summary`: a row per structure and method; `ranked`: best method first."""

    folder: ComparisonFolder
    scans: pd.DataFrame
    summary: pd.DataFrame
    caveats: list[str]
    ranked: list[str]
    executed: int


@plain_arguments
def cross_validate(
    dataset_id: int,
    shots: int,
    workspace: Workspace,
    *,
    structures: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    max_epochs: int | None = None,
    foundation: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    command: str = "",
) -> CrossValidation:
    """Makes the runs that are not finished and writes scans.csv, summary.csv, cross_validation.json and cross_validation.png.

    A run that was made with the same plans, settings, weights and files is never repeated.

    Args:
        shots: K, the scans of the support set of fold 0; each is left out once.
        methods: of the adaptation; None: the planned one. Zero-shot stands beside them for base structures.
        workers: runs at once; 0 and 1: one after the other in this process; None: by cores and memory.

    Raises:
        ArenaError: something is missing, or another command is at work here, before the first run; or runs failed, told after the others.
    """
    planned = read_planned_dataset(dataset_id, workspace, foundation)
    note("device", str(pick_device(device)))
    raw = RawDataset.open(workspace.raw_dataset(planned.plans.dataset_name))
    chosen = list(dict.fromkeys(methods or [planned.plans.adaptation.method]))
    if ZERO_SHOT in chosen:
        raise PlansError(f"{ZERO_SHOT} adapts nothing", advice="leave it out of -methods: it stands beside the others wherever it can")
    changes = [{"method": method, "max_epochs": max_epochs} for method in chosen]
    jobs = [job for change in changes for job in planned.jobs(shots, [SUPPORT_SET], structures, change)]
    folder = workspace.cross_validation(planned.plans.dataset_name, planned.preset.name, shots)
    with locked(folder.root):
        runs = LeaveOneOut(planned, raw, folder, device).runs(jobs)
        todo = [run for run in runs if not run.is_whole()]
        logger.info("%d runs: %d to make", len(runs), len(todo))
        failed = execute_all(todo, run_needs("cross-validate", workers, planned, device))
        if failed:
            found = "; ".join(error.without_advice for error in failed)
            advice = "mend that and type the command again: finished runs are kept"
            raise DatasetError(f"{len(failed)} of {len(runs)} runs failed: {found}", advice=advice)
        with stage("tables"):
            return _written(folder, runs, len(todo), command)


def _written(folder: ComparisonFolder, runs: Sequence[Run], executed: int, command: str) -> CrossValidation:
    rows = [row for run in runs if (record := run.finished()) is not None for row in row_values(run, record, "")]
    scans = pd.DataFrame(rows, columns=list(SCAN_COLUMNS)).sort_values(["kind", "structure"], kind="stable", ignore_index=True)
    summary = expected_table(scans)
    ranked = ranked_methods(summary)
    said = caveats(scans["case"].nunique(), len(ranked))
    for name, table in (("scans", scans), ("summary", summary)):
        with replace_when_done(folder.table(name)) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    plain = [{name: None if pd.isna(value) else value for name, value in row.items()} for row in summary.to_dict("records")]
    facts = {"command": command, "expected": plain, "caveats": said, "methods_best_first": ranked, "versions": versions()}
    write_json(folder.root / "cross_validation.json", facts)
    write_picture(folder.root / "cross_validation.png", scans, summary)
    return CrossValidation(folder, scans, summary, said, ranked, executed)
