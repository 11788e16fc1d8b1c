from __future__ import annotations

import argparse
import importlib
import inspect
import json
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from arena_pipeline import cli, container, records
from arena_pipeline.cli import (
    adapt,
    common,
    compare,
    convert_flare22,
    convert_totalsegmentator,
    evaluate,
    export_model,
    extract_fingerprint,
    plan,
    plan_and_preprocess,
    predict,
    preprocess,
    pretrain,
    verify_dataset,
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


@pytest.mark.parametrize("words", [["--unknown"], ["--verb"], ["-device"], ["stray"]])
def test_what_the_parser_does_not_know_is_status_2(words: list[str]) -> None:
    options = common.parser("A command of the tests.")
    common.add_device(options)
    with pytest.raises(SystemExit) as stop:
        options.parse_args(words)
    assert stop.value.code == 2


def test_options_with_one_dash_take_no_abbreviations_but_keep_joined_values(capsys: pytest.CaptureFixture[str]) -> None:
    options = common.parser("A command of the tests.", workspace=False)
    options.add_argument("-shots", type=int)
    options.add_argument("-f", type=int)
    common.add_device(options)
    assert options.parse_args(["-shots=5", "-f2", "-device", "cpu"]) == argparse.Namespace(shots=5, f=2, device="cpu", verbose=False)
    with pytest.raises(SystemExit, match="2"):
        options.parse_args(["-shot", "5"])
    assert "unrecognized arguments: -shot 5" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_counts_are_whole_numbers_from_1_and_workers_from_0(text: str) -> None:
    options = common.parser("A command of the tests.")
    options.add_argument("-shots", type=common.positive_int)
    common.add_workers(options)
    assert options.parse_args(["-np", "0"]).workers == 0
    for option in ("-shots", *(["-np"] if text != "0" else [])):
        with pytest.raises(SystemExit) as stop:
            options.parse_args([f"{option}={text}"])
        assert stop.value.code == 2


@pytest.mark.parametrize("text", ["0", "-1", "1000", "two"])
def test_a_datasets_number_has_up_to_three_digits(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (adapt, compare, convert_flare22, convert_totalsegmentator, evaluate, export_model, predict, pretrain):
        with pytest.raises(SystemExit, match="2"):
            command.main(["-d", text])
        assert f"-d: expected a whole number from 1 to 999, found {text}" in capsys.readouterr().err


COMMANDS = sorted(module.name for module in pkgutil.iter_modules(cli.__path__) if module.name not in ("common", "log", "streams"))


def test_help_and_typing_errors_import_no_torch() -> None:
    program = """
import importlib, sys
for name in sys.argv[1:]:
    for word in ("-h", "--no_such_option"):
        try:
            importlib.import_module(f"arena_pipeline.cli.{name}").main([word])
        except SystemExit as stop:
            assert stop.code == (0 if word == "-h" else 2), (name, word, stop.code)
        assert "torch" not in sys.modules and "pandas" not in sys.modules, (name, word)
"""
    done = subprocess.run([sys.executable, "-c", program, *COMMANDS], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "words", "function", "others"),
    [
        (adapt, "-d 1 -shots 5", "arena_pipeline.stages.adapt:adapt_dataset", {"dataset_ids": "dataset_id"}),
        (compare, "-d 1 -shots 5", "arena_pipeline.research.compare.compare:compare", {"": "command"}),
        (convert_flare22, "-i in -d 1", "dataset_conversion.flare22:convert_flare22", {}),
        (convert_totalsegmentator, "-i in -d 1", "dataset_conversion.totalsegmentator:convert_totalsegmentator", {}),
        (evaluate, "-ref in -pred out", "arena_pipeline.stages.evaluate:evaluate", {}),
        (export_model, "-d 1 -o out", "arena_pipeline.stages.export_model:export_model", {"nnunet": ""}),
        (extract_fingerprint, "-d 1", "arena_pipeline.stages.extract_fingerprint:extract_fingerprint", {"verify_dataset_integrity": ""}),
        (plan, "-d 1", "arena_pipeline.stages.plan:plan", {}),
        (plan_and_preprocess, "-d 1", "arena_pipeline.stages.plan_and_preprocess:plan_and_preprocess", {}),
        (predict, "-i in -o out", "arena_pipeline.stages.predict:predict", {}),
        (preprocess, "-d 1", "arena_pipeline.stages.preprocess:preprocess", {}),
        (verify_dataset, "-d 1", "arena_pipeline.stages.verify_dataset:verify_dataset", {}),
    ],
)
def test_options_are_called_as_the_parameters_are(
    command: ModuleType, words: str, function: str, others: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`others`: an option that another parameter, or none, stands for."""
    parsed: list[argparse.Namespace] = []
    monkeypatch.setattr(common, "run", lambda work, args, *rest: parsed.append(args) or 0)
    assert command.main(words.split()) == 0
    module, _, name = function.partition(":")
    parameters = set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    assert set(common.keywords(parsed[0], *others)) | set(filter(None, others.values())) == parameters


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapt", "-d", "999", "-shots", "1"], "error: dataset 999: no folder Dataset999_NAME"),
        (["plan_and_preprocess", "-d", "999"], "error: dataset 999: no folder Dataset999_NAME"),
        (["predict", "-i", ".", "-o", "out", "-device", "nonsense"], "error: unknown device nonsense; known: auto, cpu"),
        (["predict", "-i", "nowhere", "-o", "out"], "error: nowhere: no such file or folder"),
    ],
)
def test_what_needs_no_network_is_refused_without_torch(words: list[str], message: str, tmp_path: Path) -> None:
    program = "import importlib, sys; main = importlib.import_module(sys.argv[1]).main; print(main(sys.argv[2:]), 'torch' in sys.modules)"
    command = [sys.executable, "-c", program, f"arena_pipeline.cli.{words[0]}", *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "2 False\n" and done.stderr.startswith(message)


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


def test_long_options_take_one_dash_or_two() -> None:
    options = common.parser("")
    common.add_foundation(options)
    options.add_argument("--max_epochs", type=int)
    options.add_argument("-f", type=int, nargs="+")
    for words in (["-foundation", "x", "--max_epochs", "3"], ["--foundation", "x", "-max_epochs", "3"], ["--foundation=x", "-max_epochs=3"]):
        args = options.parse_args([*words, "-f", "0", "1"])
        assert (args.foundation, args.max_epochs, args.f) == ("x", 3, [0, 1])
    for typo in ("-max_epoch", "--max_epoch", "--f"):
        with pytest.raises(SystemExit):
            options.parse_args([typo, "3"])


def test_a_dataset_is_named_by_number_or_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "raw" / "Dataset103_Abdomen").mkdir(parents=True)
    workspace = Workspace(tmp_path)
    by_name = common.dataset_number("Dataset103_Abdomen")
    assert by_name == common.dataset_number("103") == 103
    common.check_first(workspace, [by_name])
    with pytest.raises(DatasetError, match="expected Dataset103_Abdo, found Dataset103_Abdomen"):
        common.check_first(workspace, [common.dataset_number("Dataset103_Abdo")])
    with pytest.raises(argparse.ArgumentTypeError):
        common.dataset_number("Dataset_103")


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
