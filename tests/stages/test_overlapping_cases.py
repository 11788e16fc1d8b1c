"""arena_predict on several CTs in one process, which overlap: as if they were predicted one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from arena_pipeline.errors import DatasetError
from arena_pipeline.io.lines import read_lines
from arena_pipeline.predict import case as one_case
from arena_pipeline.predict import job as prediction_job
from arena_pipeline.predict.case import PredictionTask
from arena_pipeline.predict.journal import JOURNAL_FOLDER
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace

NAMES = "abcd"
OPTIONS = {"zero_shot": ["liver"], "device": "cpu"}


@pytest.fixture
def scans(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(7)
    for number, name in enumerate(NAMES):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", rng.normal(0, 120, (30, 26, 20 + number)).astype(np.int16), (4, 5, 6))
    return tmp_path / "in"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.suffix in (".gz", ".png")}


def journal(folder: Path) -> list[tuple[str, bool]]:
    (path,) = (folder / JOURNAL_FOLDER).glob("*.cases.jsonl")
    return [(entry["case"], entry["failed"] is None) for entry in read_lines(path)[0]]


def test_the_files_and_the_journal_are_those_of_one_case_after_the_other(
    workspace: Workspace, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (scans / "b.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes()[:2000])
    alone = dict[str, bytes]()
    for name in NAMES.replace("b", ""):
        alone |= files(predict(scans / f"{name}.nii.gz", tmp_path / f"alone_{name}", workspace, **OPTIONS).folder)  # type: ignore[arg-type]
    caplog.clear()
    caplog.set_level("INFO")
    b_failed, network = threading.Event(), one_case._means_over_folds

    def tells(read: Callable[[Path], object]) -> Callable[[Path], object]:
        def reads(source: Path) -> object:
            try:
                return read(source)
            except Exception:
                b_failed.set()
                raise

        return reads

    def waits(tasks: list[PredictionTask], volume: np.ndarray, *others: object) -> list[np.ndarray]:
        assert b_failed.wait(60)  # the network is at "a" then, and what becomes of "a" comes before it all the same
        return network(tasks, volume, *others)  # type: ignore[arg-type]

    for name in ("read_geometry", "read_image"):
        monkeypatch.setattr(prediction_job, name, tells(getattr(prediction_job, name)))
    monkeypatch.setattr(one_case, "_means_over_folds", waits)
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match="1 of 4 cases not predicted: b: "):
        predict(scans, out, workspace, **OPTIONS)  # type: ignore[arg-type]
    assert files(out) == alone and len(alone) == 6
    assert journal(out) == [("a", True), ("b", False), ("c", True), ("d", True)]
    told = [line for record in caplog.records if (line := record.getMessage()).startswith(("a: ", "c: ", "d: ", "not predicted: b: "))]
    assert len(told) == 4
    assert not list(out.rglob(".*"))


def test_an_interruption_leaves_whole_files_and_no_claims(workspace: Workspace, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, network, seen = tmp_path / "out", one_case._means_over_folds, list[Tensor]()

    def interrupted(*given: object) -> list[np.ndarray]:
        seen.append(given)  # type: ignore[arg-type]
        if len(seen) == 3:
            raise KeyboardInterrupt
        return network(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(one_case, "_means_over_folds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(scans, out, workspace, **OPTIONS)  # type: ignore[arg-type]
    done = [case for case, _ in journal(out)]
    assert done in (["a"], ["a", "b"])
    assert sorted(path.name for path in out.glob("*.nii.gz")) == [f"{case}.nii.gz" for case in done]
    assert not list(out.rglob(".*"))
    monkeypatch.undo()
    summary = predict(scans, out, workspace, continue_prediction=True, **OPTIONS)  # type: ignore[arg-type]
    assert list(summary.kept) == done and len(summary.written) == 4 - len(done)
