"""Which adapted model predicts, and what it needs: the finished folds of its tasks."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from arena_pipeline.errors import AdapterError, UnknownStructure
from arena_pipeline.foundations import Scheme
from arena_pipeline.model.adapter import RECORD, TENSORS, AdapterRecord, read_adapter_record
from arena_pipeline.model.attempts import was_given_up
from arena_pipeline.planning import InferencePlan, Plans
from arena_pipeline.words import listed, names_to_choose
from arena_pipeline.workspace import DATASET_FOLDER, MODEL_FOLDER, Workspace, fold_folder, fold_folders, number_of

logger = logging.getLogger(__name__)

DEFAULT_METHOD = "arena"


@dataclass(frozen=True)
class ModelFolder:
    """A folder results/DATASET/FOUNDATION/METHOD_Kshots with at least one finished fold."""

    path: Path
    dataset_id: int
    foundation: str
    method: str
    shots: int

    @property
    def options(self) -> dict[str, int | str]:
        """What a command is told to choose it."""
        return {"-d": self.dataset_id, "-shots": self.shots, "-foundation": self.foundation, "-method": self.method}


@dataclass(frozen=True)
class AdaptedTask:
    """One task with the folders of its finished folds."""

    record: AdapterRecord
    folds: dict[int, Path]


@dataclass(frozen=True)
class AdaptedModel:
    """All that one model folder predicts with.

    The task, its channels and the scheme are the adapters' own; overlap, threshold, workers and post-processing are read
    from the folder's plans.json, where they may be edited after adaptation.
    """

    path: Path
    foundation: str
    scheme: Scheme
    inference: InferencePlan
    export_workers: int | None
    keep_largest: dict[str, bool]
    tasks: tuple[AdaptedTask, ...]


def list_models(workspace: Workspace) -> list[ModelFolder]:
    """The adapted models in the workspace's results, sorted by path."""
    found = []
    for path in sorted(workspace.results.glob("*/*/*")):
        dataset, name = DATASET_FOLDER.fullmatch(path.parent.parent.name), MODEL_FOLDER.fullmatch(path.name)
        if dataset and name and any(path.glob(f"*/fold_*/{RECORD}")):
            found.append(ModelFolder(path, int(dataset.group(1)), path.parent.name, name["method"], int(name["shots"])))
    return found


def choose_model(
    workspace: Workspace, command: str, dataset_id: int | None, shots: int | None, foundation: str | None, method: str = DEFAULT_METHOD
) -> Path:
    """The one model adapted by `method` that fits; None stands for any.

    Args:
        command: what the user typed without the choice, to which the error adds each possible one.

    Raises:
        AdapterError: none fits (says what to run), or several do (lists the command for each).
    """
    asked = {"-d": dataset_id, "-shots": shots, "-foundation": foundation, "-method": method}
    models = list_models(workspace)
    fitting = [model for model in models if all(wanted in (None, model.options[name]) for name, wanted in asked.items())]
    if len(fitting) == 1:
        return fitting[0].path
    if fitting:
        commands = "; ".join(f"{command} {_arguments(model, models)}" for model in fitting)
        raise AdapterError(f"{len(fitting)} adapted models fit", advice=f"choose one with its command: {commands}")
    to_run = _to_run(workspace, dataset_id, shots, foundation, method)
    if models:
        commands = "; ".join(f"{command} {_arguments(model, models)}" for model in models)
        words = ", ".join(f"{'dataset' if name == '-d' else name[1:]} {wanted}" for name, wanted in asked.items() if wanted is not None)
        raise AdapterError(f"no adapted model with {words} in {workspace.results}", advice=f"{to_run}. There are: {commands}")
    raise AdapterError(f"no adapted model in {workspace.results}", advice=f"{to_run}. Without adapting: --zero_shot STRUCTURE")


def _arguments(model: ModelFolder, models: Sequence[ModelFolder]) -> str:
    """The fewest options that single this model out."""
    alike = [other.options for other in models if other.method == model.method]
    for names in (["-d"], ["-d", "-shots"], ["-d", "-foundation"], ["-d", "-shots", "-foundation"]):
        wanted = {name: model.options[name] for name in names}
        if sum(wanted.items() <= options.items() for options in alike) == 1:
            return " ".join([*(f"{name} {value}" for name, value in wanted.items()), *_method_option(model.method)])
    return f"-m {shlex.quote(str(model.path))}"


def _method_option(method: str) -> list[str]:
    return [] if method == DEFAULT_METHOD else ["-method", method]


def _to_run(workspace: Workspace, dataset_id: int | None, shots: int | None, foundation: str | None, method: str) -> str:
    known = [number_of(name) for name in workspace.dataset_names()]
    number = dataset_id if dataset_id is not None else known[0] if len(known) == 1 else "NUMBER"
    named = [] if foundation is None else ["-foundation", foundation]
    prepare = workspace.command("arena_plan_and_preprocess", "-d", number, *named)
    adapt = workspace.command("arena_adapt", "-d", number, "-shots", shots or 5, *named, *_method_option(method))
    if not known:
        return f"put a dataset into {workspace.raw}, then run: {prepare} and {adapt}"
    planned = any(workspace.preprocessed.glob(f"Dataset{number:03d}_*/{foundation or '*'}/plans.json")) if isinstance(number, int) else False
    return f"run: {adapt}" if planned else f"run: {prepare}, then {adapt}"


def load_model(path: Path, folds: Sequence[int] | None = None, structures: Sequence[str] | None = None) -> AdaptedModel:
    """Reads a model folder's plans and the records of its folds.

    Args:
        folds: those to average; None: all that are finished and were made with these plans, or with plans that differ in nothing that matters here.
        structures: those wanted; None: all.

    Raises:
        AdapterError: not a model folder, a fold is missing, or folds that don't belong together.
        UnknownStructure: a structure that the plans do not have.
    """
    if not (path / "plans.json").is_file():
        raise AdapterError(
            "not a model folder (no plans.json in it)", file=path, advice="expected WORKSPACE/results/DATASET/FOUNDATION/METHOD_Kshots"
        )
    plans = Plans.read(path / "plans.json")
    others = of_other_plans(path, plans)
    tasks, left_out = [], []
    wanted = _wanted_tasks(plans, structures, others)
    if failed := {name: numbers for name in wanted if (numbers := _failed_folds(path, name))}:
        logger.warning("left out, their adaptation has not learned: %s", folds_in_words(failed))
    for name in wanted:
        finished = _finished_folds(path, name)
        usable = {fold: place for fold, place in finished.items() if fold not in others.get(name, ())}
        if structures is None and not usable:
            left_out += [] if finished else [name]
            continue
        tasks.append(_task(path, plans, name, usable if usable and folds is None else finished, folds))
    if not tasks:
        for task, numbers in others.items():
            folder = fold_folder(path, task, numbers[0])
            check_same_plans(read_adapter_record(folder), folder, plans, path / "plans.json")
        raise AdapterError("no finished fold", file=path, advice="run arena_adapt to its end")
    if left_out:
        logger.info("not adapted, so not predicted: %s", listed(left_out))
    if not_used := {task: numbers for task, numbers in others.items() if structures is None or task in wanted}:
        logger.warning("left out, adapted with other plans than %s: %s", path / "plans.json", folds_in_words(not_used))
    _check_alike(path, tasks)
    first = tasks[0].record
    keep_largest = {name: flag for task in plans.tasks for name, flag in task.keep_largest.items()}
    return AdaptedModel(path, first.foundation, first.scheme, plans.inference, plans.workers.export, keep_largest, tuple(tasks))


def of_other_plans(model: Path, plans: Plans) -> dict[str, tuple[int, ...]]:
    """Task -> folds in a model folder whose finished adapters do not belong to `plans`: `check_same_plans` would refuse them.

    Records that can't be read are not among them.
    """
    found: dict[str, tuple[int, ...]] = {}
    for task in sorted({path.parents[1].name for path in model.glob(f"*/fold_*/{RECORD}")}):
        for fold, folder in _finished_folds(model, task).items():
            with suppress(AdapterError):
                if _differences(read_adapter_record(folder), folder, plans):
                    found[task] = (*found.get(task, ()), fold)
    return found


def folds_in_words(folds: dict[str, tuple[int, ...]]) -> str:
    """liver, fold 0; spleen, folds 0, 1."""
    return "; ".join(f"{task}, fold{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}" for task, numbers in folds.items())


def _wanted_tasks(plans: Plans, structures: Sequence[str] | None, others: dict[str, tuple[int, ...]]) -> list[str]:
    if structures is None:
        return [task.name for task in plans.tasks]
    owner = {structure: task.name for task in plans.tasks for structure in task.structures}
    if unknown := [structure for structure in structures if structure not in owner]:
        older = f"; left out, adapted with other plans than those of now: {folds_in_words(others)}" if others else ""
        has = names_to_choose(unknown, list(owner), f"the model of {plans.dataset_name} has")
        raise UnknownStructure(f"unknown structure {', '.join(unknown)}", advice=f"{has}{older}")
    return list(dict.fromkeys(owner[structure] for structure in structures))


def _finished_folds(path: Path, task: str) -> dict[int, Path]:
    return {fold: folder for fold, folder in fold_folders(path, task).items() if (folder / RECORD).is_file()}


def _failed_folds(path: Path, task: str) -> tuple[int, ...]:
    """Those without an adapter whose adaptation was given up."""
    begun = {fold: folder for fold, folder in fold_folders(path, task).items() if not (folder / RECORD).is_file()}
    return tuple(fold for fold, folder in begun.items() if was_given_up(folder))


def _task(path: Path, plans: Plans, name: str, finished: dict[int, Path], folds: Sequence[int] | None) -> AdaptedTask:
    chosen = dict(finished) if folds is None else {fold: finished[fold] for fold in folds if fold in finished}
    missing = [] if folds is None else [fold for fold in folds if fold not in finished]
    if missing or not chosen:
        there = ", ".join(map(str, finished)) or "none"
        wanted = f"fold {', '.join(map(str, missing))} is" if missing else "any fold is"
        folder = fold_folder(path, name, 0).parent
        there += "; failed, not learned: " + ", ".join(map(str, failed)) if (failed := _failed_folds(path, name)) else ""
        raise AdapterError(f"{name}: {wanted} not adapted in {folder} (finished: {there})", advice="run arena_adapt for it, or choose with -f")
    if lost := [str(folder / TENSORS) for folder in chosen.values() if not (folder / TENSORS).is_file()]:
        raise AdapterError(f"{name}: {', '.join(lost)} is missing", advice="run arena_adapt for this fold again, with --overwrite")
    records = [read_adapter_record(folder) for folder in chosen.values()]
    for folder, record in zip(chosen.values(), records, strict=True):
        check_same_plans(record, folder, plans, path / "plans.json")
    if any((other.structures, other.activation) != (records[0].structures, records[0].activation) for other in records):
        raise AdapterError(f"{name}: its folds in {path / name} have different structures", advice="adapt them again from one plan")
    if any(other.settings != records[0].settings for other in records):
        logger.warning("%s: folds %s were adapted with different settings and are averaged all the same", name, ", ".join(map(str, chosen)))
    return AdaptedTask(records[0], chosen)


def check_same_plans(record: AdapterRecord, folder: Path, plans: Plans, plans_file: Path) -> None:
    """Checks what an adapter's output means, and how its input is prepared, against the plans beside it.

    Raises:
        AdapterError: the adapter in `folder` was made with other plans; names both, and each decision that differs.
    """
    if differing := _differences(record, folder, plans):
        where = f"the adapter of {record.dataset_name}/{record.task} for {record.foundation} was made with other plans"
        here = f"than {plans_file} of {plans.dataset_name} for {plans.foundation}"
        found = f"{where} (SHA-256 {record.plans_sha256[:12]}...) {here}: {'; '.join(differing)}"
        raise AdapterError(found, file=folder, advice="run arena_adapt for it again")


def _differences(record: AdapterRecord, folder: Path, plans: Plans) -> list[str]:
    """Each decision, in words, in which `plans` are not those that the adapter in `folder` needs."""
    task = next((task for task in plans.tasks if task.name == record.task), None)
    decisions = {
        "dataset_name": (record.dataset_name, plans.dataset_name),
        "foundation": (record.foundation, plans.foundation),
        "foundation_sha256": (record.foundation_sha256, plans.foundation_sha256),
        "labels": (record.dataset_labels, plans.labels),
        "scheme": (record.scheme, plans.scheme),
        f"structures of {record.task}": (record.structures, task.structures if task is not None else None),
        "task": (record.task, folder.parent.name),
    }
    return [f"{name} {made} there, {planned} here" for name, (made, planned) in decisions.items() if made != planned]


def _check_alike(path: Path, tasks: list[AdaptedTask]) -> None:
    for task in tasks[1:]:
        if (task.record.foundation, task.record.scheme) != (tasks[0].record.foundation, tasks[0].record.scheme):
            names = f"{task.record.task} and {tasks[0].record.task}"
            raise AdapterError(f"{names} in {path} come from different foundations or schemes", advice="adapt one of them again")
