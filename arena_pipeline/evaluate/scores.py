"""From two label maps to scores per structure, and from scores to nnU-Net's summary and to a table.

Absent is NaN and says so: every score has a status, and a mean is over the scores that exist. What one number means:

    status          Dice, IoU, NSD   HD95   volume error ml / percent
    scored          in [0, 1]        mm     signed
    missed          0                NaN    minus the reference's volume / -100
    false_positive  0                NaN    plus the prediction's volume / NaN
    absent          NaN              NaN    NaN
    not_annotated   NaN              NaN    NaN                           (the counts too)

So a missed structure lowers the mean Dice and NSD; HD95 has no value there (one infinite value would erase all others from
the mean), which is why the table gives the number of missed and false positive cases beside it, and beside "Dice", where a false
positive counts as 0, "Dice_present", the mean over the cases whose reference has the structure.

A case that the model was adapted on is scored, marked, and left out of the means, unless they are asked to include it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from arena_pipeline.evaluate.metrics import STATUSES, Overlap, Status, largest_component, overlap, volume_error
from arena_pipeline.evaluate.surface import surface_distances
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.labels import label_boxes

Protocol = Literal["native", "published"]
COUNTS = ("TP", "FP", "FN", "TN", "n_pred", "n_ref")
METRICS: dict[Protocol, tuple[str, ...]] = {
    "native": ("Dice", "IoU", *COUNTS, "NSD_1mm", "NSD_2mm", "HD95_mm", "volume_error_ml", "volume_error_percent"),
    "published": ("Dice", *COUNTS),
}
FOREGROUND_AVERAGE = "all structures"
IN_SUPPORT = "in_support"


@dataclass(frozen=True)
class StructureScore:
    """One structure of one case.

    Attributes:
        metrics: with the protocol's METRICS as keys; nnU-Net's names where it has the metric.
        in_support: whether the model was adapted on this case.
    """

    case: str
    structure: str
    status: Status
    metrics: dict[str, float]
    in_support: bool = False


@dataclass(frozen=True)
class LabelPair:
    """The integer of one structure in the reference and in the prediction."""

    reference: int
    prediction: int


def native_scores(
    reference: np.ndarray, prediction: np.ndarray, labels: dict[str, LabelPair], grid: Geometry, ignore_label: int | None = None
) -> dict[str, tuple[Status, dict[str, float]]]:
    """Status and all native metrics of every structure in `labels`.

    Args:
        reference, prediction: (x, y, z) integer, on one grid.
        grid: of both; its volume per voxel is |det| of the affine, also where the axes are not at right angles.
        ignore_label: the reference's integer of voxels that nobody annotated: no count has them, and a structure beside one has no surface
            distances, since its surface there is unknown.
    """
    unlabelled = np.zeros((1, 1, 1), bool) if ignore_label is None else reference == ignore_label
    if unlabelled.any():
        prediction = np.where(unlabelled, 0, prediction)
    annotated = reference.size - int(np.count_nonzero(unlabelled))
    reference_boxes, prediction_boxes = label_boxes(reference), label_boxes(prediction)
    scores = {}
    for structure, label in labels.items():
        box = _union(reference_boxes.get(label.reference), prediction_boxes.get(label.prediction))
        reference_mask, prediction_mask = reference[box] == label.reference, prediction[box] == label.prediction
        counts = overlap(reference_mask, prediction_mask, outside=annotated - reference_mask.size)
        around = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        distances = None if unlabelled[around].any() else surface_distances(reference_mask, prediction_mask, grid.spacing_mm)
        error_ml, error_percent = volume_error(counts, grid.voxel_volume_ml)
        scores[structure] = (
            counts.status,
            {
                "Dice": counts.dice,
                "IoU": counts.iou,
                **count_metrics(counts),
                "NSD_1mm": math.nan if distances is None else distances.nsd(1.0),
                "NSD_2mm": math.nan if distances is None else distances.nsd(2.0),
                "HD95_mm": math.nan if distances is None else distances.hd95(),
                "volume_error_ml": error_ml,
                "volume_error_percent": error_percent,
            },
        )
    return scores


def published_score(
    reference: np.ndarray, prediction: np.ndarray, unlabelled: np.ndarray | None = None, reduce: bool = False
) -> tuple[Status, dict[str, float]]:
    """Status and the published protocol's metrics of two boolean masks on the preprocessed grid.

    Args:
        unlabelled: voxels that nobody annotated, which are not counted.
        reduce: the reference to its largest component, as the protocol has it for binary tasks; not where voxels are unlabelled, since pieces
            may hang together there.
    """
    if unlabelled is not None and unlabelled.any():
        counts = overlap(reference[~unlabelled], prediction[~unlabelled])
    else:
        counts = overlap(largest_component(reference) if reduce else reference, prediction)
    return counts.status, {"Dice": counts.published_dice, **count_metrics(counts)}


def not_annotated_metrics(protocol: Protocol) -> dict[str, float]:
    """The metrics of a structure that nobody looked for: all NaN."""
    return dict.fromkeys(METRICS[protocol], math.nan)


def count_metrics(counts: Overlap) -> dict[str, float]:
    """The voxel counts in nnU-Net's words."""
    return {
        "TP": counts.true_positives,
        "FP": counts.false_positives,
        "FN": counts.false_negatives,
        "TN": counts.true_negatives,
        "n_pred": counts.prediction_voxels,
        "n_ref": counts.reference_voxels,
    }


def summarise(
    scores: Sequence[StructureScore], labels: dict[str, int], files: dict[str, tuple[str, str]], protocol: Protocol, include_support: bool = False
) -> dict[str, Any]:
    """nnU-Net's summary.json: foreground_mean, mean per label, metric_per_case; and the status of every score.

    Labels are keyed by their integer in the reference, as text, as nnU-Net does. A label that is not evaluated in a case (not
    annotated, or a training case of that structure) has NaN there.

    Args:
        labels: structure -> integer in the reference, of the evaluated structures.
        files: case -> (reference file, prediction file).
        include_support: whether the means include cases that the model was adapted on.
    """
    by_key = {(score.case, score.structure): score for score in scores}
    empty = not_annotated_metrics(protocol)
    mean = {}
    for structure, label in labels.items():
        values = [score.metrics for score in scores if score.structure == structure and (include_support or not score.in_support)]
        mean[str(label)] = {metric: _mean([v[metric] for v in values]) for metric in METRICS[protocol]}
    per_case = []
    for case, (reference_file, prediction_file) in files.items():
        found = {str(label): by_key.get((case, structure)) for structure, label in labels.items()}
        per_case.append(
            {
                "reference_file": reference_file,
                "prediction_file": prediction_file,
                "metrics": {label: score.metrics if score else empty for label, score in found.items()},
                "status": {label: score.status if score else "not_evaluated" for label, score in found.items()},
                IN_SUPPORT: {label: score is not None and score.in_support for label, score in found.items()},
            }
        )
    return {
        "foreground_mean": {metric: _mean([m[metric] for m in mean.values()]) for metric in METRICS[protocol]},
        "mean": mean,
        "metric_per_case": per_case,
        "structures": {str(label): structure for structure, label in labels.items()},
        "means_include_support": include_support,
    }


def score_table(scores: Sequence[StructureScore], protocol: Protocol) -> pd.DataFrame:
    """One row per case and structure: case, structure, status, in_support, then the metrics; counts as whole numbers, empty where there is none."""
    rows = [{"case": s.case, "structure": s.structure, "status": s.status, IN_SUPPORT: s.in_support, **s.metrics} for s in scores]
    table = pd.DataFrame(rows, columns=["case", "structure", "status", IN_SUPPORT, *METRICS[protocol]])
    return table.astype({**dict.fromkeys(COUNTS, "Int64"), IN_SUPPORT: bool})


def structure_table(scores: Sequence[StructureScore], protocol: Protocol, include_support: bool = False) -> pd.DataFrame:
    """One row per structure: mean and median Dice, the means of the other measures, and the number of cases of each status.

    "Dice" counts a false positive as 0; "Dice_present" is over the cases whose reference has the structure. "in_support" counts the
    cases that the model was adapted on and that are left out of all else. The last row, when there are several structures,
    averages the structures' values and adds up their cases.
    """
    table = score_table(scores, protocol)
    measures = [m for m in METRICS[protocol] if m not in COUNTS]
    if not include_support:
        table["status"] = table["status"].where(~table[IN_SUPPORT], IN_SUPPORT)
        table[measures] = table[measures].where(~table[IN_SUPPORT])
    table["Dice_present"] = table["Dice"].where(table["status"].isin(["scored", "missed"]))
    grouped = table.groupby("structure", sort=False)
    result = grouped[measures].mean()
    result.insert(1, "Dice_median", grouped["Dice"].median())
    result.insert(2, "Dice_present", grouped["Dice_present"].mean())
    numbers = [*STATUSES, IN_SUPPORT]
    for status in numbers:
        result[status] = grouped["status"].apply(lambda column, status=status: int((column == status).sum()))
    if len(result) > 1:
        averages = result.mean()
        averages[numbers] = result[numbers].sum()
        result.loc[FOREGROUND_AVERAGE] = averages
    return result.astype(dict.fromkeys(numbers, int))


def nothing_scored(scores: Sequence[StructureScore], include_support: bool = False) -> str | None:
    """In a sentence why there is no mean at all; None where there is one."""
    numbers = Counter(IN_SUPPORT if s.in_support and not include_support else s.status for s in scores)
    if any(numbers[status] for status in ("scored", "missed", "false_positive")):
        return None
    reasons = {"absent": "in neither segmentation", "not_annotated": "not annotated", IN_SUPPORT: "in the support set, left out of the means"}
    found = ", ".join(f"{numbers[status]} {reason}" for status, reason in reasons.items() if numbers[status])
    return f"nothing was scored, so there are no means: of {len(scores)} structures in all cases, {found}"


def _union(one: tuple[slice, ...] | None, other: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """The smallest box around two boxes; an empty one where there is neither."""
    if one is None or other is None:
        return one or other or (slice(0, 0),) * 3
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _mean(values: Sequence[float]) -> float:
    """Of the values that exist; NaN where none does."""
    existing = [value for value in values if not math.isnan(value)]
    return float(np.mean(existing)) if existing else math.nan
