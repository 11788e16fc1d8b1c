"""arena_cross_validate: K adaptations, each scored on the scan it did not see; from these the expected Dice, and a ranking of methods."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from arena_pipeline.adapt.job import FoldJob, PlannedDataset, read_planned_dataset
from arena_pipeline.adapt.methods import METHODS
from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError, DatasetError, PlansError
from arena_pipeline.io.atomic import replace_when_done, write_json
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.lock import all_locked
from arena_pipeline.model.device import device_of_jobs
from arena_pipeline.model.expected import setup_of
from arena_pipeline.records import note, stage, versions
from arena_pipeline.research.compare.execution import execute_all, run_needs
from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.runs import FinishedRun, Run, row_values
from arena_pipeline.research.cross_validate.expected import SCAN_COLUMNS, caveats, expected_table
from arena_pipeline.research.cross_validate.leave_one_out import SUPPORT_SET_FOLD, LeaveOneOut
from arena_pipeline.research.cross_validate.picture import write_picture
from arena_pipeline.research.cross_validate.ranking import ranking
from arena_pipeline.words import pluralize
from arena_pipeline.workspace import ComparisonFolder, Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """What was written to `folder`.

    Attributes:
        scans: a row per structure, foundation, method and left-out scan.
        summary: a row per structure, foundation and method, with the expected Dice.
        ranked: a row per foundation and method, best first.
        executed: runs made now.
    """

    folder: ComparisonFolder
    scans: pd.DataFrame
    summary: pd.DataFrame
    caveats: list[str]
    ranked: pd.DataFrame
    executed: int


@dataclass(frozen=True)
class ScansLeftOut:
    """The runs of `job` with one scan of its support set left out each, and the zero-shot run where there is one."""

    job: FoldJob
    runs: list[Run]


@plain_arguments
def cross_validate(
    dataset_id: int,
    shots: int,
    workspace: Workspace,
    *,
    structures: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    max_epochs: int | None = None,
    foundation: str | Sequence[str] | None = None,
    workers: int | None = None,
    device: str = "auto",
    command: str = "",
) -> CrossValidation:
    """Makes the runs that are not finished and writes scans.csv, summary.csv, ranking.csv, cross_validation.json and cross_validation.png.

    A run that was made with the same plans, settings, weights and files is never repeated, whichever command made it. The tables also have such runs
    of earlier commands, of other structures and methods; the ranking uses the structures of this command alone.

    Args:
        shots: K, the scans of the support set of fold 0; each is left out once.
        methods: of adaptation; None: the one in the plans. Zero-shot is added for base structures.
        foundation: several are tried one after the other, with tables of all in results/DATASET/cross_validation; None: the most preferred one.
        workers: runs at once; 0 and 1: one after the other in this process; None: by cores and memory.

    Raises:
        ArenaError: before the first run, something is missing or another command is at work here; after the last one, runs have failed.
    """
    names = [foundation] if foundation is None or isinstance(foundation, str) else list(dict.fromkeys(foundation))
    foundations = [read_planned_dataset(dataset_id, workspace, name) for name in names]
    note("device", str(device_of_jobs(device)))
    jobs = [_jobs(planned, shots, structures, methods, max_epochs) for planned in foundations]
    raw = RawDataset.open(workspace.raw_dataset(foundations[0].plans.dataset_name))
    folders = [workspace.cross_validation(planned.plans.dataset_name, planned.preset.name, shots) for planned in foundations]
    together = folders[0] if len(folders) == 1 else workspace.cross_validation(foundations[0].plans.dataset_name, None, shots)
    with all_locked(list(dict.fromkeys(folder.root for folder in (*folders, together)))):
        builds = [LeaveOneOut(planned, raw, folder, device) for planned, folder in zip(foundations, folders, strict=True)]
        sets = [[ScansLeftOut(job, build.runs([job])) for job in own] for build, own in zip(builds, jobs, strict=True)]
        runs = [_distinct_runs(own) for own in sets]
        executed, failed = 0, list[ArenaError]()
        for planned, own in zip(foundations, runs, strict=True):
            todo = [run for run in own if not run.is_whole()]
            logger.info("%s: %s, %d to make", planned.preset.name, pluralize(len(own), "run"), len(todo))
            failed += execute_all(todo, run_needs("cross-validate", workers, planned, device))
            executed += len(todo)
        every = [run for own in runs for run in own]
        if failed:
            faults = "; ".join(error.without_advice for error in failed)
            advice = "mend that and type the command again: finished runs are kept"
            raise DatasetError(f"{len(failed)} of {len(every)} runs failed: {faults}", advice=advice)
        with stage("tables"):
            asked = {name for run in every for name in run.task.structures}
            sets = [own + _finished_elsewhere(build, shots, own, max_epochs) for build, own in zip(builds, sets, strict=True)]
            found = [_write_tables(folder, own, asked, executed, command) for folder, own in zip(folders, sets, strict=True)]
            return found[0] if len(found) == 1 else _write_tables(together, [one for own in sets for one in own], asked, executed, command)


def _jobs(
    planned: PlannedDataset, shots: int, structures: Sequence[str] | None, methods: Sequence[str] | None, max_epochs: int | None
) -> list[FoldJob]:
    chosen = list(dict.fromkeys(methods or [planned.plans.adaptation.method]))
    if ZERO_SHOT in chosen:
        raise PlansError(f"{ZERO_SHOT} adapts nothing", advice="leave it out of -methods: it is added wherever it is possible")
    changes = [{"method": method, "max_epochs": max_epochs} for method in chosen]
    return [job for change in changes for job in planned.jobs(shots, [SUPPORT_SET_FOLD], structures, change, whole=True)]


def _distinct_runs(sets: Sequence[ScansLeftOut]) -> list[Run]:
    """The runs of all sets, each once: methods share the zero-shot run."""
    return list({run.record: run for one in sets for run in one.runs}.values())


def _finished_elsewhere(build: LeaveOneOut, shots: int, asked: Sequence[ScansLeftOut], max_epochs: int | None) -> list[ScansLeftOut]:
    """Earlier commands' runs of other structures and methods: those finished on every scan and made as this command would make them."""
    seen, found = {(one.job.task.name, one.job.settings.method) for one in asked}, list[ScansLeftOut]()
    for path in sorted(build.folder.finished_runs()):
        record = FinishedRun.read_if_valid(path)
        task, method = ("", "") if record is None else (str(record.identity.get("task")), str(record.identity.get("method")))
        if method not in METHODS or (task, method) in seen:
            continue
        seen.add((task, method))
        try:
            (job,) = _jobs(build.planned, shots, [task], [method], max_epochs)
            runs = build.runs([job])
        except ArenaError as error:  # other plans by now, or a label that was corrected and not preprocessed yet
            logger.debug("%s: %s", path, error)
            continue
        if all(run.finished() is not None for run in runs):
            found.append(ScansLeftOut(job, runs))
        else:
            logger.info("%s, %s: made with other plans, settings or files, and left out of the tables", task, method)
    return found


def _write_tables(folder: ComparisonFolder, sets: Sequence[ScansLeftOut], asked: Collection[str], executed: int, command: str) -> CrossValidation:
    """Writes the tables of `sets`; methods are ranked by `asked`, the structures of this command."""
    runs = _distinct_runs(sets)
    finished = [(run, record) for run in runs if (record := run.finished()) is not None]
    rows = [row | {"foundation": run.planned.preset.name} for run, record in finished for row in row_values(run, record, "")]
    scans = pd.DataFrame(rows, columns=list(SCAN_COLUMNS)).sort_values(["kind", "structure"], kind="stable", ignore_index=True)
    summary, ranked = expected_table(scans), ranking(scans[scans["structure"].isin(asked)])
    said = caveats(int(scans.groupby("structure")["case"].nunique().min()), len(ranked))
    for name, table in (("scans", scans), ("summary", summary), ("ranking", ranked)):
        with replace_when_done(folder.table(name)) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    setups = {(name, one.job.preset.name, one.job.settings.method): _setup(one.job) for one in sets for name in one.job.task.structures}
    expected = [row | {"made_with": setups.get((row["structure"], row["foundation"], row["method"]))} for row in _plain(summary)]
    facts = {"command": command, "expected": expected, "caveats": said, "ranking": _plain(ranked), "versions": versions()}
    write_json(folder.root / "cross_validation.json", facts)
    write_picture(folder.root / "cross_validation.png", scans, summary)
    return CrossValidation(folder, scans, summary, said, ranked, executed)


def _setup(job: FoldJob) -> str:
    return setup_of(job.plans.foundation_sha256, job.task.train_decoder, job.settings, job.support_sha256())


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): None if pd.isna(value) else value for name, value in row.items()} for row in table.to_dict("records")]
