"""arena_compare: every method on the same support sets and queries, and the tables that say which is better."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from arena_pipeline.adapt.job import DEFAULT_FOLDS, read_planned_dataset
from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError, MissingPackage
from arena_pipeline.evaluate.scores import Protocol
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.lock import locked
from arena_pipeline.model.device import device_of_jobs
from arena_pipeline.preprocess.dataset import preprocess_dataset
from arena_pipeline.records import note, stage
from arena_pipeline.research.compare.execution import execute_all, run_needs
from arena_pipeline.research.compare.grid import ComparisonRequest, RunGrid, installed_methods
from arena_pipeline.research.compare.outputs import RunWithRecord, make_report_data, write_outputs
from arena_pipeline.research.compare.report_data import ReportData
from arena_pipeline.workspace import ComparisonFolder, Workspace

logger = logging.getLogger(__name__)

REPORT_PACKAGES = ("jinja2", "markupsafe")
"""What the report needs; the extra [research] installs them."""


@dataclass(frozen=True)
class Comparison:
    """`executed`: runs made now; `reused`: those found finished."""

    folder: ComparisonFolder
    data: ReportData
    executed: int
    reused: int


@plain_arguments
def compare(
    dataset_id: int,
    shots: Sequence[int],
    workspace: Workspace,
    *,
    methods: Sequence[str] | None = None,
    structures: Sequence[str] | None = None,
    folds: Sequence[int] = DEFAULT_FOLDS,
    ranks: Sequence[int] = (),
    rank: int | None = None,
    max_epochs: int | None = None,
    most_queries: int | None = None,
    foundation: str | None = None,
    protocol: Protocol = "native",
    workers: int | None = None,
    device: str = "auto",
    finished_only: bool = False,
    command: str = "",
) -> Comparison:
    """Makes every run that is not finished, then writes the tables of all finished ones below results/DATASET/FOUNDATION/comparison.

    Runs are method x shots x task x fold, and for `ranks` also x rank, with LoRA and ARENA. A run that is finished and was made with the same
    plans, settings, weights and queries is never repeated. The tables also have such runs of earlier commands.

    Args:
        methods: None: all whose packages are installed.
        structures: their names; None: all that the plans have enough cases for.
        most_queries: take only this many query cases of each task, the first ones; None: all.
        protocol: "native", or "published": Dice as the papers compute it (docs/method.md).
        workers: runs at once, each in a process of its own; 0 and 1: one after the other in this process; None: by cores and memory.
        finished_only: make no run.
        command: as typed, for comparison.json.

    Raises:
        ArenaError: before the first run, something is missing or another command is at work on the comparison or the dataset; after the last
            one, and after the tables were written, runs have failed.
    """
    _require_report_packages()
    planned = read_planned_dataset(dataset_id, workspace, foundation)
    note("device", str(device_of_jobs(device)))
    raw = RawDataset.open(workspace.raw_dataset(planned.plans.dataset_name))
    folder = workspace.comparison(planned.plans.dataset_name, planned.preset.name)
    chosen = None if structures is None else tuple(structures)
    wanted = installed_methods() if methods is None else tuple(methods)
    request = ComparisonRequest(tuple(shots), wanted, chosen, tuple(folds), tuple(ranks), rank, max_epochs, most_queries, protocol, device)
    with locked(folder.root):
        return _compare(RunGrid(planned, request, folder, raw), workers, finished_only, command)


def _require_report_packages() -> None:
    """Raises MissingPackage before hours of runs rather than after them."""
    if lacking := [name for name in REPORT_PACKAGES if find_spec(name) is None]:
        raise MissingPackage(f"the report needs {', '.join(lacking)}", advice="pip install 'arena-pipeline[research]'")


def _compare(grid: RunGrid, workers: int | None, finished_only: bool, command: str) -> Comparison:
    planned, folder, device = grid.planned, grid.folder, grid.request.device
    cases = grid.query_cases()
    with stage("preprocess queries"), locked(planned.workspace.preprocessed_dataset(planned.plans.dataset_name)):
        preprocess_dataset(grid.raw, planned.plans.scheme, planned.cases, None, cases, planned.plans.workers.preprocess)
    runs = grid.runs
    notes = grid.notes()
    for sentence in notes:
        logger.info("%s", sentence)
    todo = [] if finished_only else [run for run in runs if not run.is_whole()]
    logger.info("%d runs: %d to make", len(runs), len(todo))
    failed = execute_all(todo, run_needs("compare", workers, planned, device))
    with stage("tables"):
        found = [RunWithRecord(run, record) for run in [*runs, *grid.finished_elsewhere()] if (record := run.finished()) is not None]
        if not found:
            raise failed[0] if failed else DatasetError(f"{folder.root}: no finished run yet; leave out --finished_only to make them")
        data = make_report_data(found, command, notes)
        write_outputs(folder, data)
        from arena_pipeline.research.compare.report import write_report  # its packages are there: checked above

        write_report(folder, data)
    if failed:
        raise DatasetError(f"{len(failed)} of {len(runs)} runs failed, the tables in {folder.root} are without them: " + "; ".join(map(str, failed)))
    return Comparison(folder, data, len(todo), len(found) - len(todo))
