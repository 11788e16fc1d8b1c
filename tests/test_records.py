from __future__ import annotations

import json
import mmap
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from arena_pipeline import records
from arena_pipeline.records import RunRecord
from arena_pipeline.workspace import Workspace


def test_stage_without_a_record_does_nothing() -> None:
    with records.stage("anything"):
        records.note("device", "cpu")


def test_stages_add_up_their_seconds_and_calls() -> None:
    with RunRecord("arena_test", {}) as record:
        for _ in range(2):
            with records.stage("twice"):
                time.sleep(0.05)
        with record.stage("once"):
            pass
    stages = record.as_dict()["stages"]
    assert list(stages) == ["twice", "once"]
    assert stages["twice"]["calls"] == 2
    assert 0.1 <= stages["twice"]["seconds"] <= record.as_dict()["total"]["seconds"]


def test_peak_memory_is_seen_in_the_stage_that_had_it() -> None:
    size = 64 * 2**20
    with RunRecord("arena_test", {}) as record:
        with records.stage("before"):
            pass
        # Mapped pages, not an array: an allocator may hand out what it kept.
        with records.stage("outer"), records.stage("inner"), mmap.mmap(-1, size) as block:
            for offset in range(0, size, mmap.PAGESIZE):
                block[offset] = 1
            time.sleep(2.5 * records.SAMPLE_SECONDS)
    before, outer, inner = (record.stages[name].peak_memory_bytes for name in ("before", "outer", "inner"))
    assert inner >= before + 0.9 * size
    assert outer >= inner
    assert record.total.peak_memory_bytes >= outer


def test_a_failed_stage_is_recorded_and_the_error_passed_on() -> None:
    record = RunRecord("arena_test", {})
    with pytest.raises(ValueError, match="broken"), record, records.stage("fails"):
        raise ValueError("broken")
    assert record.as_dict()["error"] == "ValueError: broken"
    assert record.as_dict()["exit_status"] == 1
    assert record.stages["fails"].calls == 1


def test_a_record_is_over_after_its_block() -> None:
    with RunRecord("arena_test", {}) as record:
        pass
    records.note("late", 1)
    assert record.notes == {}


def test_the_record_is_json_with_all_that_a_reader_asks_for(tmp_path: Path) -> None:
    arguments = {"workspace": Workspace(tmp_path), "input": tmp_path / "in", "dataset_ids": [101], "folds": (0, 1), "device": None}
    with RunRecord("arena_test", arguments) as record:
        records.note("device", "cpu with 1 thread")
        records.note("window_batch", 2)
    value = json.loads(json.dumps(record.as_dict()))
    expected = {"workspace": str(tmp_path), "input": str(tmp_path / "in"), "dataset_ids": [101], "folds": [0, 1], "device": None}
    assert value["arguments"] == expected
    assert value["device"] == "cpu with 1 thread"
    assert value["notes"] == {"window_batch": 2}
    assert value["python"] == ".".join(map(str, sys.version_info[:3]))
    assert value["total"]["peak_memory_bytes"] > 2**20
    assert value["exit_status"] == 0 and value["error"] is None


def test_versions_name_this_package_and_what_it_requires() -> None:
    found = records.versions()
    assert {"arena-pipeline", "torch", "monai", "numpy"} <= set(found)
    assert "pytest" not in found


def test_the_peak_is_that_of_all_devices_and_none_where_none_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, restarted = [0, 700], []
    cuda = SimpleNamespace(device_count=lambda: 2, max_memory_allocated=peaks.__getitem__, reset_peak_memory_stats=restarted.append)
    monkeypatch.setattr(records, "_cuda", lambda: cuda)
    with RunRecord("arena_test", {}) as record:
        pass
    assert record.total.peak_bytes == record.total.peak_device_memory_bytes == 700  # on cuda:1, not the current device
    assert restarted == [0, 1]
    peaks[1] = 0
    with RunRecord("arena_test", {}) as record:
        pass
    assert record.total.peak_device_memory_bytes is None
    assert record.total.peak_bytes == record.total.peak_memory_bytes > 0
