"""Means worked out by hand, through real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.predict.ensemble import ensemble_segmentation
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.probabilities import Description, ProbabilityFile, write_probabilities
from arena_pipeline.stages.ensemble import ensemble

BINARY = Description(labels={"liver": 1, "spleen": 4}, activation="sigmoid", threshold=0.5)
SOFTMAX = Description(labels={"liver": 1}, activation="softmax", threshold=0.5)


def write(path: Path, description: Description, **channels: list[float]) -> ProbabilityFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_probabilities(path, description) as add:
        for name, values in channels.items():
            add(name, np.array(values, dtype=np.float32)[:, None, None])
    return ProbabilityFile(path)


def test_binary_structures(tmp_path: Path) -> None:
    # Means: liver 0.625 0.5 0.75 0.25, spleen 0.5 0.25 0.875 0.25
    a = write(tmp_path / "a.npz", BINARY, liver=[0.75, 0.5, 0.75, 0.25], spleen=[0.5, 0.25, 1.0, 0.25])
    b = write(tmp_path / "b.npz", BINARY, liver=[0.5, 0.5, 0.75, 0.25], spleen=[0.5, 0.25, 0.75, 0.25])
    assert ensemble_segmentation("x", [a, b]).ravel().tolist() == [1, 0, 4, 0]


def test_more_than_two_files(tmp_path: Path) -> None:
    # Means: liver 0.5625 0.5
    values = ([0.25, 0.25], [0.5, 0.5], [0.75, 0.75], [0.75, 0.5])
    files = [write(tmp_path / f"{number}.npz", BINARY, liver=liver, spleen=[0.0, 0.0]) for number, liver in enumerate(values)]
    assert ensemble_segmentation("x", files).ravel().tolist() == [1, 0]


def test_softmax_with_a_competitor_that_is_not_written(tmp_path: Path) -> None:
    # Means: background 0.5 0.25 0.25, liver 0.25 0.5 0.25, bowel 0.25 0.25 0.5
    a = write(tmp_path / "a.npz", SOFTMAX, background=[0.5, 0, 0.5], liver=[0.5, 0.5, 0], bowel=[0, 0.5, 0.5])
    b = write(tmp_path / "b.npz", SOFTMAX, background=[0.5, 0.5, 0], liver=[0, 0.5, 0.5], bowel=[0.5, 0, 0.5])
    assert ensemble_segmentation("x", [a, b]).ravel().tolist() == [0, 1, 0]


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    a = write(tmp_path / "a.npz", BINARY, liver=[1.0], spleen=[0.0])
    with pytest.raises(ImageError, match=r"x: .*can't be averaged"):
        ensemble_segmentation("x", [a, write(tmp_path / "b.npz", SOFTMAX, background=[0.0], liver=[1.0])])
    with pytest.raises(ImageError, match="x: liver differs in shape"):
        ensemble_segmentation("x", [a, write(tmp_path / "c.npz", BINARY, liver=[1.0, 0], spleen=[0.0, 0])])


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.npz", BINARY, liver=[1.0], spleen=[0.0]).path
    path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"<html>")
    with pytest.raises(ImageError, match=r"a\.npz: not a file of probabilities"):
        ProbabilityFile(path)


def test_the_stage_writes_on_the_first_members_grid(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    for name, liver in (("one", [1.0, 0.0]), ("two", [0.5, 0.25])):
        write(tmp_path / name / "x_probabilities.npz", BINARY, liver=liver, spleen=[0.0, 0.0])
        write_nifti(tmp_path / name / "x.nii.gz", np.zeros((2, 1, 1), np.uint8), (1.0, 2.0, 3.0))
    written = ensemble([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    result = read_segmentation(written["x"])
    assert result.array.ravel().tolist() == [1, 0]
    assert result.geometry.spacing_mm == (1.0, 2.0, 3.0)
    assert LabelMap.read(tmp_path / "out").structures == {"liver": 1, "spleen": 4}


def test_the_stage_refuses_folders_with_other_cases(tmp_path: Path) -> None:
    write(tmp_path / "one" / "x_probabilities.npz", BINARY, liver=[1.0], spleen=[0.0])
    write(tmp_path / "two" / "y_probabilities.npz", BINARY, liver=[1.0], spleen=[0.0])
    with pytest.raises(DatasetError, match="x, y in one of them only"):
        ensemble([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    with pytest.raises(DatasetError, match="--save_probabilities"):
        ensemble([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
