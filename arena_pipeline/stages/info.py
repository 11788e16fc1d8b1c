"""arena_info: what is in a workspace, and for each thing the exact command that takes it further."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from arena_pipeline.errors import DatasetError, FoundationError, PlansError
from arena_pipeline.fingerprint.audit import DatasetAudit
from arena_pipeline.foundations import choose_foundation, load_preset, preset_names
from arena_pipeline.foundations.selection import planned_foundation
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.model.attempts import read_failed_attempts
from arena_pipeline.model.nnunet_folder import FoundModel, found_models
from arena_pipeline.planning import Plans
from arena_pipeline.preprocess.dataset import changed_files
from arena_pipeline.share.package import is_installed
from arena_pipeline.words import pluralize
from arena_pipeline.workspace import ADAPTER_RECORD, CHECKPOINT, MODEL_FOLDER, ROI_NAMES, Workspace, fold_folder, fold_folders, number_of

USUAL_SHOTS = 5
USUAL_FOLDS = (0, 1, 2)
NAMES_SHOWN = 5


@dataclass(frozen=True)
class FoundationState:
    """A preset. `weights` says in words where they are; `next_command` installs them, None where they are here."""

    name: str
    title: str
    licence: str
    structures: int
    weights: str
    next_command: str | None


@dataclass(frozen=True)
class PreparedState:
    """A dataset under one foundation: its plans and how many of the cases they need are preprocessed.

    `next_command` is None where all is done and a model below has one, or where no command helps.
    """

    foundation: str
    tasks: int
    cases_stored: int
    cases_needed: int
    problem: str | None
    next_command: str | None


@dataclass(frozen=True)
class DatasetState:
    """A raw dataset. `problem` is what keeps it from being used; `next_command` is None when a preparation below has one."""

    name: str
    training: int
    queries: int
    structures: tuple[str, ...]
    objective: str
    problem: str | None
    prepared: tuple[PreparedState, ...]
    next_command: str | None
    failed_verification: str | None = None


@dataclass(frozen=True)
class ModelState:
    """An adapted model: task -> folds with a whole adapter, and those that are only begun; `installed`: from a package.

    `failed`: task -> fold -> why its adaptation learned nothing in any of its attempts; these are not in `unfinished`.
    `epochs`: of each of `folds`, in their order. `missing`: task -> folds of `USUAL_FOLDS` that nobody has begun.
    `of_other_plans`: those with a whole adapter that does not belong to the plans in the folder.
    """

    dataset: str
    foundation: str
    method: str
    shots: int
    folder: Path
    folds: dict[str, tuple[int, ...]]
    unfinished: dict[str, tuple[int, ...]]
    next_command: str
    installed: bool = False
    of_other_plans: dict[str, tuple[int, ...]] = field(default_factory=dict)
    epochs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    missing: dict[str, tuple[int, ...]] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkspaceReport:
    """The whole workspace."""

    root: Path
    exists: bool
    foundations: tuple[FoundationState, ...]
    default_foundation: str
    datasets: tuple[DatasetState, ...]
    models: tuple[ModelState, ...]
    found_models: tuple[FoundModel, ...] = ()


def info(workspace: Workspace) -> WorkspaceReport:
    """Looks at the workspace and changes nothing in it. What is broken there is reported, never raised.

    Raises:
        DatasetError: the workspace is a file.
    """
    if workspace.root.exists() and not workspace.root.is_dir():
        raise DatasetError("this workspace is a file", file=workspace.root, advice="name a folder with -w")
    default, models = _default_foundation(workspace), tuple(_models(workspace))
    adapted = {(model.dataset, model.foundation) for model in models if not model.installed}
    return WorkspaceReport(
        root=workspace.root,
        exists=workspace.root.is_dir(),
        foundations=tuple(_foundation(workspace, name) for name in preset_names(workspace.foundations)),
        default_foundation=default,
        datasets=tuple(_dataset(workspace, name, default, adapted) for name in workspace.dataset_names()),
        models=models,
        found_models=tuple(found_models(workspace)),
    )


def _default_foundation(workspace: Workspace) -> str:
    try:
        return choose_foundation(workspace.foundations)[0]
    except FoundationError:
        return ""


def _foundation(workspace: Workspace, name: str) -> FoundationState:
    try:
        preset = load_preset(name, workspace.foundations)
    except FoundationError as error:
        return FoundationState(name, str(error), "unknown", 0, "can't be used", None)
    installed = (workspace.installed_foundation(name) / "weights.safetensors").is_file()
    packaged = preset.weights.packaged is not None
    weights = "shipped with the package" if packaged else "installed" if installed else f"not installed; {preset.weights.origin}"
    command = None if packaged or installed else workspace.command("arena_install_foundation", name, preset.weights.expected_file)
    return FoundationState(name, preset.title, preset.licence, len(preset.structures), weights, command)


def _dataset(workspace: Workspace, name: str, default: str, adapted: Collection[tuple[str, str]]) -> DatasetState:
    try:
        raw = RawDataset.open(workspace.raw_dataset(name))
    except DatasetError as error:
        problem, names = str(error), workspace.raw_dataset(name) / ROI_NAMES
        if names.is_file():
            problem = f"waits for {names}: write a structure in place of each ?, or nothing to leave it out, and type arena_convert_dicom again"
        return DatasetState(name, 0, 0, (), "", problem, (), None)
    folder = workspace.preprocessed_dataset(name)
    planned = sorted({p.parent.name for p in folder.glob("*/plans.json")} & set(preset_names(workspace.foundations)))
    prepared = tuple(_prepared(workspace, name, foundation, default, (name, foundation) in adapted) for foundation in planned)
    command = None if prepared else workspace.command("arena_plan_and_preprocess", "-d", number_of(name))
    structures, failed = tuple(raw.json.structures), _failed_verification(workspace, name)
    return DatasetState(name, len(raw.training), len(raw.queries), structures, raw.json.objective, None, prepared, command, failed)


def _failed_verification(workspace: Workspace, name: str) -> str | None:
    """What arena_verify_dataset found that keeps the dataset from being used, in a sentence; None where it found nothing or has not been run."""
    try:
        audit = DatasetAudit.read(workspace.audit(name))
    except PlansError:
        return None
    errors = [finding.sentence for finding in audit.findings if finding.level == "error"]
    return f"verification failed with {pluralize(len(errors), 'error')}, the first: {errors[0]}" if errors else None


def _prepared(workspace: Workspace, name: str, foundation: str, default: str, adapted: bool) -> PreparedState:
    prepare = workspace.command("arena_plan_and_preprocess", *_which(name, foundation, default))
    try:
        plans = Plans.read(workspace.plans(name, foundation))
    except PlansError as error:
        return PreparedState(foundation, 0, 0, 0, str(error), prepare)
    needed = {case for task in plans.tasks for case in task.candidates}
    stored = {p.stem for p in workspace.cases(name, foundation).glob("*.json")} & needed
    shots = [task.max_shots for task in plans.tasks if task.max_shots > 0]
    problem = None
    command: str | None = prepare
    if not shots:
        problem, command = "no structure has enough annotated cases to adapt on; see the reasons in plans.json", None
    elif changed := changed_files(workspace.raw_dataset(name), workspace.cases(name, foundation), sorted(stored)):
        named = f"{', '.join(changed[:NAMES_SHOWN])}{' and others' if len(changed) > NAMES_SHOWN else ''}"
        problem = f"changed after preprocessing, to be preprocessed again: {named}"
    elif stored == needed and adapted:
        command = None  # its model's line says what is next
    elif stored == needed:
        which = _which(name, foundation, planned_foundation(workspace, name, None))
        command = workspace.command("arena_adapt", *which, "-shots", min(USUAL_SHOTS, max(shots)))
    return PreparedState(foundation, len(plans.tasks), len(stored), len(needed), problem, command)


def _models(workspace: Workspace) -> list[ModelState]:
    found = []
    for folder in sorted(workspace.results.glob("Dataset*/*/*")):
        match = MODEL_FOLDER.fullmatch(folder.name)
        folds, unfinished, failed = _folds(folder)
        if match is None or not (folds or unfinished or failed):
            continue
        others = _of_other_plans(folder)
        folds = {task: kept for task, numbers in folds.items() if (kept := tuple(n for n in numbers if n not in others.get(task, ())))}
        dataset, foundation, shots = folder.parts[-3], folder.parts[-2], int(match["shots"])
        method = [] if match["method"] == "arena" else ["-method", match["method"]]
        if again := unfinished or (failed if not folds else {}):
            numbers = sorted({fold for task in again.values() for fold in task})
            words = [*_which(dataset, foundation, ""), "-shots", shots, *method, "-f", *numbers]
            structures = [] if "multiclass" in again else ["--structures", *again]
            how = ["--overwrite"] if not unfinished else ["--continue"] if any(folder.glob(f"*/fold_*/{CHECKPOINT}")) else []
            command = workspace.command("arena_adapt", *words, *structures, *how)
        elif not folds:
            command = workspace.command("arena_adapt", *_which(dataset, foundation, ""), "-shots", shots, *method)
        else:
            command = _install_first(workspace, foundation) or workspace.command("arena_predict", "-i", "in/", "-o", "out/", "-m", str(folder))
        epochs = {task: tuple(_epochs(folder, task, fold) for fold in numbers) for task, numbers in folds.items()}
        groups = (folds, unfinished, others, failed)
        begun = {task: {fold for group in groups for fold in group.get(task, ())} for task in {task for group in groups for task in group}}
        missing = {task: tuple(f for f in USUAL_FOLDS if f not in begun[task]) for task in sorted(begun) if not begun[task] >= set(USUAL_FOLDS)}
        more = (is_installed(folder), others, epochs, missing, failed)
        found.append(ModelState(dataset, foundation, match["method"], shots, folder, folds, unfinished, command, *more))
    return found


def _epochs(model: Path, task: str, fold: int) -> int:
    """How many epochs a fold was adapted for; 0 where its record can't be read."""
    try:
        return int(json.loads((fold_folder(model, task, fold) / ADAPTER_RECORD).read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _of_other_plans(model: Path) -> dict[str, tuple[int, ...]]:
    """Task -> folds whose adapters were made with other plans than the folder's, such as differ in what matters."""
    path = model / "plans.json"
    if not path.is_file() or is_installed(model):  # an installed one was checked whole
        return {}
    digest = file_sha256(path)
    if all(digest in record.read_text(encoding="utf-8", errors="replace") for record in model.glob(f"*/fold_*/{ADAPTER_RECORD}")):
        return {}
    from arena_pipeline.model.model_folder import of_other_plans  # torch takes seconds to import: only where the plans are others

    try:
        return of_other_plans(model, Plans.read(path))
    except PlansError:  # damaged plans: arena_predict says what is wrong with them
        return {}


def _install_first(workspace: Workspace, foundation: str) -> str | None:
    """What brings the weights that a model needs; None where they are here, or nobody knows the foundation."""
    known = foundation in preset_names(workspace.foundations)
    return _foundation(workspace, foundation).next_command if known else None


def _folds(model: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, dict[int, str]]]:
    """Task -> folds that have an adapter's record, folds that were begun only, and folds that failed with the reason of their last attempt."""
    whole: dict[str, tuple[int, ...]] = {}
    begun: dict[str, tuple[int, ...]] = {}
    failed: dict[str, dict[int, str]] = {}
    for task in sorted({folder.parent.name for folder in model.glob("*/fold_*")}):
        for fold, folder in fold_folders(model, task).items():
            if (folder / ADAPTER_RECORD).is_file():
                whole[task] = (*whole.get(task, ()), fold)
            elif (attempts := read_failed_attempts(folder)) is not None and attempts.given_up:
                failed.setdefault(task, {})[fold] = str(attempts.attempts[-1].fault)
            else:
                begun[task] = (*begun.get(task, ()), fold)
    return whole, begun, failed


def _which(dataset_name: str, foundation: str, default: str) -> list[str | int]:
    """The arguments that name a dataset and, unless the command would take it anyway, a foundation."""
    return ["-d", number_of(dataset_name), *([] if foundation == default else ["-foundation", foundation])]
