"""arena_preprocess: the cases that the plans need, once, into the stored format."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import PlansError
from arena_pipeline.foundations import load_preset
from arena_pipeline.foundations.selection import planned_foundation
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.lock import all_locked
from arena_pipeline.planning import Plans
from arena_pipeline.preprocess.dataset import preprocess_dataset
from arena_pipeline.records import stage
from arena_pipeline.words import listed
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preprocessed:
    """What preprocessing one dataset gave.

    Attributes:
        folder: of the stored cases.
        cases: all that the plans need; each is stored now.
        written: those of them that were not there yet, or not in this scheme, or from other files.
    """

    folder: Path
    cases: tuple[str, ...]
    written: tuple[str, ...]


@plain_arguments
def preprocess(
    dataset_ids: Sequence[int],
    workspace: Workspace,
    foundation: str | None = None,
    workers: int | None = None,
    clean: bool = False,
) -> list[Preprocessed]:
    """Preprocesses, for every dataset, the candidates of all planned tasks. Uses plans.json as it stands, edited or not.

    Args:
        foundation: whose plans to follow; None: the most preferred one that the dataset has plans for.
        workers: processes, never more than free memory takes; 0: all in this one; None: as planned, or one for every core.
        clean: delete what is stored and start anew; without it only missing and outdated cases are done.

    Raises:
        ArenaError: no plans, a planned case that is not in imagesTr any more, or a case that can't be preprocessed; another command that
            writes the dataset's preprocessed folder, or no room there.
    """
    names = [workspace.dataset_name(dataset_id) for dataset_id in dataset_ids]
    with all_locked([workspace.preprocessed_dataset(name) for name in names]):
        done = []
        for name in names:
            chosen = planned_foundation(workspace, name, foundation)
            plans = Plans.read(workspace.plans(name, chosen), load_preset(chosen, workspace.foundations).architecture)
            done.append(preprocess_planned(RawDataset.open(workspace.raw_dataset(name)), plans, workspace, workers, clean))
        return done


def preprocess_planned(raw: RawDataset, plans: Plans, workspace: Workspace, workers: int | None, clean: bool) -> Preprocessed:
    """Preprocesses the cases that `plans` need; the caller holds the dataset's preprocessed folder. Arguments and errors as of `preprocess`."""
    name = raw.folder.name
    cases = tuple(sorted({case for task in plans.tasks for case in task.candidates}))
    if missing := [case for case in cases if case not in raw.training]:
        found = f"candidates has {listed(missing, 5)}, expected cases of {raw.folder / 'imagesTr'}"
        advice = "put them back, take them out of the plans, or run arena_plan_and_preprocess again"
        raise PlansError(found, file=workspace.plans(name, plans.foundation), advice=advice)
    folder = workspace.cases(name, plans.foundation)
    if clean and folder.exists():
        logger.info("%s: deleting what was preprocessed for %s", name, plans.foundation)
        shutil.rmtree(folder)
    with stage("preprocess"):
        written = preprocess_dataset(raw, plans.scheme, folder, workers, cases, plans.workers.preprocess)
    return Preprocessed(folder, cases, tuple(written))
