"""make_plans: from values to a value. It reads no file, and the machine is an argument."""

from __future__ import annotations

from typing import Literal

from arena_pipeline.errors import PlansError
from arena_pipeline.fingerprint import Fingerprint
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.dataset import DatasetJson, Objective
from arena_pipeline.io.label_names import BACKGROUND
from arena_pipeline.machine import Machine
from arena_pipeline.planning.fitting import fit_adaptation, fit_windows, precision_reason
from arena_pipeline.planning.models import MULTICLASS_TASK, InferencePlan, Plans, TaskPlan, WorkersPlan
from arena_pipeline.planning.tasks import plan_task

THRESHOLD = 0.5
FOLDS_OF_ALL: Literal["seeds", "leave_one_out"] = "seeds"
FOLDS_OF_ALL_REASON = "every fold has all scans where there are exactly as many as -shots; leave_one_out would say what Dice to expect"


def make_plans(
    fingerprint: Fingerprint,
    preset: FoundationPreset,
    foundation_sha256: str,
    dataset: DatasetJson,
    machine: Machine,
    objective: Objective | None = None,
) -> Plans:
    """Decides everything that an adaptation and a prediction need to know.

    Args:
        foundation_sha256: of the weights file.
        objective: instead of the one in dataset.json.

    Raises:
        PlansError: the fingerprint was made for another list of structures than dataset.json has.
    """
    _check_structures(fingerprint, dataset)
    reasons = {
        "foundation": f"{preset.name} was named",
        "labels": "as in dataset.json",
        "scheme": f"the pre-processing that {preset.name} was pre-trained with",
        "adaptation": f"the settings in the preset of {preset.name}, else the published ones",
        "workers": "where they are null, the machine that does the work decides by its cores and by the memory that is free then",
    }
    chosen, reasons["objective"] = _objective(dataset, objective)
    tasks = _tasks(chosen, fingerprint, preset, dataset, reasons)
    here = fit_adaptation(preset.adaptation, preset, machine)[1]
    reasons["adaptation.micro_batch"] = f"where it is null, arena_adapt decides it by the memory of its own machine; on the one that planned: {here}"
    reasons["adaptation.precision"] = precision_reason(machine)
    channels = max((task.out_channels for task in tasks), default=1)
    inference = _inference(preset, machine, channels, reasons)
    reasons["folds_of_all"] = FOLDS_OF_ALL_REASON
    return Plans(
        dataset_name=fingerprint.dataset_name,
        foundation=preset.name,
        foundation_sha256=foundation_sha256,
        objective=chosen,
        labels={BACKGROUND: 0, **dataset.structures},
        scheme=preset.scheme,
        tasks=tasks,
        adaptation=preset.adaptation,
        inference=inference,
        workers=WorkersPlan(),
        folds_of_all=FOLDS_OF_ALL,
        reasons=reasons,
    )


def _check_structures(fingerprint: Fingerprint, dataset: DatasetJson) -> None:
    if set(fingerprint.structures) != set(dataset.structures):
        raise PlansError(
            f"{fingerprint.dataset_name}: the fingerprint has the structures {', '.join(fingerprint.structures)}, dataset.json has "
            f"{', '.join(dataset.structures)}",
            advice="run arena_extract_fingerprint again",
        )


def _objective(dataset: DatasetJson, wanted: Objective | None) -> tuple[Objective, str]:
    if wanted is not None and wanted != dataset.objective:
        return wanted, f"asked for, instead of {dataset.objective} in dataset.json"
    if "objective" in dataset.model_fields_set:
        return dataset.objective, "as in dataset.json"
    return dataset.objective, "dataset.json names no other, as nnU-Net's never does: one multi-class task"


def _tasks(
    objective: Objective, fingerprint: Fingerprint, preset: FoundationPreset, dataset: DatasetJson, reasons: dict[str, str]
) -> tuple[TaskPlan, ...]:
    if objective == "binary":
        groups = {name: {name: label} for name, label in dataset.structures.items()}
    else:
        groups = {MULTICLASS_TASK: dataset.structures}
    tasks = []
    for name, structures in groups.items():
        task, why = plan_task(name, structures, fingerprint, preset, dataset)
        tasks.append(task)
        reasons.update({f"tasks.{name}.{field}": sentence for field, sentence in why.items()})
    return tuple(tasks)


def _inference(preset: FoundationPreset, machine: Machine, channels: int, reasons: dict[str, str]) -> InferencePlan:
    inference = InferencePlan(overlap=preset.scheme.overlap, threshold=THRESHOLD)
    windows, here = fit_windows(inference, preset, machine, channels)
    published = preset.scheme.nnunet is None
    reasons["inference.overlap"] = "the overlap of the published evaluation" if published else "the overlap that nnU-Net predicts with"
    decided = "where it is null, arena_predict decides it by the memory of its own machine"
    reasons["inference.window_batch"] = f"{decided}; on the one that planned: {windows}, {here}"
    reasons["inference.threshold"] = "the published threshold of binary tasks; not used by multi-class tasks"
    reasons["inference.precision"] = precision_reason(machine)
    return inference
