from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from arena_pipeline import container, records
from arena_pipeline.cli import (
    common,
)
from arena_pipeline.errors import DatasetError
from arena_pipeline.workspace import ENVIRONMENT_VARIABLE, Workspace

logger = logging.getLogger("arena_pipeline.tests")


def _arguments(workspace: Workspace, *words: str) -> argparse.Namespace:
    options = common.parser("A command of the tests.")
    common.add_device(options)
    return options.parse_args(["-w", str(workspace.root), *words])


def _only_record(workspace: Workspace) -> dict:
    (path,) = workspace.logs.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_success_leaves_a_log_and_a_record_beside_each_other(workspace: Workspace) -> None:
    def work(args: argparse.Namespace) -> None:
        workspace.root.mkdir()
        with records.stage("work"):
            logger.info("case_0: done")

    assert common.run(work, _arguments(workspace), "arena_test") == 0
    record = _only_record(workspace)
    assert record["command"] == "arena_test"
    assert record["arguments"]["device"] == "auto"
    assert set(record["stages"]) == {"work"}
    assert record["stages"]["work"]["peak_memory_bytes"] > 0
    (log,) = workspace.logs.glob("*.log")
    (written,) = workspace.logs.glob("*.json")
    assert log.stem == written.stem and log.stem.endswith("_arena_test")
    assert "case_0: done" in log.read_text(encoding="utf-8")


def test_a_user_error_is_one_line_and_status_2(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    def work(args: argparse.Namespace) -> None:
        raise DatasetError("s0001: no label;\nadd one")

    workspace.root.mkdir()
    assert common.run(work, _arguments(workspace), "arena_test") == 2
    assert capsys.readouterr().err == "error: s0001: no label; add one\n"
    record = _only_record(workspace)
    assert record["exit_status"] == 2
    assert record["error"].startswith("DatasetError: s0001")


def test_a_file_that_the_system_refuses_is_a_user_error(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    missing = workspace.root / "missing.nii.gz"
    assert common.run(lambda args: missing.read_text() and None, _arguments(workspace), "arena_test") == 2
    assert capsys.readouterr().err.startswith(f"error: {missing}: No such file or directory; check the path")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_with_what_to_do_where_no_file_is_named(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    def work(args: argparse.Namespace) -> None:
        with open("/dev/full", "w") as file:
            file.write("anything")

    assert common.run(work, _arguments(workspace), "arena_test") == 2
    assert capsys.readouterr().err.startswith("error: a file could not be written (No space left on device); free space, or choose a folder on")


def test_an_interrupt_is_130(workspace: Workspace) -> None:
    def work(args: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    workspace.root.mkdir()
    assert common.run(work, _arguments(workspace), "arena_test") == 130
    assert _only_record(workspace)["exit_status"] == 130


def test_sigterm_is_143_and_what_stood_before_comes_back(workspace: Workspace) -> None:
    def work(args: argparse.Namespace) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    workspace.root.mkdir()
    assert common.run(work, _arguments(workspace), "arena_test") == 143
    assert _only_record(workspace)["exit_status"] == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_command_with_busy_workers_leaves_at_once_and_takes_them_along(workspace: Workspace, number: signal.Signals, code: int) -> None:
    workspace.root.mkdir()
    process = subprocess.Popen([sys.executable, "-c", BUSY, str(workspace.root)], stderr=subprocess.DEVNULL)
    try:
        while len(workers := psutil.Process(process.pid).children(recursive=True)) < 2:
            time.sleep(0.05)
        time.sleep(1)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(30) == code
    finally:
        process.kill()
    assert not psutil.wait_procs(workers, timeout=10)[1]


BUSY = """
import argparse, sys, time
from arena_pipeline.cli import common
from arena_pipeline.io.parallel import Needs, map_jobs
if __name__ == "__main__":
    options = common.parser("A command of the tests.")
    work = lambda args: list(map_jobs(time.sleep, {"a": 600, "b": 600}, Needs("sleep", 2))) and None
    sys.exit(common.run(work, options.parse_args(["-w", sys.argv[1]]), "arena_test"))
"""


def test_a_fault_in_the_program_leaves_with_its_traceback_and_is_recorded(workspace: Workspace) -> None:
    def work(args: argparse.Namespace) -> None:
        raise ZeroDivisionError("by zero")

    workspace.root.mkdir()
    with pytest.raises(ZeroDivisionError):
        common.run(work, _arguments(workspace), "arena_test")
    assert _only_record(workspace)["exit_status"] == 1
    (log,) = workspace.logs.glob("*.log")
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_the_status_that_a_command_returns_is_the_exit_status(workspace: Workspace) -> None:
    assert common.run(lambda args: 3, _arguments(workspace), "arena_test") == 3


def test_a_workspace_that_is_not_there_is_not_made(workspace: Workspace) -> None:
    def work(args: argparse.Namespace) -> None:
        logger.info("nothing to do")

    assert common.run(work, _arguments(workspace), "arena_test") == 0
    assert not workspace.root.exists()


def test_lines_logged_before_the_workspace_exists_are_kept(workspace: Workspace) -> None:
    def work(args: argparse.Namespace) -> None:
        logger.info("first")
        workspace.root.mkdir()
        logger.info("second")

    common.run(work, _arguments(workspace), "arena_test")
    (log,) = workspace.logs.glob("*.log")
    text = log.read_text(encoding="utf-8")
    assert text.index("first") < text.index("second")


def test_a_command_without_a_workspace_writes_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert common.run(lambda args: None, common.parser("No workspace.", workspace=False).parse_args([]), "arena_test") == 0
    assert not list(tmp_path.iterdir())


def test_a_command_without_a_workspace_writes_its_record_beside_its_output(tmp_path: Path) -> None:
    arguments = common.parser("No workspace.", workspace=False).parse_args([])
    assert common.run(lambda args: (tmp_path / "out").mkdir(), arguments, "arena_test", tmp_path / "out") == 0
    (record,) = (tmp_path / "out" / "logs").glob("*_arena_test.json")
    assert json.loads(record.read_text())["command"] == "arena_test"


def test_handlers_are_gone_after_a_run(workspace: Workspace) -> None:
    before = list(logging.getLogger("arena_pipeline").handlers)
    common.run(lambda args: None, _arguments(workspace), "arena_test")
    assert logging.getLogger("arena_pipeline").handlers == before


@pytest.mark.parametrize(("words", "shown"), [((), False), (("--verbose",), True)])
def test_details_are_shown_when_asked_for(workspace: Workspace, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], shown: bool) -> None:
    def work(args: argparse.Namespace) -> None:
        logger.debug("a detail")
        logger.warning("s0001: looks odd")

    common.run(work, _arguments(workspace, *words), "arena_test")
    text = capsys.readouterr().err
    assert ("a detail" in text) is shown
    assert "warning: s0001: looks odd" in text


def test_a_record_that_can_not_be_written_names_the_folder(small_disk: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(small_disk("256k", read_only=True))
    assert common.run(lambda args: 0, _arguments(workspace), "arena_test") == 0
    assert capsys.readouterr().err == f"warning: the run's record could not be written to {workspace.logs} (read-only file system)\n"


def test_the_workspace_is_the_one_named_then_the_environments_then_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = common.parser("A command of the tests.")
    monkeypatch.chdir(tmp_path)
    assert options.parse_args([]).workspace.root == tmp_path / "arena_workspace"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "other"))
    assert options.parse_args([]).workspace.root == tmp_path / "other"
    assert options.parse_args(["-w", str(tmp_path / "named")]).workspace.root == tmp_path / "named"


def test_output_cut_off_by_its_reader_is_no_error() -> None:
    code = """
import sys
from arena_pipeline.cli import common
def work(args):
    for number in range(100_000):
        print(number)
sys.exit(common.run(work, common.parser("Counts.", workspace=False).parse_args([]), "arena_test"))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


def test_a_command_starts_no_more_threads_than_its_container_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, content in (("proc/self/cgroup", "0::/"), ("sys/fs/cgroup/cpu.max", "150000 100000")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    monkeypatch.setattr(container, "ROOT", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    threads = []
    for _ in range(2):
        assert common.run(lambda args: threads.append(os.environ["OMP_NUM_THREADS"]), argparse.Namespace(), "arena_test") == 0
        monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads == ["7", "1"]  # what a user chose stays
