"""arena_evaluate: scores a folder of predictions against a folder of reference segmentations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.evaluate.cases import (
    EvaluationCase,
    case_name,
    check_paths,
    find_cases,
    find_pair,
    match_labels,
    read_description,
    read_predictions,
    warn_of_support,
)
from arena_pipeline.evaluate.journal import ScoreJournal
from arena_pipeline.evaluate.scores import Protocol, StructureScore, nothing_scored, score_table, structure_table, summarise
from arena_pipeline.evaluate.scoring import Scoring, score_case
from arena_pipeline.foundations import Scheme, load_preset
from arena_pipeline.io.atomic import replace_when_done, write_json
from arena_pipeline.io.lock import locked
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.planning import Plans
from arena_pipeline.records import stage
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)
BYTES_PER_WORKER = 2 * 2**30  # two label maps of 512 x 512 x 800 voxels, their boxes and surfaces


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found and where it was written.

    Attributes:
        scores: one per case and structure.
        table: a row per structure (and one for all), as arena_evaluate prints it.
        protocol: what was computed, in a sentence.
        missing: cases without a prediction, where that was allowed.
    """

    scores: list[StructureScore]
    table: pd.DataFrame
    protocol: str
    missing: list[str]
    summary_file: Path
    csv_file: Path


@plain_arguments
def evaluate(
    reference: Path,
    prediction: Path,
    *,
    dataset_id: int | None = None,
    dataset_json: Path | None = None,
    output: Path | None = None,
    structures: Sequence[str] | None = None,
    workers: int | None = None,
    protocol: Protocol = "native",
    approximate: bool = False,
    model: Path | None = None,
    foundation: str | None = None,
    chill: bool = False,
    ignore_split: bool = False,
    include_support: bool = False,
    workspace: Workspace | None = None,
) -> Evaluation:
    """Scores every case and structure, and writes nnU-Net's summary.json and a CSV. Interrupted, the same call goes on where it stopped.

    What an earlier evaluation wrote there is removed first: it may be of other predictions.

    Args:
        reference, prediction: folders with one segmentation per case, whose files match by case identifier; or two files. Structures match
            by name.
        dataset_id, dataset_json: where label names, partial annotation and split come from; default: dataset.json beside `reference`.
        output: the summary; default PREDICTION/summary.json (summary_published.json), of two files CASE_summary.json. The CSV lies beside it,
            "metrics" for "summary".
        structures: a subset; default: all that were predicted.
        protocol: "native": all metrics on the image's own grid. "published": section 8 of docs/method.md, Dice on the preprocessed grid, from
            the masks that arena_predict --save_preprocessed keeps.
        approximate: with "published", resample the native predictions to the scheme of `model` or `foundation` instead.
        chill: leave out cases that have no prediction, and say so, instead of failing.
        ignore_split: evaluate the training cases of dataset.json's split too.
        include_support: count cases that the model was adapted on in the means; they are marked in the CSV either way.

    Raises:
        ArenaError: a subclass naming the case, the file and what to do.
    """
    workspace = workspace or Workspace.find()
    check_paths(reference, prediction, workspace)
    description = read_description(reference, dataset_id, dataset_json, workspace)
    predictions = read_predictions(prediction, description)
    labels = match_labels(predictions.labels, description, structures)
    if prediction.is_file():
        cases, missing = [find_pair(reference, predictions, description, list(labels))], list[str]()
    else:
        cases, missing = find_cases(reference, predictions, description, list(labels), chill, ignore_split)
    warn_of_support(cases, include_support)
    scheme = _scheme(protocol, approximate, model, foundation, workspace)
    if protocol == "published" and scheme is None:
        _require_masks(cases)
    names = {name: label for name, label in description.labels.items() if label}
    scoring = Scoring(labels, names, predictions.labels, protocol, scheme, description.objective == "binary", description.ignore_label)
    path = output or _default_output(prediction, protocol)
    csv_file = _csv_file(path)
    with locked(path.parent, f"_{path.stem}"):
        for old in (path, csv_file):
            old.unlink(missing_ok=True)
        journal = ScoreJournal(path, scoring)
        with stage("evaluate"):
            scores = _score(cases, scoring, workers, journal)
        files = {case.identifier: (str(case.reference), str(case.prediction)) for case in cases}
        summary = summarise(scores, {name: pair.reference for name, pair in labels.items()}, files, protocol, include_support)
        summary |= {"protocol": scoring.sentence, "missing_predictions": missing}
        with replace_when_done(csv_file) as temporary:
            score_table(scores, protocol).to_csv(temporary, index=False)
        write_json(path, summary)
        journal.remove()
    nothing = nothing_scored(scores, include_support)
    if nothing is not None:
        logger.warning("%s", nothing)
    return Evaluation(scores, structure_table(scores, protocol, include_support), scoring.sentence, missing, path, csv_file)


def _default_output(prediction: Path, protocol: Protocol) -> Path:
    name = "summary.json" if protocol == "native" else "summary_published.json"
    return prediction.with_name(f"{case_name(prediction)}_{name}") if prediction.is_file() else prediction / name


def _csv_file(summary: Path) -> Path:
    return summary.with_name(f"{summary.stem.replace('summary', 'metrics') if 'summary' in summary.stem else f'{summary.stem}_metrics'}.csv")


def _scheme(protocol: Protocol, approximate: bool, model: Path | None, foundation: str | None, workspace: Workspace) -> Scheme | None:
    """The scheme to approximate the preprocessed grid with; None where nothing is to be approximated."""
    if not approximate:
        return None
    if protocol != "published":
        raise DatasetError("--approximate belongs to --protocol published", advice="the native protocol needs no other grid")
    if (model is None) == (foundation is None):
        raise DatasetError("--approximate needs the preprocessing scheme", advice="give one of -m MODEL_FOLDER and -foundation NAME")
    return Plans.read(model / "plans.json").scheme if model is not None else load_preset(str(foundation), workspace.foundations).scheme


def _require_masks(cases: list[EvaluationCase]) -> None:
    lacking = [case for case in cases if case.structures and not case.masks.is_file()]
    if lacking:
        raise DatasetError(
            f"no {lacking[0].masks} ({len(lacking)} of {len(cases)} cases lack it), and the published protocol is computed on the preprocessed grid",
            case=lacking[0].identifier,
            advice="predict again with --save_preprocessed, or accept resampled native predictions with --approximate and -m MODEL_FOLDER "
            "(or -foundation NAME)",
        )


def _score(cases: list[EvaluationCase], scoring: Scoring, workers: int | None, journal: ScoreJournal) -> list[StructureScore]:
    """All scores, by case in the order of `cases`; those in the journal are not computed again.

    Raises:
        DatasetError: some cases can't be scored; names each with its reason.
    """
    results = {case.identifier: scores for case in cases if (scores := journal.scores(case)) is not None}
    if results:
        logger.info("%d of %d cases were scored before an interruption, kept", len(results), len(cases))
    to_do = {case.identifier: case for case in cases if case.identifier not in results}
    needs, failed = Needs("evaluate", workers, memory_bytes=BYTES_PER_WORKER), list[ArenaError]()
    for identifier, result in map_jobs(partial(score_case, scoring=scoring), to_do, needs):
        if isinstance(result, ArenaError):
            failed.append(result)
        else:
            results[identifier] = result
            journal.add(to_do[identifier], result)
    if failed:
        raise DatasetError(f"{len(failed)} of {len(cases)} cases can't be evaluated: " + " | ".join(str(error) for error in failed))
    return [score for case in cases for score in results[case.identifier]]
