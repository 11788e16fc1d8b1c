"""One function over many cases: every case comes back once, a bad one as its error, in this process and in others."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.errors import ImageError
from arena_pipeline.io.images import read_geometry, read_image
from arena_pipeline.io.labels import CHUNK_VOXELS, count_labels
from arena_pipeline.io.parallel import map_cases


@pytest.mark.parametrize("workers", [1, 2])
def test_results_and_errors_by_case(workers: int, tmp_path: Path, write_nifti) -> None:
    jobs = {f"c{i}": write_nifti(tmp_path / f"c{i}.nii.gz", np.zeros((i + 2, 3, 4), np.int16)) for i in range(3)}
    jobs["missing"] = tmp_path / "missing.nii.gz"
    results = dict(map_cases(read_geometry, jobs, workers, "read"))
    assert {case: results[case].shape for case in ("c0", "c1", "c2")} == {"c0": (2, 3, 4), "c1": (3, 3, 4), "c2": (4, 3, 4)}
    assert isinstance(results["missing"], ImageError)
    assert "no such file" in str(results["missing"])


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_worker_logs_is_logged_here(workers: int, tmp_path: Path, write_nifti, caplog: pytest.LogCaptureFixture) -> None:
    sheared = np.array([[1.0, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    jobs = {name: write_nifti(tmp_path / f"{name}.nii.gz", np.zeros((3, 3, 3), np.int16), sheared) for name in ("a", "b")}
    with caplog.at_level(logging.WARNING):
        assert len(list(map_cases(read_image, jobs, workers, "read"))) == 2
    assert sorted(name for name in jobs for record in caplog.records if f"{name}.nii.gz: the axes do not stand" in record.getMessage()) == ["a", "b"]


def test_counts_of_labels_over_several_chunks(rng: np.random.Generator) -> None:
    labels = rng.choice(np.array([0, 3, 300], np.uint16), size=(2, CHUNK_VOXELS // 2 + 1, 2))
    counts = count_labels(labels, minlength=310)
    assert counts.shape == (310,)
    assert {label: int(counts[label]) for label in np.flatnonzero(counts)} == {label: int((labels == label).sum()) for label in (0, 3, 300)}
    assert count_labels(np.zeros((0,), np.uint8)).tolist() == [0]
