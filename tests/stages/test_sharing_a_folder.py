"""Several commands that predict into one folder: real processes, one of them killed in the middle of a CT."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.cli.info import main as show_info
from arena_pipeline.errors import DatasetError, PlansError
from arena_pipeline.predict.journal import Journal, progress
from arena_pipeline.predict.review import read_review
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace

STOPS_AT_B = """
import sys, time
from arena_pipeline.predict import shared
predict_file = shared.predict_file

def stops(case, source, output, job):
    if case == "b":
        (job.folder / ".unfinished.b.nii.gz.x.nii.gz").write_bytes(b"half")
        print("at b", flush=True)
        time.sleep(600)
    return (yield from predict_file(case, source, output, job))

shared.predict_file = stops
from arena_pipeline.cli.predict import main
main(sys.argv[1:])
"""


@pytest.fixture
def scans(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(7)
    for name in "abc":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", rng.normal(0, 120, (30, 26, 22)).astype(np.int16), (4, 5, 6))
    return tmp_path / "in"


def segmentations(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def test_commands_share_the_cases_and_one_that_was_killed_costs_nothing(
    workspace: Workspace, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    out = tmp_path / "out"
    alone = segmentations(predict(scans, tmp_path / "alone", workspace, zero_shot=["liver"], no_previews=True).folder)
    command = ["-i", str(scans), "-o", str(out), "-w", str(workspace.root), "--zero_shot", "liver", "--no_previews"]
    other = subprocess.Popen([sys.executable, "-c", STOPS_AT_B, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "at b\n"
        while (found := progress(out)) is None or not found.predicted:  # "b" is begun while "a" is at the network
            assert other.poll() is None
            time.sleep(0.05)
        assert (found.total, found.predicted, found.left, found.commands[0].alive) == (3, 1, 2, True)
        with pytest.raises(
            PlansError, match="another command is predicting into it otherwise: integer of liver 1, now none; integer of spleen none, now 1; choose"
        ):
            predict(scans, out, workspace, zero_shot=["spleen"], no_previews=True)
        with pytest.raises(PlansError, match="with other outputs: save_probabilities no, now yes; slicer no, now yes; give both commands the same"):
            predict(scans, out, workspace, zero_shot=["liver"], no_previews=True, save_probabilities=True, slicer=True)
        threading.Timer(1, other.kill).start()
        summary = predict(scans, out, workspace, zero_shot=["liver"], no_previews=True)
    finally:
        other.kill()
        other.wait()
    assert (list(summary.written), list(summary.kept)) == (["b", "c"], ["a"])  # b was claimed until its owner was killed
    assert f"taking over the lock of process {other.pid}" in caplog.text
    assert segmentations(out) == alone and not list(out.glob(".*"))
    assert {line.case for line in read_review(out / "review.csv")} == set("abc")
    assert [len(entry.by) > 0 and entry.failed is None for entry in Journal(out).entries().values()] == [True] * 3
    assert show_info(["-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "6 cases" not in said and "3 cases: 3 predicted, 0 failed, 0 left" in said and f"process {other.pid} on" in said
    assert "nobody is at work there" in said


def test_a_run_goes_on_without_reading_what_is_there_and_tries_a_failed_case_again(
    workspace: Workspace, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", (scans / "c.nii.gz").read_bytes()
    (scans / "c.nii.gz").write_bytes(whole[:1000])
    options = {"zero_shot": ["liver"], "no_previews": True}
    with pytest.raises(DatasetError, match="1 of 3 cases not predicted: c: "):
        predict(scans, out, workspace, **options)
    found = progress(out)
    assert found is not None and (found.predicted, found.failed, found.left, found.cases_per_hour) == (2, 1, 0, None)
    (scans / "c.nii.gz").write_bytes(whole)
    monkeypatch.setattr("arena_pipeline.predict.shared.is_complete", lambda *args: pytest.fail("read again") if args[0] != "c" else False)
    summary = predict(scans, out, workspace, continue_prediction=True, **options)
    assert (list(summary.written), list(summary.kept)) == (["c"], ["a", "b"])
    assert {line.case for line in summary.review} == set("abc")


def test_the_seconds_of_overlapping_cases_do_not_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.folder.mkdir()
    journal.join(["a", "b"], {}, False)
    for case, ended, seconds in (("a", 10.0, 10.0), ("b", 14.0, 9.0)):  # b was claimed while a was at the network
        monkeypatch.setattr("arena_pipeline.predict.journal.time.time", lambda ended=ended: ended)
        journal.add(case, seconds)
    found = progress(tmp_path)
    assert found is not None and list(found.by.values()) == [(2, 7.0)]


def test_progress_counts_the_cases_that_the_commands_of_this_run_were_given(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.folder.mkdir()
    first.join(["a", "b"], {}, False)
    for case in ("a", "b"):
        first.add(case, 1.0)
    second = Journal(tmp_path)
    second.begin_run(keep=True)
    second.join(["b", "c", "d"], {}, True)
    Journal(tmp_path).join(["d", "e"], {}, True)
    second.add("c", 1.0)
    found = progress(tmp_path)
    assert found is not None and (found.total, found.predicted, found.earlier, found.left) == (4, 1, 1, 2)
