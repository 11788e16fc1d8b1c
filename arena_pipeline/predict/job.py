"""One CT file to the files of its prediction: segmentation, picture, and what else is asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from arena_pipeline.fingerprint.reading import looks_like_hu, not_hu_sentence
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import ImageSource, read_geometry, read_image, write_image, write_segmentation
from arena_pipeline.io.steps import MemoryNeeded, Steps, Turn
from arena_pipeline.machine import free_memory_bytes
from arena_pipeline.predict.case import Sinks, volume_steps
from arena_pipeline.predict.dicom_objects import check_referable, write_objects, writes_dicom_seg
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.memory import case_parts, memory_in_words, most_that_fit
from arena_pipeline.predict.options import OutputOptions
from arena_pipeline.predict.outputs import case_files, remove_outputs
from arena_pipeline.predict.postprocess import postprocess_segmentation_
from arena_pipeline.predict.predictors import Setup
from arena_pipeline.predict.preview import write_preview
from arena_pipeline.predict.probabilities import Description, write_probabilities
from arena_pipeline.predict.review import ReviewLine, review_case
from arena_pipeline.predict.slicer import write_slicer
from arena_pipeline.predict.uncertainty import Uncertainty
from arena_pipeline.preprocess.case import preprocess_image
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.masks import write_masks
from arena_pipeline.records import stage
from arena_pipeline.words import memory_size

logger = logging.getLogger(__name__)

SHARE_TOGETHER = 0.5
"""The share of the free memory that running several networks together may use."""


@dataclass(frozen=True, eq=False)
class PredictionJob:
    """What is the same for all cases of a run."""

    folder: Path
    setup: Setup
    label_map: LabelMap
    options: OutputOptions

    def others(self, case: str, source: ImageSource) -> list[Path]:
        """Files asked for besides the segmentation."""
        files, options = case_files(self.folder, case), self.options
        wanted = {
            files.dicom_seg: writes_dicom_seg(source, options),
            files.rtstruct: options.rtstruct,
            files.slicer: options.slicer,
            files.probabilities: options.save_probabilities,
            files.masks: options.save_preprocessed,
            files.preview: not options.no_previews,
            files.entropy: options.save_uncertainty,
            files.disagreement: options.save_uncertainty and any(len(task.networks) > 1 for task in self.setup.tasks),
        }
        return [path for path, asked in wanted.items() if asked]


def predict_file(case: str, source: ImageSource, output: Path, job: PredictionJob) -> Steps[list[ReviewLine]]:
    """One CT file to its segmentation and what else is asked for. The segmentation is written last: it marks the case as done.

    It is written even where no DICOM object can be made of it, which is raised after.

    In steps, so that the network may be at another case meanwhile.

    Returns:
        what a person should know of each structure to decide whether to look at it.
    """
    remove_outputs(job.folder, case)
    check_referable(source, job.options)
    geometry = read_geometry(source)
    yield MemoryNeeded(sum(_parts(geometry, job).values()))
    job = _with_room(case, geometry, job)
    with stage("read"):
        image = read_image(source)
    low, high = float(image.array.min()), float(image.array.max())
    if not looks_like_hu(low, high):
        logger.warning("%s: %s", case, not_hu_sentence(low, high))
    found = yield from _predict_image(case, image, job)
    segmentation = found.segmentation
    labels, files = job.setup.labels, case_files(job.folder, case)
    if not job.options.no_postprocessing:
        with stage("postprocess"):
            postprocess_segmentation_(segmentation, labels, job.setup.keep_largest, case)
    review = review_case(case, image, segmentation, labels, job.setup.support_volumes_ml, found.fold_dice, found.boundary_entropy)
    with stage("write"):
        if job.options.save_preprocessed:
            write_masks(files.masks, found.masks, found.grid)
        if found.uncertainty is not None:
            for name, array in found.uncertainty.restored(found.grid).items():
                write_image(getattr(files, name), Image(array, image.geometry))
        if not job.options.no_previews:
            colours = {name: (label, job.label_map.colours_rgb[name]) for name, label in labels.items()}
            check = [line.structure for line in review if line.check]
            write_preview(files.preview, case, image, segmentation, colours, job.setup.settings.scheme.window_hu, check)
        fault = write_objects(files, segmentation, source, job.label_map, job.options)
        if job.options.slicer:
            write_slicer(files.slicer, segmentation, image.geometry, job.label_map)
        write_segmentation(output, segmentation, image.geometry, labels)
    if fault is not None:
        raise fault.located(case=case)
    _report(case, review)
    return review


def _parts(geometry: Geometry, job: PredictionJob, tasks: int = 1, networks: int = 1) -> dict[str, int]:
    """Bytes of each part that the case takes, with so many tasks and networks at once."""
    scheme, channels = job.setup.settings.scheme, max(task.out_channels for task in job.setup.tasks)
    keeps = job.options.save_probabilities
    return case_parts(geometry, scheme.spacing_xyz_mm, scheme.patch_size_voxels, channels * tasks, keeps, channels * networks)


def _with_room(case: str, geometry: Geometry, job: PredictionJob) -> PredictionJob:
    """Decides what is done at once, and logs what the case will take.

    As many tasks, then networks, as fit into half of the free memory; one window at a time where even that does not fit.
    """
    setup, settings, free = job.setup, job.setup.settings, free_memory_bytes()
    parts = partial(_parts, geometry, job)
    tasks = most_that_fit(settings.tasks_at_once, lambda n: sum(parts(n).values()) <= SHARE_TOGETHER * free)
    wanted = min(settings.networks_at_once, tasks * max(len(task.networks) for task in setup.tasks))
    networks = most_that_fit(wanted, lambda n: sum(parts(tasks, n).values()) <= SHARE_TOGETHER * free)
    taken = parts(tasks, networks)
    logger.debug("%s: at most %s; %s are free", case, memory_in_words(taken), memory_size(free))
    windows = settings.window_batch
    if windows > 1 and sum(taken.values()) + windows * setup.window_bytes > free:
        logger.warning("%s: one window at a time instead of %d: little memory is free", case, windows)
        windows = 1
    if (windows, tasks, networks) == (settings.window_batch, settings.tasks_at_once, settings.networks_at_once):
        return job
    return replace(job, setup=replace(setup, settings=settings.together(windows, tasks, networks)))


@dataclass(frozen=True, eq=False)
class _Predicted:
    """`segmentation` on the native grid; `masks` (where asked for) on the preprocessed one, `grid`; the rest by structure."""

    segmentation: np.ndarray
    grid: GridMap
    masks: dict[str, np.ndarray]
    fold_dice: dict[str, float]
    boundary_entropy: dict[str, float]
    uncertainty: Uncertainty | None


def _predict_image(case: str, image: Image, job: PredictionJob) -> Steps[_Predicted]:
    """The file of probabilities is written on the way."""
    setup, masks, fold_dice, entropies = job.setup, dict[str, np.ndarray](), dict[str, float](), dict[str, float]()
    uncertainty = Uncertainty() if job.options.save_uncertainty else None
    with stage("preprocess"):
        volume, grid = preprocess_image(image, setup.settings.scheme, setup.settings.workers)
    yield Turn.NETWORK
    with ExitStack() as stack:
        keep = None
        if job.options.save_probabilities:
            activation: Literal["sigmoid", "softmax"] = "softmax" if setup.tasks[0].activation == "softmax" else "sigmoid"
            description = Description(labels=setup.labels, activation=activation, threshold=setup.settings.threshold)
            keep = stack.enter_context(write_probabilities(case_files(job.folder, case).probabilities, description))
        take_mask = masks.__setitem__ if job.options.save_preprocessed else None
        sinks = Sinks(keep, take_mask, fold_dice.update, entropies.__setitem__, uncertainty)
        segmentation = yield from volume_steps(volume, grid, setup.tasks, setup.settings, sinks)
    return _Predicted(segmentation, grid, masks, fold_dice, entropies, uncertainty)


def _report(case: str, review: Sequence[ReviewLine]) -> None:
    found = ", ".join(f"{line.structure} {line.volume_ml:.1f} ml" for line in review if line.components)
    absent = ", ".join(line.structure for line in review if not line.components)
    logger.info("%s: %s%s", case, found or "nothing found", f"; not found: {absent}" if absent and found else "")
