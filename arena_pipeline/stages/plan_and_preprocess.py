"""arena_plan_and_preprocess: fingerprint, plans and preprocessed cases in one go."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError
from arena_pipeline.foundations.selection import undecided_foundations
from arena_pipeline.io.dataset import Objective, RawDataset
from arena_pipeline.io.lock import all_locked
from arena_pipeline.model.adapter import RECORD, read_adapter_record
from arena_pipeline.planning import Plans
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.extract_fingerprint import fingerprint_dataset
from arena_pipeline.stages.plan import WrittenPlans, plan_dataset, planning_basis
from arena_pipeline.stages.preprocess import Preprocessed, preprocess_planned
from arena_pipeline.stages.verify_dataset import require_integrity
from arena_pipeline.words import pluralize
from arena_pipeline.workspace import Workspace, number_of

logger = logging.getLogger(__name__)

PROBE_CASES, PROBE_EPOCHS, PROBE_PATCHES = 5, 4, 2  # minutes on a GPU; so few epochs are a trial, which need not have learned


@plain_arguments
def plan_and_preprocess(
    dataset_ids: Sequence[int],
    workspace: Workspace,
    foundation: str | None = None,
    *,
    device: str = "auto",
    objective: Objective | None = None,
    workers: int | None = None,
    fingerprint_workers: int | None = None,
    verify_dataset_integrity: bool = False,
    clean: bool = False,
) -> list[tuple[WrittenPlans, Preprocessed]]:
    """Makes every dataset ready for adaptation; a second run does only what is missing or outdated.

    Args:
        foundation: a preset's name; None: the most preferred one with weights; of several such the one that suits the structures by their
            names, else the one that a short linear probe fits best.
        device: where networks would run; the reasons in the plans quote its memory and precision.
        objective: instead of the one in dataset.json.
        workers, fingerprint_workers: processes; None: chosen from cores and memory.
        verify_dataset_integrity: first read and check every file, as arena_verify_dataset does, and stop where one can't be used.
        clean: preprocess everything anew.

    Raises:
        ArenaError: as extract_fingerprint, plan and preprocess do; what an earlier step wrote stays.
    """
    names = [workspace.dataset_name(dataset_id) for dataset_id in dataset_ids]  # raises for a wrong number before the hours of work for the others
    basis = planning_basis(workspace, foundation, device, objective, names)  # and for missing weights
    if foundation is None and (rivals := undecided_foundations(workspace, names)):
        before = _planned_before(rivals, names[0], workspace)
        best, reason = before or _by_probe(rivals, names[0], workspace, device) or (basis.preset.name, basis.reason)
        basis = replace(planning_basis(workspace, best, device, objective), reason=reason)
    prepared = []
    with all_locked([workspace.preprocessed_dataset(name) for name in names]):
        for dataset_id, name in zip(dataset_ids, names, strict=True):
            if verify_dataset_integrity:
                require_integrity(dataset_id, workspace, fingerprint_workers)
            raw = RawDataset.open(workspace.raw_dataset(name))
            fingerprint = fingerprint_dataset(raw, workspace.fingerprint(name), basis.preset, fingerprint_workers)
            planned = plan_dataset(raw, fingerprint, basis, workspace)
            prepared.append((planned, preprocess_planned(raw, planned.plans, workspace, workers, clean)))
    return prepared


def _planned_before(rivals: Sequence[str], dataset: str, workspace: Workspace) -> tuple[str, str] | None:
    """The one foundation of these that the dataset has plans for, and the reason given there: it is not tried again."""
    planned = [name for name in rivals if workspace.plans(dataset, name).is_file()]
    return (planned[0], Plans.read(workspace.plans(dataset, planned[0])).reasons["foundation"]) if len(planned) == 1 else None


def _by_probe(rivals: Sequence[str], dataset: str, workspace: Workspace, device: str) -> tuple[str, str] | None:
    """The foundation with the lowest training loss of a linear probe on a few cases, and why; tried in a temporary folder.

    None where it can be tried on none of them, as where a structure vanishes at their spacings: the plans then tell why.
    """
    raw = RawDataset.open(workspace.raw_dataset(dataset))
    whole = [case for case in raw.training.values() if all(raw.json.is_annotated(case.identifier, name) for name in raw.json.structures)]
    cases = (whole or list(raw.training.values()))[:PROBE_CASES]
    annotated = {case.identifier: raw.json.annotated[case.identifier] for case in cases if case.identifier in raw.json.annotated}
    losses = {}
    with TemporaryDirectory(prefix=".probe.", dir=workspace.root) as folder:
        trial = Workspace(Path(folder))
        for part in ("imagesTr", "labelsTr"):
            (trial.raw_dataset(dataset) / part).mkdir(parents=True)
        for case in cases:
            for part, file in (("imagesTr", case.image), ("labelsTr", case.segmentation)):
                if file is not None:
                    (trial.raw_dataset(dataset) / part / file.name).symlink_to(file.resolve())
        raw.json.model_copy(update={"split": {}, "annotated": annotated}).write(trial.raw_dataset(dataset) / "dataset.json")
        trial.foundations.symlink_to(workspace.foundations.resolve())
        for name in rivals:
            logger.info("linear probe of %s, to find the foundation that suits", name)
            try:
                losses[name] = _probe(name, dataset, trial, device)
            except ArenaError as error:
                logger.warning("%s could not be tried: %s", name, error)
    if not losses:
        return None
    best = min(losses, key=lambda name: losses[name])
    tried = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    return best, f"lowest training loss of a linear probe, {pluralize(PROBE_EPOCHS, 'epoch')} on {pluralize(len(cases), 'case')} ({tried})"


def _probe(foundation: str, dataset: str, trial: Workspace, device: str) -> float:
    """The last loss of a short adaptation, the mean over the tasks."""
    number = number_of(dataset)
    ((planned, _),) = plan_and_preprocess([number], trial, foundation, device=device)
    short = planned.plans.adaptation.model_copy(update={"max_epochs": PROBE_EPOCHS, "patches_per_volume": PROBE_PATCHES})
    planned.plans.model_copy(update={"adaptation": short}).write(planned.file)
    shots = min(task.max_shots for task in planned.plans.tasks if task.max_shots)
    model = adapt_dataset(number, shots, trial, folds=[0], foundation=foundation, method="linear_probe", device=device)
    records = [read_adapter_record(path.parent) for path in model.glob(f"*/fold_0/{RECORD}")]
    return sum(record.final_loss for record in records) / len(records)
