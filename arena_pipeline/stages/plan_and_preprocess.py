"""arena_plan_and_preprocess: fingerprint, plans and preprocessed cases in one go."""

from __future__ import annotations

from collections.abc import Sequence

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.io.dataset import Objective, RawDataset
from arena_pipeline.io.lock import all_locked
from arena_pipeline.stages.extract_fingerprint import fingerprint_dataset
from arena_pipeline.stages.plan import WrittenPlans, plan_dataset, planning_basis
from arena_pipeline.stages.preprocess import Preprocessed, preprocess_planned
from arena_pipeline.stages.verify_dataset import require_integrity
from arena_pipeline.workspace import Workspace


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
        foundation: a preset's name; None: the most preferred one with weights.
        device: where networks will run; its memory decides the size of the micro-batches.
        objective: instead of the one in dataset.json.
        workers, fingerprint_workers: processes; None: chosen from cores and memory.
        verify_dataset_integrity: first read and check every file, as arena_verify_dataset does, and stop where one can't be used.
        clean: preprocess everything anew.

    Raises:
        ArenaError: as extract_fingerprint, plan and preprocess do; what an earlier step wrote stays.
    """
    names = [workspace.dataset_name(dataset_id) for dataset_id in dataset_ids]  # a wrong number is told before the hours of work for the others
    basis = planning_basis(workspace, foundation, device, objective)  # and so are missing weights
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
