"""arena_plan_and_preprocess: fingerprint, plans and preprocessed cases in one go."""

from __future__ import annotations

from collections.abc import Sequence

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.foundations import weights_file
from arena_pipeline.io.dataset import Objective
from arena_pipeline.io.lock import all_locked
from arena_pipeline.stages.extract_fingerprint import extract_fingerprint
from arena_pipeline.stages.plan import WrittenPlans, pick_foundation, plan
from arena_pipeline.stages.preprocess import Preprocessed, preprocess
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
    preset, reason = pick_foundation(workspace, foundation)
    weights_file(preset, workspace.installed_foundation(preset.name))  # missing weights are told before the hours of work
    prepared = []
    with all_locked([workspace.preprocessed_dataset(name) for name in names]):
        for dataset_id in dataset_ids:
            if verify_dataset_integrity:
                require_integrity(dataset_id, workspace, fingerprint_workers)
            extract_fingerprint([dataset_id], workspace, foundation=preset.name, workers=fingerprint_workers)
            (planned,) = plan([dataset_id], workspace, preset.name, device, objective, reason)
            (stored,) = preprocess([dataset_id], workspace, preset.name, workers, clean)
            prepared.append((planned, stored))
    return prepared
