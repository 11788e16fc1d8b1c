"""arena_plan: fingerprint and foundation -> plans.json."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError, PlansError
from arena_pipeline.fingerprint import Finding, Fingerprint, dataset_digest
from arena_pipeline.foundations import FoundationPreset, load_preset, weights_file
from arena_pipeline.foundations.selection import pick_foundation
from arena_pipeline.io.dataset import Objective, RawDataset
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.json_files import differences
from arena_pipeline.io.lock import locked
from arena_pipeline.machine import Machine, this_machine
from arena_pipeline.model.device import pick_device
from arena_pipeline.planning import Plans, make_plans
from arena_pipeline.planning.tasks import partly_annotated
from arena_pipeline.records import stage
from arena_pipeline.words import listed
from arena_pipeline.workspace import Workspace, number_of

logger = logging.getLogger(__name__)

NAMES_SHOWN = 8
"""Names that a message lists before it only counts."""


@dataclass(frozen=True)
class WrittenPlans:
    """What planning one dataset gave.

    Attributes:
        file: plans.json.
        backup: where other plans, perhaps edited by hand, that stood in `file` were moved to; None where there were none.
        findings: of the fingerprint, on which the plans rest, and of planning.
    """

    plans: Plans
    file: Path
    backup: Path | None
    findings: tuple[Finding, ...]


@plain_arguments
def plan(
    dataset_ids: Sequence[int],
    workspace: Workspace,
    foundation: str | None = None,
    device: str = "auto",
    objective: Objective | None = None,
) -> list[WrittenPlans]:
    """Makes plans for every dataset and writes them, each with its reasons.

    Plans that say the same are left alone. Others that stand there are kept as plans.json.bak (.bak2, ...), and a warning says
    which keys differ.

    Args:
        foundation: a preset's name; None: the most preferred one with weights.
        device: where networks would run; the reasons in the plans quote its memory and precision.
        objective: instead of the one in dataset.json.

    Raises:
        ArenaError: an unknown dataset or foundation, no fingerprint or an old one, no weights, or no usable training case for any structure.
    """
    names = [workspace.dataset_name(dataset_id) for dataset_id in dataset_ids]
    basis = planning_basis(workspace, foundation, device, objective, names)
    planned = []
    for name in names:
        with locked(workspace.preprocessed_dataset(name)):
            raw = RawDataset.open(workspace.raw_dataset(name))
            planned.append(plan_dataset(raw, Fingerprint.read(workspace.fingerprint(name)), basis, workspace))
    return planned


@dataclass(frozen=True)
class PlanningBasis:
    """What a command looks up once and all its datasets are planned on. `reason`: why it is this foundation."""

    preset: FoundationPreset
    reason: str
    weights_sha256: str
    machine: Machine
    objective: Objective | None


def planning_basis(
    workspace: Workspace, foundation: str | None, device: str, objective: Objective | None, datasets: Sequence[str] = ()
) -> PlanningBasis:
    """Arguments as of `plan`; `datasets` are their names, whose structures may decide for a foundation.

    Raises:
        ArenaError: an unknown foundation or device, or no weights.
    """
    preset, reason = pick_foundation(workspace, foundation, datasets)
    weights = file_sha256(weights_file(preset, workspace.installed_foundation(preset.name)))
    return PlanningBasis(preset, reason, weights, this_machine(str(pick_device(device))), objective)


def plan_dataset(raw: RawDataset, fingerprint: Fingerprint, basis: PlanningBasis, workspace: Workspace) -> WrittenPlans:
    """Plans one dataset, whose preprocessed folder the caller holds, and writes them; raises as `plan` does."""
    with stage("plan"):
        _check_fingerprint(fingerprint, raw, basis.preset, workspace)
        plans = make_plans(fingerprint, basis.preset, basis.weights_sha256, raw.json, basis.machine, basis.objective)
        plans = plans.model_copy(update={"reasons": {**plans.reasons, "foundation": basis.reason}})
        _check_candidates(plans)
        path = workspace.plans(raw.folder.name, basis.preset.name)
        return WrittenPlans(plans, path, _write(plans, path), (*fingerprint.findings, *partly_annotated(plans, fingerprint)))


def _check_fingerprint(fingerprint: Fingerprint, raw: RawDataset, preset: FoundationPreset, workspace: Workspace) -> None:
    name, number = raw.folder.name, number_of(raw.folder.name)
    if fingerprint.source_sha256 != dataset_digest(raw, load_preset(fingerprint.foundation, workspace.foundations)):
        advice = f"run arena_extract_fingerprint -d {number} -foundation {preset.name}"
        raise PlansError("the dataset has changed since", file=workspace.fingerprint(name), advice=advice)
    if fingerprint.foundation != preset.name:
        logger.warning(
            "%s: the findings of its fingerprint are about the scheme of %s; arena_extract_fingerprint -d %d -foundation %s renews them",
            *(name, fingerprint.foundation, number, preset.name),
        )


def _check_candidates(plans: Plans) -> None:
    """Raises DatasetError where no task has a candidate. Tasks without one beside others that have some are listed in the summary."""
    if any(task.max_shots for task in plans.tasks):
        return
    names = [task.name for task in plans.tasks]
    reason = plans.reasons[f"tasks.{names[0]}.candidates"] if names else "dataset.json has no label but the background"
    raise DatasetError(
        f"{plans.dataset_name}: no training case in labelsTr can be used for {listed(names, NAMES_SHOWN) or 'any structure'} ({reason})",
        advice="annotate at least one structure in a few cases of imagesTr",
    )


def _write(plans: Plans, path: Path) -> Path | None:
    """Writes the plans unless the same stand there; returns where different ones were moved to."""
    if not path.is_file():
        plans.write(path)
        return None
    try:
        previous = Plans.read(path)
    except PlansError as error:
        difference = f"could not be read ({error})"
    else:
        decided, now = (one.model_dump(mode="json", exclude={"reasons"}) for one in (previous, plans))  # which quote the machine that planned
        if decided == now:
            return None
        difference = f"differed in {listed(list(differences(decided, now)), NAMES_SHOWN)}"
    number, backup = 1, path.with_name(f"{path.name}.bak")
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.bak{number}")
    shutil.copy2(path, backup)
    plans.write(path)
    logger.warning("%s: new plans written; the ones there %s and are kept as %s", plans.dataset_name, difference, backup)
    return backup
