"""make_plans: from values to a value; no path, no global, nothing asked of the machine here."""

from __future__ import annotations

from typing import Literal

from arena_pipeline.errors import PlansError
from arena_pipeline.fingerprint import Fingerprint
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.dataset import DatasetJson, Objective
from arena_pipeline.io.label_names import BACKGROUND
from arena_pipeline.machine import Machine
from arena_pipeline.planning import memory
from arena_pipeline.planning.fitting import GIB, fit_adaptation, memory_words
from arena_pipeline.planning.models import MULTICLASS_TASK, InferencePlan, Plans, TaskPlan, WorkersPlan
from arena_pipeline.planning.tasks import plan_task

THRESHOLD = 0.5
FOLDS_OF_ALL: Literal["seeds", "leave_one_out"] = "seeds"
FOLDS_OF_ALL_REASON = "every fold has all scans where there are exactly as many as -shots; leave_one_out would say what Dice to expect"
MOST_WINDOWS_ON_DEVICE = 4
MOST_WINDOWS_ON_CPU = 2


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
    }
    chosen, reasons["objective"] = _objective(dataset, objective)
    tasks = _tasks(chosen, fingerprint, preset, dataset, reasons)
    here = fit_adaptation(preset.adaptation, preset, machine)[1]
    reasons["adaptation.micro_batch"] = f"where it is null, arena_adapt decides it by the memory of its own machine; on the one that planned: {here}"
    channels = max((task.out_channels for task in tasks), default=1)
    inference = _inference(preset, machine, channels, reasons)
    workers = _workers(fingerprint, preset, machine, channels, reasons)
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
        workers=workers,
        folds_of_all=FOLDS_OF_ALL,
        reasons=reasons,
    )


def _check_structures(fingerprint: Fingerprint, dataset: DatasetJson) -> None:
    if set(fingerprint.structures) != set(dataset.structures):
        raise PlansError(
            f"{fingerprint.dataset_name}: the fingerprint has the structures {', '.join(fingerprint.structures)}, dataset.json has "
            f"{', '.join(dataset.structures)}; run arena_extract_fingerprint again"
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
    on_cpu = machine.device_memory_bytes is None
    most = MOST_WINDOWS_ON_CPU if on_cpu else MOST_WINDOWS_ON_DEVICE
    window_batch = max(1, min(most, memory.windows_that_fit(preset, machine, channels)))
    limit = f"more than {most} are no faster on a {'CPU' if on_cpu else 'GPU'}" if window_batch == most else "more may not fit"
    published = preset.scheme.nnunet is None
    reasons["inference.overlap"] = "the overlap of the published evaluation" if published else "the overlap that nnU-Net predicts with"
    reasons["inference.window_batch"] = f"windows at once in {memory_words(machine)}; {limit}"
    reasons["inference.threshold"] = "the published threshold of binary tasks; not used by multi-class tasks"
    return InferencePlan(overlap=preset.scheme.overlap, window_batch=window_batch, threshold=THRESHOLD)


def _workers(fingerprint: Fingerprint, preset: FoundationPreset, machine: Machine, channels: int, reasons: dict[str, str]) -> WorkersPlan:
    usable = memory.MAIN_SHARE * machine.memory_bytes

    def fitting(extra_channels: int) -> tuple[int, float]:
        sizes = [memory.case_bytes(case.shape, case.spacing_mm, preset.scheme.spacing_mm, extra_channels) for case in fingerprint.cases.values()]
        return max(1, int(usable / max(sizes, default=1))), max(sizes, default=0) / GIB

    in_memory, case_gib = fitting(0)
    preprocess = max(1, min(machine.cores, in_memory, fingerprint.n_training))
    room = f"cases at once in half of the main memory: {in_memory}, the largest taking about {case_gib:.2f} GiB"
    reasons["workers.preprocess"] = f"the least of cores: {machine.cores}, training cases: {fingerprint.n_training}, {room}"
    if machine.device_memory_bytes is None:
        reasons["workers.export"] = "the network needs the CPU's cores itself: predictions are exported one at a time"
        return WorkersPlan(preprocess=preprocess, export=1)
    in_memory, case_gib = fitting(channels)
    export = max(1, min(machine.cores, in_memory))
    room = f"predictions at once in half of the main memory: {in_memory}, the largest taking about {case_gib:.2f} GiB"
    reasons["workers.export"] = f"the lesser of cores: {machine.cores}, {room}"
    return WorkersPlan(preprocess=preprocess, export=export)
