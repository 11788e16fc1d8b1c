"""arena_extract_fingerprint: raw datasets -> dataset_fingerprint.json."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.fingerprint import Fingerprint, dataset_digest, measure_dataset
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.foundations.selection import pick_foundation
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.lock import locked
from arena_pipeline.records import stage
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


@plain_arguments
def extract_fingerprint(
    dataset_ids: Sequence[int], workspace: Workspace, foundation: str | None = None, workers: int | None = None, clean: bool = False
) -> list[Fingerprint]:
    """Measures and checks every dataset's training cases. A fingerprint that is still up to date is kept.

    Args:
        foundation: whose pre-processing scheme the data is compared with; None: the most preferred one with weights.
        workers: processes; None: chosen from cores and memory.
        clean: read and check everything again, although no file has changed.

    Raises:
        ArenaError: an unknown dataset or foundation, or cases that can't be used, all of them named; no fingerprint is written then.
    """
    names = [workspace.dataset_name(dataset_id) for dataset_id in dataset_ids]
    preset, _ = pick_foundation(workspace, foundation, names)
    fingerprints = []
    for name in names:
        with locked(workspace.preprocessed_dataset(name)):
            raw = RawDataset.open(workspace.raw_dataset(name))
            fingerprints.append(fingerprint_dataset(raw, workspace.fingerprint(name), preset, workers, clean))
    return fingerprints


def fingerprint_dataset(raw: RawDataset, path: Path, preset: FoundationPreset, workers: int | None = None, clean: bool = False) -> Fingerprint:
    """The fingerprint in `path`, measured and written unless it is up to date; the caller holds its folder. Raises as above."""
    with stage("fingerprint"):
        there = None if clean else Fingerprint.read_if_valid(path)  # None: none yet, or of an older version of this program
        if there is not None and there.source_sha256 == dataset_digest(raw, preset):
            logger.info("%s: the fingerprint there is up to date, kept (--clean measures again)", raw.folder.name)
            return there
        fingerprint = measure_dataset(raw, preset, workers)
        fingerprint.write(path)
        return fingerprint
