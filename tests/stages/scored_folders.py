"""What the tests of arena_evaluate make their folders with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arena_pipeline.io.dataset import DatasetJson

WriteNifti = Callable[..., Path]


def describe(reference: Path, **changes: object) -> None:
    labels = {"background": 0, "liver": 1, "spleen": 2}
    base = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", "objective": "binary"}
    DatasetJson.model_validate({**base, **changes}).write(reference.parent / "dataset.json")
