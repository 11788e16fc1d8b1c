"""A conversion whose worker is killed: the others are done, nothing half-written stays, and the next run does what is missing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from arena_pipeline.cli.convert_totalsegmentator import main
from arena_pipeline.io.atomic import UNFINISHED, replace_when_done
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.workspace import Workspace
from dataset_conversion import totalsegmentator
from dataset_conversion.case import CaseReport
from dataset_conversion.totalsegmentator import TotalSegmentatorJob, convert_subject

LEFT = (slice(0, 2), slice(0, 5), slice(0, 4))


def _killed_over_s0002(job: TotalSegmentatorJob) -> CaseReport:
    if job.identifier == "s0002":
        with replace_when_done(job.segmentation_out) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    return convert_subject(job)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_worker(
    tmp_path: Path, workspace: Workspace, raw_subject: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        raw_subject(tmp_path / "raw", f"s000{number}", {"liver": LEFT})
    command = ["-i", str(tmp_path / "raw"), "-d", "101", "-w", str(workspace.root), "-np", "2"]
    with monkeypatch.context() as patched:
        patched.setattr(totalsegmentator, "convert_subject", _killed_over_s0002)
        assert main(command) == 2
    folder = workspace.raw / "Dataset101_TotalSegmentator"
    assert "s0002: its worker process died in convert (exit -9, SIGKILL" in capsys.readouterr().err
    assert sorted(path.stem for path in (folder / "conversion").glob("*.json")) == ["s0001", "s0003"]
    assert not [path for path in folder.rglob("*") if "s0002" in path.name or path.name.startswith(UNFINISHED)]
    kept = (folder / "labelsTr" / "s0001.nii.gz").stat().st_mtime_ns
    assert main(command) == 0
    assert list(RawDataset.open(folder).training) == ["s0001", "s0002", "s0003"]
    assert (folder / "labelsTr" / "s0001.nii.gz").stat().st_mtime_ns == kept
