"""arena_predict: CTs in, segmentations on their own grids out."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError, DatasetError, NoSpace, PlansError
from arena_pipeline.fingerprint.reading import looks_like_hu, not_hu_sentence
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.io.dicom import CTSeries
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import ImageSource, read_geometry, read_image, write_segmentation
from arena_pipeline.io.labels import count_labels
from arena_pipeline.machine import free_memory_bytes
from arena_pipeline.model.device import pick_device
from arena_pipeline.model.model_folder import choose_model, load_model
from arena_pipeline.model.out_of_memory import telling_out_of_memory
from arena_pipeline.predict.case import Extras, predict_case
from arena_pipeline.predict.dicom_seg import ENDING as DICOM_SEG_ENDING
from arena_pipeline.predict.dicom_seg import write_dicom_seg
from arena_pipeline.predict.inputs import SEGMENTATION_ENDING, find_inputs, output_files, take_part
from arena_pipeline.predict.labels import ITK_SNAP_NAME, JSON_NAME, LabelMap
from arena_pipeline.predict.memory import case_parts, in_words
from arena_pipeline.predict.outputs import held, is_complete, require_room
from arena_pipeline.predict.postprocess import postprocess_segmentation_
from arena_pipeline.predict.predictors import Setup, adapted_setup, warn_of_support_cases, zero_shot_setup
from arena_pipeline.predict.preview import PREVIEW_FOLDER, write_preview
from arena_pipeline.predict.probabilities import SUFFIX, Description, write_probabilities
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.masks import masks_file, write_masks
from arena_pipeline.records import note, stage
from arena_pipeline.words import memory_size
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extra:
    """What is written besides the segmentation, and what is left out."""

    save_probabilities: bool = False
    save_preprocessed: bool = False
    postprocess: bool = True
    previews: bool = True
    dicom_seg: bool = True
    labelmap: bool = False


@dataclass(frozen=True, eq=False)
class PredictionJob:
    """What is the same for all cases of a run."""

    folder: Path
    setup: Setup
    label_map: LabelMap
    extra: Extra

    def probabilities(self, case: str) -> Path:
        return self.folder / f"{case}{SUFFIX}"

    def preview(self, case: str) -> Path:
        return self.folder / PREVIEW_FOLDER / f"{case}.png"

    def dicom_seg(self, case: str) -> Path:
        return self.folder / f"{case}{DICOM_SEG_ENDING}"

    def others(self, case: str, source: ImageSource) -> list[Path]:
        """Files asked for besides the segmentation."""
        files = {
            self.dicom_seg(case): self.extra.dicom_seg and isinstance(source, CTSeries),
            self.probabilities(case): self.extra.save_probabilities,
            masks_file(self.folder, case): self.extra.save_preprocessed,
            self.preview(case): self.extra.previews,
        }
        return [path for path, wanted in files.items() if wanted]


@dataclass(frozen=True)
class PredictionSummary:
    """`written` and `kept`: case -> segmentation, made now and found finished; `labels`: structure -> integer."""

    folder: Path
    written: dict[str, Path]
    kept: dict[str, Path]
    labels: dict[str, int]


@plain_arguments
def predict(
    input_path: str | Path,
    output_folder: str | Path,
    workspace: Workspace,
    *,
    dataset_id: int | None = None,
    shots: int | None = None,
    method: str = "arena",
    folds: Sequence[int] | None = None,
    model_folder: str | Path | None = None,
    structures: Sequence[str] | None = None,
    foundation: str | None = None,
    zero_shot: Sequence[str] | None = None,
    save_probabilities: bool = False,
    save_preprocessed: bool = False,
    no_postprocessing: bool = False,
    no_previews: bool = False,
    dicom_seg: bool | None = None,
    labelmap: bool = False,
    continue_prediction: bool = False,
    step_size: float | None = None,
    num_parts: int = 1,
    part_id: int = 0,
    device: str = "auto",
) -> PredictionSummary:
    """Writes OUT/CASE.nii.gz for every CT, a preview each, and labels.json with labels.txt beside them.

    Args:
        input_path: a CT or a folder of CTs.
        dataset_id, shots, method, foundation: narrow the choice among the adapted models; one must be left.
        model_folder: the model itself, instead of these.
        folds: those averaged; None: all that are finished.
        structures: those predicted; None: all.
        zero_shot: base structures that the foundation predicts as it is. With `dataset_id` they get that dataset's integers.
        save_probabilities, save_preprocessed: also CASE_probabilities.npz (for `ensemble`), preprocessed/CASE.npz (for the published protocol).
        dicom_seg: CASE.seg.dcm beside each segmentation of a DICOM series; None: where the CT is one. `labelmap`: of the type LABELMAP, not BINARY.
        continue_prediction: keep segmentations that are there, whole and on the CT's grid, with all else that is asked for.
        step_size: of the sliding window, as a share of the patch; None: 1 - the planned overlap.
        num_parts, part_id: only every num_parts-th case, from number part_id.

    Raises:
        ArenaError: nothing to predict or to predict with, an output folder that another command writes, that can't be written or that
            has no room. A case that can't be read or predicted does not stop the others;
            the error at the end names all of them.
    """
    out, extra = Path(output_folder), Extra(save_probabilities, save_preprocessed, not no_postprocessing, not no_previews, dicom_seg is not False)
    extra = replace(extra, labelmap=labelmap)
    inputs = take_part(find_inputs(Path(input_path)), part_id, num_parts)
    if (dicom_seg or labelmap) and not all(isinstance(source, CTSeries) for source in inputs.values()):
        raise DatasetError("a DICOM-SEG refers to the slices of a DICOM series, found an image file", file=input_path, advice="give the DICOM folder")
    outputs = output_files(list(inputs), out, inputs)
    with held(out, list(inputs), part_id, num_parts):
        target = pick_device(device)
        note("device", str(target))
        with stage("load model"):
            if zero_shot is not None:
                _check_zero_shot_arguments(shots, folds, model_folder, structures)
                dataset = None if dataset_id is None else DatasetJson.read(workspace.raw_dataset(workspace.dataset_name(dataset_id)) / "dataset.json")
                setup = zero_shot_setup(zero_shot, workspace, foundation, dataset, target)
            else:
                command = _command(input_path, out, workspace)
                path = Path(model_folder) if model_folder is not None else choose_model(workspace, command, dataset_id, shots, foundation, method)
                setup = adapted_setup(load_model(path, folds, structures), structures, workspace, target)
        if step_size is not None:
            setup = replace(setup, settings=replace(setup.settings, overlap=1 - step_size))
        label_map = LabelMap.of(setup.labels, setup.source, {name: ids for name, ids in setup.support_ids.items() if name in setup.labels})
        if continue_prediction:
            _check_same_model(out, label_map)
        warn_of_support_cases(inputs, setup.support_ids)
        job = PredictionJob(out, setup, label_map, extra)
        require_room(out, inputs, outputs, len(setup.labels) if save_probabilities else 0)
        return _predict_all(inputs, outputs, job, continue_prediction)


def _check_zero_shot_arguments(shots: object, folds: object, model_folder: object, structures: object) -> None:
    given = [flag for flag, value in (("-shots", shots), ("-f", folds), ("-m", model_folder), ("--structures", structures)) if value is not None]
    if given:
        raise PlansError(f"--zero_shot uses the foundation as it is and has no adapted model; leave out {', '.join(given)}")


def _command(input_path: str | Path, out: Path, workspace: Workspace) -> str:
    return shlex.join(["arena_predict", "-i", str(input_path), "-o", str(out), *workspace.options])


def _check_same_model(out: Path, label_map: LabelMap) -> None:
    """Refuses to go on in a folder whose segmentations were made by another model, or by nobody knows which."""
    mend = "choose another output folder, or leave out --continue_prediction to make them anew"
    if (out / JSON_NAME).is_file():
        there = LabelMap.read(out)
        if (there.labels, there.source) != (label_map.labels, label_map.source):
            raise PlansError(
                f"{out}: its segmentations were made by {there.source} with labels {there.labels}, not by {label_map.source} "
                f"with {label_map.labels}; {mend}"
            )
    elif any(out.glob(f"*{SEGMENTATION_ENDING}")):
        raise PlansError(f"{out}: its segmentations have no {JSON_NAME} beside them, which says what made them; put it back, {mend}")


def _predict_all(inputs: Mapping[str, ImageSource], outputs: dict[str, Path], job: PredictionJob, continue_prediction: bool) -> PredictionSummary:
    summary = PredictionSummary(job.folder, {}, {}, job.setup.labels)
    failed: list[str] = []  # in words: an error holds the arrays of the functions that it came through
    with tqdm(inputs.items(), unit="case", disable=None) as bar:
        for case, source in bar:
            bar.set_description(case)
            try:
                if continue_prediction and is_complete(case, source, outputs[case], job.others(case, source)):
                    summary.kept[case] = outputs[case]
                    continue
                with telling_out_of_memory(f"the prediction of {case}"):
                    predict_file(case, source, outputs[case], job)
                summary.written[case] = outputs[case]
            except NoSpace:
                raise  # so would all others fail
            except ArenaError as error:
                if len(inputs) == 1:
                    raise type(error)(f"{case}: {error}" if case not in str(error) else str(error)) from None
                logger.error("%s: not predicted: %s", case, error)
                failed.append(f"{case}: {error}")
    if summary.kept and not (job.folder / ITK_SNAP_NAME).is_file():
        job.label_map.write(job.folder)
    if failed:
        raise DatasetError(f"{len(failed)} of {len(inputs)} cases not predicted: " + "; ".join(failed))
    return summary


def predict_file(case: str, source: ImageSource, output: Path, job: PredictionJob) -> None:
    """One CT file to its segmentation and what else is asked for. The segmentation is written last: it marks the case as done."""
    job = _with_room(case, source, job)
    with stage("read"):
        image = read_image(source)
    low, high = float(image.array.min()), float(image.array.max())
    if not looks_like_hu(low, high):
        logger.warning("%s: %s", case, not_hu_sentence(low, high))
    segmentation, masks, grid = _predict_image(case, image, job)
    labels = job.setup.labels
    if job.extra.postprocess:
        with stage("postprocess"):
            removed = postprocess_segmentation_(segmentation, labels, job.setup.keep_largest)
        logger.debug("%s: voxels outside the largest component, removed: %s", case, removed)
    with stage("write"):
        if job.extra.save_preprocessed:
            write_masks(masks_file(job.folder, case), masks, grid)
        if job.extra.previews:
            colours = {name: (label, job.label_map.colours_rgb[name]) for name, label in labels.items()}
            write_preview(job.preview(case), case, image, segmentation, colours, job.setup.settings.scheme.window_hu)
        if isinstance(source, CTSeries) and job.extra.dicom_seg:
            write_dicom_seg(job.dicom_seg(case), segmentation, source, job.label_map, job.extra.labelmap)
        job.label_map.write(job.folder)
        write_segmentation(output, segmentation, image.geometry, labels)
    _report(case, segmentation, image.geometry, labels)


def _with_room(case: str, source: ImageSource, job: PredictionJob) -> PredictionJob:
    """Says what the case will take, and runs one window at a time where the memory that is free would not take more."""
    setup, settings = job.setup, job.setup.settings
    channels = max(task.out_channels for task in setup.tasks)
    patch = settings.scheme.patch_size_voxels
    parts = case_parts(read_geometry(source), settings.scheme.spacing_mm, patch, channels, job.extra.save_probabilities)
    free = free_memory_bytes()
    logger.info("%s: at most %s; %s are free", case, in_words(parts), memory_size(free))
    if settings.window_batch == 1 or sum(parts.values()) + settings.window_batch * setup.window_bytes <= free:
        return job
    logger.warning("%s: one window at a time instead of %d: little memory is free", case, settings.window_batch)
    return replace(job, setup=replace(setup, settings=replace(settings, window_batch=1)))


def _predict_image(case: str, image: Image, job: PredictionJob) -> tuple[np.ndarray, dict[str, np.ndarray], GridMap]:
    """Segmentation on the native grid, masks on the preprocessed one (where asked for); the file of probabilities on the way."""
    setup, masks = job.setup, dict[str, np.ndarray]()
    with ExitStack() as stack, stage("predict"):
        keep = None
        if job.extra.save_probabilities:
            description = Description(labels=setup.labels, activation=setup.tasks[0].activation, threshold=setup.settings.threshold)
            keep = stack.enter_context(write_probabilities(job.probabilities(case), description)).add
        extras = Extras(keep, masks.__setitem__ if job.extra.save_preprocessed else None)
        prediction = predict_case(image, setup.tasks, setup.settings, extras)
    return prediction.segmentation, masks, prediction.grid


def _report(case: str, segmentation: np.ndarray, geometry: Geometry, labels: dict[str, int]) -> None:
    counts = count_labels(segmentation, minlength=max(labels.values()) + 1)
    found = ", ".join(f"{name} {counts[label] * geometry.voxel_volume_ml:.1f} ml" for name, label in labels.items() if counts[label])
    absent = ", ".join(name for name, label in labels.items() if not counts[label])
    logger.info("%s: %s%s", case, found or "nothing found", f"; not found: {absent}" if absent and found else "")
