"""Errors about arguments of a converter, with what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arena_pipeline.errors import DatasetError, UnknownStructure
from arena_pipeline.io.json_files import similar


def unknown_structures(unknown: Sequence[str], known: Sequence[str], where: str) -> UnknownStructure:
    """The error for names that are none of `known`: what was probably meant, and `where` the known ones are."""
    meant = dict.fromkeys(close for name in unknown if (close := similar(name, known)) is not None)
    question = f", did you mean {', '.join(meant)}?" if meant else ";"
    return UnknownStructure(f"unknown structure {', '.join(unknown)}{question} {where}")


def refuse_standard_layout(folder: Path) -> None:
    """Raises DatasetError for a folder that is a dataset already."""
    if (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir():
        raise DatasetError(
            "already in the standard layout (imagesTr, dataset.json), nothing needs converting",
            file=folder,
            advice="check it with arena_verify_dataset, or go on with arena_plan_and_preprocess",
        )
