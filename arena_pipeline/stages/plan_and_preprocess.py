"""arena_plan_and_preprocess: fingerprint, plans and preprocessed cases in one go."""

from __future__ import annotations

from collections.abc import Sequence

from arena_pipeline.foundations import weights_file
from arena_pipeline.io.dataset import Objective
from arena_pipeline.stages.extract_fingerprint import extract_fingerprint
from arena_pipeline.stages.plan import Planned, pick_foundation, plan
from arena_pipeline.stages.preprocess import Preprocessed, preprocess
from arena_pipeline.workspace import Workspace


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
) -> list[tuple[Planned, Preprocessed]]:
    """Makes every dataset ready for adaptation; a second run does only what is missing or outdated.

    Args:
        foundation: a preset's name; None: the most preferred one with weights.
        device: where networks will run; its memory decides the size of the micro-batches.
        objective: instead of the one in dataset.json.
        workers, fingerprint_workers: processes; None: chosen from cores and memory.
        verify_dataset_integrity: read and check every case again, although its files have not changed.
        clean: preprocess everything anew.

    Raises:
        ArenaError: as extract_fingerprint, plan and preprocess do; what an earlier step wrote stays.
    """
    for dataset_id in dataset_ids:
        workspace.dataset_name(dataset_id)  # a wrong number is told before the hours of work for the others
    preset, reason = pick_foundation(workspace, foundation)
    weights_file(preset, workspace.installed_foundation(preset.name))  # missing weights are told before the hours of work
    prepared = []
    for dataset_id in dataset_ids:
        extract_fingerprint([dataset_id], workspace, foundation=preset.name, workers=fingerprint_workers, clean=verify_dataset_integrity)
        (planned,) = plan([dataset_id], workspace, preset.name, device, objective, reason)
        (stored,) = preprocess([dataset_id], workspace, preset.name, workers, clean)
        prepared.append((planned, stored))
    return prepared
