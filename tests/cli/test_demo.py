"""The demo's command lines are real ones, and its table shows what was measured."""

from __future__ import annotations

import importlib
from pathlib import Path

import pandas as pd
import pytest

from arena_pipeline.cli import common, demo


def test_every_command_line_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parsed = []
    monkeypatch.setattr(common, "run", lambda function, args, command, output=None: parsed.append(command) or 0)
    for command in demo._commands(tmp_path, 2, again=True):
        assert importlib.import_module(f"arena_pipeline.cli.{command[0].removeprefix('arena_')}").main(command[1:]) == 0
    assert parsed[:2] == ["arena_make_phantoms"] * 2 and parsed[-1] == "arena_evaluate" and "arena_adapt" in parsed


def test_the_demo_stops_with_the_status_of_the_command_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "run", lambda function, args, command, output=None: 2 if command == "arena_adapt" else 0)
    assert demo.main(["-o", str(tmp_path)]) == 2
    assert "arena_adapt ended with status 2" in capsys.readouterr().out


def test_the_table_is_a_mean_over_scored_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(demo.BASE, "scored", 0.8), (demo.BASE, "missed", 0.0), (demo.NOVEL, "scored", 0.61), (demo.NOVEL, "absent", float("nan"))]
    for folder in ("predicted", "predicted_zero_shot"):
        (tmp_path / folder / "previews").mkdir(parents=True)
        pd.DataFrame(rows, columns=["structure", "status", "Dice"]).to_csv(tmp_path / folder / "metrics.csv", index=False)
    (tmp_path / "predicted" / "previews" / "query.png").touch()
    demo._print_result(tmp_path, 60.0)
    printed = capsys.readouterr().out
    assert "0.400" in printed and "0.610" in printed and "query.png" in printed
