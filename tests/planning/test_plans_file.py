"""plans.json in the hands of a person who edits it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arena_pipeline.errors import PlansError
from arena_pipeline.foundations import load_preset
from arena_pipeline.planning import InferencePlan, Plans, TaskPlan, WorkersPlan


@pytest.fixture
def plans_file(tmp_path: Path) -> Path:
    preset = load_preset("arena_mini")
    task = TaskPlan(
        name="liver",
        structures={"liver": 1},
        kind="base",
        train_decoder=False,
        head="pretrained",
        keep_largest={"liver": True},
        candidates=("a", "b"),
        max_shots=2,
    )
    plans = Plans(
        dataset_name="Dataset101_Test",
        foundation="arena_mini",
        foundation_sha256="0" * 64,
        objective="binary",
        labels={"background": 0, "liver": 1},
        scheme=preset.scheme,
        tasks=(task,),
        adaptation=preset.adaptation,
        inference=InferencePlan(window_batch=1),
        workers=WorkersPlan(preprocess=1, export=1),
        reasons={},
    )
    plans.write(tmp_path / "plans.json")
    return tmp_path / "plans.json"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_edit_is_read_back(plans_file: Path) -> None:
    edit(plans_file, lambda plans: plans["adaptation"].update(max_epochs=7))
    assert Plans.read(plans_file).adaptation.max_epochs == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plans: plans.update(foundaton="fseft"), "foundaton: unknown key"),
        (lambda plans: plans["adaptation"].update(epochs=7), "adaptation.epochs: unknown key"),
        (lambda plans: plans["tasks"][0].update(decoder=True), "tasks.0.decoder: unknown key"),
        (lambda plans: plans.pop("scheme"), "scheme: missing key"),
        (lambda plans: plans["inference"].update(overlap=1.5), "inference.overlap: "),
        (lambda plans: plans["tasks"][0].update(max_shots=3), "max_shots: 3 is more than the 2 candidates"),
        (lambda plans: plans["tasks"][0].update(structures={"liver": 2}), "liver has another number in labels"),
        (lambda plans: plans["tasks"][0].update(keep_largest={}), "keep_largest: expected an entry for each of liver"),
        (lambda plans: plans.update(objective="multiclass"), "named multiclass"),
        (lambda plans: plans.update(plans_version=2), "plans_version: "),
    ],
)
def test_a_faulty_edit_names_file_and_key(plans_file: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(plans_file, change)
    with pytest.raises(PlansError, match=re.escape(message)) as error:
        Plans.read(plans_file)
    assert str(plans_file) in str(error.value)


def test_a_damaged_or_missing_file_says_what_to_do(plans_file: Path) -> None:
    plans_file.write_text('{"plans_version": 1,')
    with pytest.raises(PlansError, match="not a readable JSON file"):
        Plans.read(plans_file)
    plans_file.unlink()
    with pytest.raises(PlansError, match="arena_plan_and_preprocess"):
        Plans.read(plans_file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("patch_size_voxels", [80, 64, 64], "multiples of 32"),
        ("patch_size_voxels", [32, 32, 32], "more than"),
        ("spacing_mm", [0, 4, 4], "above 0"),
        ("window_hu", [250, -175], "a lower and a higher end"),
    ],
)
def test_a_scheme_that_no_network_can_take_is_refused(plans_file: Path, key: str, value: list[float], message: str) -> None:
    edit(plans_file, lambda content: content["scheme"].update({key: value}))
    with pytest.raises(PlansError, match=message):
        Plans.read(plans_file, load_preset("fseft").architecture)
