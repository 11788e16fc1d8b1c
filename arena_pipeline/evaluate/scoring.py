"""One case: read both segmentations, bring them to the protocol's grid, score. Runs in worker processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.evaluate.cases import EvaluationCase
from arena_pipeline.evaluate.metrics import Status
from arena_pipeline.evaluate.scores import LabelPair, Protocol, StructureScore, native_scores, not_annotated_metrics, published_score
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import grid_difference, read_segmentation, rounded
from arena_pipeline.io.labels import UNLABELLED, label_boxes
from arena_pipeline.io.nearest import resample_nearest
from arena_pipeline.io.orientation import AxisOrder, to_ras
from arena_pipeline.io.segmentations import aligned, check_segment_names
from arena_pipeline.preprocess.case import preprocess_segmentation
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.masks import read_masks

logger = logging.getLogger(__name__)

TILTED_WARNING = "the axes do not stand at right angles (a tilted gantry?); volumes are right, surface distances are measured as if they did"
Scores = dict[str, tuple[Status, dict[str, float]]]


@dataclass(frozen=True)
class Scoring:
    """How every case of one evaluation is scored.

    Attributes:
        labels: structure -> its integers in reference and prediction, of those that are scored.
        reference_labels, prediction_labels: all that their files may hold, structure -> integer.
        scheme: with the published protocol, the scheme that native predictions are resampled to; None: saved masks are used.
        largest_component: with the published protocol, whether references are reduced to their largest component (binary tasks).
        ignore_label: the references' integer of voxels that nobody annotated; `reference_labels` has it too.
    """

    labels: dict[str, LabelPair]
    reference_labels: dict[str, int]
    prediction_labels: dict[str, int]
    protocol: Protocol
    scheme: Scheme | None
    largest_component: bool
    ignore_label: int | None = None

    @property
    def sentence(self) -> str:
        """Says what is computed, for the summary and the terminal."""
        if self.protocol == "native":
            return "native: all metrics on the image's own grid"
        reduced = ", reference reduced to its largest 26-connected component" if self.largest_component else ""
        formula = f"Dice = 2 TP / (|P| + |G| + 1){reduced}"
        if self.scheme is None:
            return f"published: on the preprocessed grid, from the network's own segmentation; {formula}"
        spacing = " x ".join(f"{s:g}" for s in self.scheme.spacing_mm)
        return f"published, APPROXIMATE: native predictions resampled (nearest) to {spacing} mm, so not the network's own output; {formula}"


def score_case(case: EvaluationCase, scoring: Scoring) -> list[StructureScore]:
    """The scores of one case, in the order of the scoring's labels.

    Raises:
        ArenaError: a subclass naming the case or file: unreadable, different grids, or labels without a name.
    """
    found: Scores = {structure: ("not_annotated", not_annotated_metrics(scoring.protocol)) for structure in case.not_annotated}
    if case.structures:
        check_segment_names(case.identifier, case.reference, scoring.reference_labels)
        reference = read_segmentation(case.reference)
        if scoring.protocol == "published" and scoring.scheme is None:
            found |= _from_masks(case, scoring, reference)
        else:
            prediction = aligned(_read_prediction(case.prediction), reference.geometry)
            _check_pair(case, scoring, reference, prediction)
            found |= _from_segmentations(case, scoring, reference, prediction)
    return [StructureScore(case.identifier, name, *found[name], name in case.in_support) for name in scoring.labels if name in found]


def _read_prediction(path: Path) -> Image:
    try:
        return read_segmentation(path)
    except ImageError as error:  # other advice than for a reference: there is no other copy of it
        raise ImageError(error.found, case=error.case, file=error.file, advice="predict it again with --continue_prediction") from None


def _from_segmentations(case: EvaluationCase, scoring: Scoring, reference: Image, prediction: Image) -> Scores:
    labels = {structure: scoring.labels[structure] for structure in case.structures}
    if scoring.scheme is None:
        if not reference.geometry.is_orthonormal:
            logger.warning("%s: %s", case.identifier, TILTED_WARNING)
        return native_scores(reference.array, prediction.array, labels, reference.geometry, scoring.ignore_label)
    on_grid = [_resampled(image, scoring.scheme) for image in (reference, prediction)]
    unlabelled = on_grid[0] == (-1 if scoring.ignore_label is None else scoring.ignore_label)
    reduce = scoring.largest_component
    return {s: published_score(on_grid[0] == p.reference, on_grid[1] == p.prediction, unlabelled, reduce) for s, p in labels.items()}


def _from_masks(case: EvaluationCase, scoring: Scoring, reference: Image) -> Scores:
    path = case.masks
    masks, grid = read_masks(path, case.structures)
    grid = _for_reference(case, path, grid, reference.geometry)
    _check_labels(case, scoring.reference_labels, reference.array, case.reference)
    segmentation = preprocess_segmentation(reference.array, grid, scoring.ignore_label)
    numbers, reduce = scoring.labels, scoring.largest_component
    return {s: published_score(segmentation == numbers[s].reference, mask, segmentation == UNLABELLED, reduce) for s, mask in masks.items()}


def _for_reference(case: EvaluationCase, path: Path, grid: GridMap, reference: Geometry) -> GridMap:
    """`grid` for the reference's own axes, which may run in another order than the CT's over the same voxels."""
    order = AxisOrder.of(reference.affine)
    spacing, shape, expected = order.ordered(reference.spacing_mm), order.ordered(reference.shape), grid.ras_shape
    if shape != expected or not np.allclose(grid.native_spacing_mm, spacing, rtol=1e-3):
        raise DatasetError(
            f"{path} was made for a volume of {expected} voxels, spacing {rounded(grid.native_spacing_mm)} mm (RAS), the reference "
            f"{case.reference} has {shape} voxels, spacing {rounded(spacing)} mm (RAS)",
            case=case.identifier,
            advice="predict the image that the reference was drawn on",
        )
    return grid.model_copy(update={"native_shape": reference.shape, "axes": order.axes, "flips": order.flips})


def _resampled(image: Image, scheme: Scheme) -> np.ndarray:
    """The label map in RAS at the scheme's spacing, not cropped: the crop needs the CT, and takes away air around the patient."""
    array, order = to_ras(image.array, image.geometry.affine)
    return resample_nearest(array, order.ordered(image.geometry.spacing_mm), scheme.spacing_mm)


def _check_pair(case: EvaluationCase, scoring: Scoring, reference: Image, prediction: Image) -> None:
    difference = grid_difference(reference.geometry, prediction.geometry)
    if difference is not None:
        raise DatasetError(
            f"the prediction's grid differs from the reference's: {difference} in {case.prediction}",
            case=case.identifier,
            advice="evaluate predictions on the grid of the image that the reference was drawn on",
        )
    _check_labels(case, scoring.reference_labels, reference.array, case.reference)
    _check_labels(case, scoring.prediction_labels, prediction.array, case.prediction)


def _check_labels(case: EvaluationCase, known: dict[str, int], array: np.ndarray, path: Path) -> None:
    unnamed = sorted(set(label_boxes(array)) - set(known.values()))
    if unnamed:
        raise DatasetError(f"labels {unnamed} in {path} have no name; known: {known}", case=case.identifier, advice="is this the right dataset?")
