"""arena_verify_dataset: raw datasets -> dataset_audit.json."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError
from arena_pipeline.fingerprint.audit import DatasetAudit, audit_dataset
from arena_pipeline.io.lock import locked
from arena_pipeline.records import stage
from arena_pipeline.words import listed, pluralize
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

NAMED_ERRORS = 10


@plain_arguments
def verify_dataset(dataset_ids: Sequence[int], workspace: Workspace, workers: int | None = None, fix: bool = False) -> list[DatasetAudit]:
    """Reads every case of every dataset and writes what was found; the raw files stay as they are.

    Segmentations of whole numbers stored as fractions, and those whose grid is off the CT's by no more than 0.01 mm at any corner, are
    mended whenever they are read: adaptation and evaluation need no corrected files.

    Args:
        workers: processes, 0 for none; None: chosen from cores and memory.
        fix: also write corrected copies of these segmentations, for other programs, into preprocessed/DATASET/corrected.

    Raises:
        DatasetError: no such dataset. What is wrong with one that is there is in its audit, whose `usable` is false then.
    """
    names = [workspace.dataset_name(dataset_id) for dataset_id in dataset_ids]
    audits = []
    for name in names:
        corrected = workspace.corrected(name) if fix else None
        with locked(workspace.preprocessed_dataset(name)), stage("verify"):
            if corrected is not None and corrected.exists():
                shutil.rmtree(corrected)  # of files that may have changed since
            audit = audit_dataset(workspace.raw_dataset(name), workers, corrected)
            audit.write(workspace.audit(name))
        audits.append(audit)
    return audits


@plain_arguments
def require_integrity(dataset_id: int, workspace: Workspace, workers: int | None = None) -> None:
    """What --verify_dataset_integrity does before other work.

    Raises:
        DatasetError: the dataset is not usable; says why.
    """
    (audit,) = verify_dataset([dataset_id], workspace, workers)
    errors = [finding.sentence for finding in audit.of_level("error")]
    path = workspace.audit(audit.dataset_name)
    if errors:
        named = listed(errors, NAMED_ERRORS, "; ")
        raise DatasetError(f"{audit.dataset_name} is not usable as it is: {named}", advice=f"mend that; {path} has all findings")
    cases, warnings = pluralize(audit.checked, "case"), pluralize(len(audit.of_level("warning")), "warning")
    logger.info("%s: %s verified, %s in %s", audit.dataset_name, cases, warnings, path)
