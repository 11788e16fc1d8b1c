"""Which foundation a command means when several are possible."""

from __future__ import annotations

import logging

from arena_pipeline.errors import PlansError
from arena_pipeline.foundations import FoundationPreset, choose_foundation, load_preset
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


def pick_foundation(workspace: Workspace, foundation: str | None) -> tuple[FoundationPreset, str]:
    """The preset named, else the most preferred one with weights, and why it is this one."""
    if foundation is not None:
        return load_preset(foundation, workspace.foundations), f"{foundation} was asked for"
    name, reason = choose_foundation(workspace.foundations)
    logger.info("foundation: %s (another one: -foundation NAME)", reason)
    return load_preset(name, workspace.foundations), reason


def planned_foundation(workspace: Workspace, dataset_name: str, foundation: str | None) -> str:
    """The foundation named, else the most preferred one that the dataset has plans for.

    Raises:
        PlansError: there are no such plans; says what to run.
    """
    folder = workspace.preprocessed_dataset(dataset_name)
    planned = sorted(path.parent.name for path in folder.glob("*/plans.json")) if folder.is_dir() else []
    number = int(dataset_name[7:10])
    if foundation is not None and foundation not in planned:
        load_preset(foundation, workspace.foundations)  # an unknown name lists the known ones
        raise PlansError(
            f"{dataset_name} has no plans for {foundation} (it has: {', '.join(planned) or 'none'})",
            advice=f"run {workspace.command('arena_plan_and_preprocess', '-d', number, '-foundation', foundation)}",
        )
    if not planned:
        raise PlansError(f"{dataset_name} has no plans", advice=f"run {workspace.command('arena_plan_and_preprocess', '-d', number)}")
    return foundation or max(planned, key=lambda name: load_preset(name, workspace.foundations).preference)
