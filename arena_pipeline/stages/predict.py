"""arena_predict: CTs in, segmentations on their own grids out."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.io.atomic import UNFINISHED
from arena_pipeline.io.dicom import CTSeries
from arena_pipeline.io.images import ImageSource
from arena_pipeline.io.lock import LEASE_SECONDS, locked, shared_part
from arena_pipeline.io.parallel import Needs, map_jobs, runs_in_this_process
from arena_pipeline.io.space import require_writable
from arena_pipeline.model.device import device_of_jobs
from arena_pipeline.predict.choice import ModelChoice
from arena_pipeline.predict.inputs import find_inputs, output_files, record_inputs, take_part, usable_names
from arena_pipeline.predict.job import PredictionJob
from arena_pipeline.predict.journal import Journal
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.memory import PROCESS_BYTES
from arena_pipeline.predict.options import OutputOptions, with_output_options
from arena_pipeline.predict.outputs import (
    remove_left_unfinished,
    remove_unfinished_tables,
    require_one_meaning,
    require_room,
    require_same_meaning,
    require_same_outputs,
    segmentations,
)
from arena_pipeline.predict.postprocess import applied_in_words
from arena_pipeline.predict.predictors import Setup
from arena_pipeline.predict.review import REVIEW_NAME, ReviewLine, ReviewTable
from arena_pipeline.predict.shared import OF_ALL_CASES, CaseDone, CaseToPredict, SharedPrediction
from arena_pipeline.records import note, stage
from arena_pipeline.settings import PrecisionName
from arena_pipeline.words import pluralize
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

START_SECONDS = 600.0  # for another command that is just starting: it looks through the folder


@dataclass(frozen=True)
class PredictionSummary:
    """`written` and `kept`: case -> segmentation, made now and found finished; `labels`: structure -> integer.

    `review`: what to look at, the most urgent first; `review_file`: where it stands, None where a single file was written.
    """

    folder: Path
    written: dict[str, Path]
    kept: dict[str, Path]
    labels: dict[str, int]
    review_file: Path | None
    review: list[ReviewLine]


@plain_arguments
@with_output_options
def predict(
    input_path: str | Path,
    output_folder: str | Path,
    workspace: Workspace,
    *,
    dataset_id: int | None = None,
    shots: int | None = None,
    method: str | None = None,
    folds: Sequence[int] | None = None,
    model_folder: str | Path | None = None,
    structures: Sequence[str] | None = None,
    foundation: str | None = None,
    zero_shot: Sequence[str] | None = None,
    continue_prediction: bool = False,
    step_size: float | None = None,
    num_parts: int = 1,
    part_id: int = 0,
    device: str = "auto",
    precision: PrecisionName | None = None,
    workers: int | None = None,
    **outputs: Any,
) -> PredictionSummary:
    """Writes OUT/CASE.nii.gz for every CT, a preview each, and labels.json with labels.txt beside them.

    Args:
        input_path: a CT or a folder of CTs.
        dataset_id, shots, method, foundation: narrow the choice among the adapted models; one must be left. Without a method: those of ARENA.
        model_folder: the model itself, instead of these.
        folds: those averaged; None: all that are finished.
        structures: those predicted; None: all.
        zero_shot: base structures that the foundation predicts as it is. With `dataset_id` they get that dataset's integers.
        continue_prediction: keep segmentations that are there, whole and on the CT's grid, with all else that is asked for.
        step_size: of the sliding window, as a share of the patch; None: 1 - the planned overlap.
        precision: of the network; None: as planned.
        num_parts, part_id: only every num_parts-th case, from number part_id.
        workers: CTs at once, each in a process of its own; 0 and 1: one after the other in this process; None: one per GPU.
        outputs: what is written besides and what is left out, the options of `OutputOptions`: save_probabilities (for `ensemble`),
            save_preprocessed (for the published protocol), save_uncertainty, no_postprocessing, no_previews, dicom_seg, labelmap, rtstruct, slicer.

    Any number of such calls, on any machines, share the cases of a folder: each claims one after the other, and none is predicted twice.

    Raises:
        ArenaError: nothing to predict or to predict with, an output folder that another command writes otherwise, that can't be written or that
            has no room. A case that can't be read or predicted does not stop the others;
            the error at the end names all of them.
    """
    out, options = Path(output_folder), OutputOptions(**outputs)
    choice = ModelChoice(dataset_id, shots, foundation, method, model_folder, folds, structures, zero_shot)
    inputs, refused = usable_names(take_part(find_inputs(Path(input_path)), part_id, num_parts))
    if options.needs_dicom and not all(isinstance(source, CTSeries) for source in inputs.values()):
        found = f"{options.needs_dicom} refers to the slices of a DICOM series, found an image file"
        raise DatasetError(found, file=input_path, advice="give the DICOM folder")
    files, journal = output_files(list(inputs), out, inputs), Journal(out)
    with locked(out, shared_part(journal.name)):
        target = device_of_jobs(device)
        note("device", str(target))
        with stage("load model"):
            folder = None if zero_shot is not None else choice.folder(workspace, input_path, out)
            changes = {"overlap": None if step_size is None else 1 - step_size, "precision": precision}
            setup, support_ids = choice.setup(workspace, inputs, folder, target, changes)
        setup = replace(setup, source=setup.source | _decisions(setup, options))
        label_map = LabelMap.of(setup.labels, setup.source, {name: ids for name, ids in support_ids.items() if name in setup.labels})
        require_room(out, inputs, files, len(setup.labels) if options.save_probabilities else 0)
        needs = Needs("predict", workers, memory_bytes=PROCESS_BYTES + setup.window_bytes, cores=0, device=device)
        if runs_in_this_process(needs, len(inputs)):
            setup.tasks[0].networks[0]()  # weights that do not fit are told before anything is written
        with locked(journal.folder, "_start", START_SECONDS):
            keep = _begin_or_join(journal, label_map, list(inputs), asdict(options), continue_prediction)
            journal.join(list(inputs), asdict(options), keep)
            record_inputs(out, inputs, Path(input_path))
        return _predict_all(inputs, files, SharedPrediction(PredictionJob(out, setup, label_map, options), journal, keep), needs, refused)


def _decisions(setup: Setup, options: OutputOptions) -> dict[str, str]:
    """In words what the segmentations depend on besides the networks: for labels.json, so that no folder has those of two settings."""
    settings = setup.settings
    inference = f"overlap {settings.overlap:g}, threshold {settings.threshold:g}, precision {settings.precision}"
    return {"inference": inference, **applied_in_words({} if options.no_postprocessing else setup.keep_largest)}


def _begin_or_join(journal: Journal, label_map: LabelMap, cases: Sequence[str], outputs: Mapping[str, bool | None], keep: bool) -> bool:
    """Clears the folder for a new run, or makes sure that what others are doing there is what this command would do.

    Args:
        outputs: of OutputOptions -> whether it is written.
        keep: whether finished cases of earlier runs are to stay.

    Returns:
        whether the run keeps finished cases of earlier ones: who joins does as the others do.
    """
    at_work = [command for command in journal.commands() if command.alive]
    with_others = label_map.with_support_in(journal.output)
    if at_work:
        require_same_meaning(journal.output, label_map)
        require_same_outputs(journal.output, at_work[0].outputs, outputs)
        with_others.write(journal.output)
        names = ", ".join(command.name for command in at_work)
        logger.info("%s: shares the cases with %s; what they have done is done", journal.output, names)
        return at_work[0].keep
    require_one_meaning(journal.output, label_map, cases, keep)
    remove_left_unfinished(journal.output, cases)
    remove_unfinished_tables(journal.output)
    journal.begin_run(keep)
    with_others.write(journal.output)
    return keep


@plain_arguments
def predict_to_file(input_path: str | Path, output_file: str | Path, workspace: Workspace, **options: Any) -> PredictionSummary:
    """The segmentation of one CT as `output_file` alone; `options` as in `predict`. A file that is there is replaced when the new one is whole.

    Raises:
        ArenaError: several CTs, or as `predict`.
    """
    file, inputs = Path(output_file), find_inputs(Path(input_path))
    if len(inputs) > 1:
        raise DatasetError(f"-o names one file, found {len(inputs)} CTs in {input_path}", file=file, advice="name a folder, or one CT with -i")
    if any(os.path.realpath(source) == os.path.realpath(file) for source in inputs.values() if isinstance(source, Path)):
        raise DatasetError("the segmentation would overwrite the image", file=file, advice="choose another name")
    choice, others = ModelChoice.split(options)
    written = OutputOptions(**{one.name: others.pop(one.name) for one in fields(OutputOptions) if one.name in others})
    if written.files_beside:
        flags = ", ".join(f"--{name}" for name in written.files_beside)
        raise DatasetError(f"-o names one file, and {flags} writes another", file=file, advice="name a folder")
    if others.get("num_parts", 1) > 1:
        raise DatasetError("-o names one file, and -num_parts splits a folder's CTs between several runs", file=file, advice="leave it out")
    if choice.zero_shot is None:  # chosen here: the errors have `output_file` in the commands to type
        choice = replace(choice, model_folder=choice.folder(workspace, input_path, file))
    require_writable(file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=UNFINISHED) as folder:
        alone = asdict(replace(written, no_previews=True, dicom_seg=False))
        summary = predict(input_path, folder, workspace, **asdict(choice), **{**others, "continue_prediction": False}, **alone)
        (made,) = summary.written.values()
        made.replace(file)
    return replace(summary, folder=file.parent, written=dict.fromkeys(summary.written, file), review_file=None)


def _predict_all(
    inputs: Mapping[str, ImageSource], outputs: dict[str, Path], shared: SharedPrediction, needs: Needs, refused: Sequence[DatasetError]
) -> PredictionSummary:
    job, done = shared.job, dict[str, CaseDone]()
    failed = [str(error) for error in refused]  # in words: an error holds the arrays of the functions that it came through
    for reason in failed:
        logger.error("not predicted: %s", reason)
    review = ReviewTable(job.folder / REVIEW_NAME, segmentations(job.folder))
    left = {case: CaseToPredict(case, source, outputs[case]) for case, source in inputs.items()}
    try:
        for patience in (0, LEASE_SECONDS):  # once more for those that others have claimed, who may have died
            tasks = {case: replace(task, patience_seconds=patience) for case, task in left.items()}
            for case, result in map_jobs(shared, tasks, needs):
                if isinstance(result, OF_ALL_CASES) or (isinstance(result, ArenaError) and len(inputs) == 1 and not refused):
                    raise result
                if isinstance(result, ArenaError):
                    logger.error("not predicted: %s", result)
                    failed.append(str(result))
                    review.put(case, ())
                    del left[case]
                elif result.state != "elsewhere":
                    done[case] = result
                    review.put(case, result.review or review.of(case))
                    del left[case]
    finally:
        others = shared.journal.entries().items()
        review.update({case: entry.review_lines for case, entry in others if entry.review})
        review.write()
        shared.journal.tidy()
    if left:
        logger.warning("%s still being predicted by other commands that share the folder, such as %s", pluralize(len(left), "case"), next(iter(left)))
    if failed:
        raise DatasetError(f"{len(failed)} of {len(inputs) + len(refused)} cases not predicted: " + "; ".join(failed))
    written, kept = ({case: outputs[case] for case in inputs if case in done and done[case].state == state} for state in ("written", "kept"))
    return PredictionSummary(job.folder, written, kept, job.setup.labels, review.path, review.lines)
