"""Which foundation a command means when several are possible."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from arena_pipeline.errors import PlansError
from arena_pipeline.foundations.anatomy import by_anatomy
from arena_pipeline.foundations.presets import FoundationPreset, choose_foundation, foundations_with_weights, load_preset
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.workspace import Workspace, number_of

logger = logging.getLogger(__name__)


def pick_foundation(workspace: Workspace, foundation: str | None, datasets: Sequence[str] = ()) -> tuple[FoundationPreset, str]:
    """The preset named, else the most preferred one with weights, and why it is this one.

    Of several that are preferred alike, such as the parts of TotalSegmentator, the one that suits the structures of `datasets` by their names.
    """
    if foundation is not None:
        return load_preset(foundation, workspace.foundations), f"{foundation} was asked for"
    name, reason = foundation_for_structures(workspace, _structures(workspace, datasets) if len(equally_preferred(workspace)) > 1 else ())
    logger.info("foundation: %s (another one: -foundation NAME)", reason)
    return load_preset(name, workspace.foundations), reason


def foundation_for_structures(workspace: Workspace, structures: Iterable[str]) -> tuple[str, str]:
    """The name of the most preferred foundation with weights, and why; of several such the one that suits the structures by their names."""
    name, reason = choose_foundation(workspace.foundations)
    rivals = equally_preferred(workspace)
    if len(rivals) == 1:
        return name, reason
    return by_anatomy(rivals, structures) or (name, f"{reason}; names do not tell which of {', '.join(rivals)} suits")


def equally_preferred(workspace: Workspace) -> dict[str, FoundationPreset]:
    """The foundations with weights that have the highest preference there is."""
    available = foundations_with_weights(workspace.foundations)
    return {name: load_preset(name, workspace.foundations) for preference, name in available if preference == max(available)[0]}


def undecided_foundations(workspace: Workspace, datasets: Sequence[str]) -> list[str]:
    """Foundations that are preferred alike, between which the structures of `datasets` do not decide by their names; [] where it is decided."""
    rivals = equally_preferred(workspace)
    return list(rivals) if len(rivals) > 1 and by_anatomy(rivals, _structures(workspace, datasets)) is None else []


def _structures(workspace: Workspace, datasets: Sequence[str]) -> list[str]:
    descriptions = [DatasetJson.read(workspace.raw_dataset(one) / "dataset.json") for one in datasets]
    return list(dict.fromkeys(structure for description in descriptions for structure in description.structures))


def planned_foundation(workspace: Workspace, dataset_name: str, foundation: str | None) -> str:
    """The foundation named, else the most preferred one that the dataset has plans for.

    Raises:
        PlansError: there are no such plans; says what to run.
    """
    planned = sorted(path.parent.name for path in workspace.preprocessed_dataset(dataset_name).glob("*/plans.json"))
    number = number_of(dataset_name)
    if foundation is not None and foundation not in planned:
        load_preset(foundation, workspace.foundations)  # an unknown name lists the known ones
        raise PlansError(
            f"{dataset_name} has no plans for {foundation} (it has: {', '.join(planned) or 'none'})",
            advice=f"run {workspace.command('arena_plan_and_preprocess', '-d', number, '-foundation', foundation)}",
        )
    if not planned:
        raise PlansError(f"{dataset_name} has no plans", advice=f"run {workspace.command('arena_plan_and_preprocess', '-d', number)}")
    return foundation or max(planned, key=lambda name: load_preset(name, workspace.foundations).preference)
