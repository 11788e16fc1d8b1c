"""The options of all commands: how they are typed, what is refused at once, and what -h imports."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from arena_pipeline import cli
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
from arena_pipeline.workspace import Workspace


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
