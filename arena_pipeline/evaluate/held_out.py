"""The segmentation of a stored case as arena_predict would write it, and its scores on the case's own grid."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from arena_pipeline.evaluate.metrics import Status
from arena_pipeline.evaluate.scores import LabelPair, native_scores
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.images import read_geometry, read_segmentation
from arena_pipeline.io.segmentations import aligned
from arena_pipeline.planning import Plans, TaskPlan
from arena_pipeline.predict.case import CaseSettings, PredictionTask, Sinks, predict_volume
from arena_pipeline.predict.postprocess import postprocess_segmentation_
from arena_pipeline.predict.predictors import case_settings
from arena_pipeline.preprocess.store import StoredCase


def planned_settings(preset: FoundationPreset, plans: Plans, task: PredictionTask, device: torch.device) -> CaseSettings:
    """As arena_predict predicts with these plans."""
    preset = preset.model_copy(update={"scheme": plans.scheme})
    return case_settings(preset, plans.inference, plans.workers.export, device, task.out_channels)


def segment_stored(settings: CaseSettings, planned: TaskPlan, stored: StoredCase, task: PredictionTask, sinks: Sinks | None = None) -> np.ndarray:
    """(x, y, z) integers on the grid of the image that the case was preprocessed from."""
    segmentation = predict_volume(stored.image(), stored.grid, (task,), settings, sinks or Sinks())
    postprocess_segmentation_(segmentation, planned.structures, planned.keep_largest, stored.identifier)
    return segmentation


def read_reference(segmentation: Path, image: Path) -> Image:
    """A reference segmentation on its image's grid."""
    return aligned(read_segmentation(segmentation), read_geometry(image))


def native_case_scores(
    reference: Image, segmentation: np.ndarray, planned: TaskPlan, structures: Collection[str], ignore_label: int | None
) -> dict[str, tuple[Status, dict[str, float]]]:
    """Status and native metrics of those of the task's structures that are in `structures`."""
    pairs = {name: LabelPair(label, label) for name, label in planned.structures.items() if name in structures}
    return native_scores(reference.array, segmentation, pairs, reference.geometry, ignore_label)
