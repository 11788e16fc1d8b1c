"""arena_cross_validate end to end on tiny data: no model sees the scan it is scored on, and a kill repeats no finished run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from arena_pipeline.adapt.job import read_planned_dataset
from arena_pipeline.adapt.run import run_job
from arena_pipeline.cli.cross_validate import main
from arena_pipeline.errors import ArenaError, FolderInUse, PlansError, SupportSetError
from arena_pipeline.evaluate.metrics import overlap
from arena_pipeline.foundations import load_preset, weights_file
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.lock import locked
from arena_pipeline.model.adapter import read_adapter_record
from arena_pipeline.model.expected import setup_of
from arena_pipeline.planning import Plans
from arena_pipeline.research.compare.runs import Run
from arena_pipeline.research.cross_validate.cross_validate import CrossValidation, cross_validate
from arena_pipeline.research.cross_validate.leave_one_out import LeaveOneOut
from arena_pipeline.workspace import Workspace

DATASET = "Dataset901_Tiny"
SCANS = ["case_0", "case_1", "case_2"]
FAST = ["-d", "901", "-shots", "3", "--structures", "liver", "-device", "cpu"]


@pytest.fixture
def ready(tiny_dataset: Callable[..., Path], plan_short_runs: Callable[[], Workspace]) -> Workspace:
    """Exactly three annotated scans, planned."""
    tiny_dataset(cases=3)
    return plan_short_runs()


def run(workspace: Workspace, **options: object) -> CrossValidation:
    return cross_validate(901, 3, workspace, **({"structures": ["liver"], "device": "cpu", "workers": 0} | options))  # type: ignore[arg-type]


def runs_of(workspace: Workspace, shots: int = 3) -> list[Run]:
    planned = read_planned_dataset(901, workspace, None)
    jobs = planned.jobs(shots, [0], ["liver"], {})
    raw = RawDataset.open(workspace.raw_dataset(DATASET))
    return LeaveOneOut(planned, raw, workspace.cross_validation(DATASET, "arena_mini", shots), "cpu").runs(jobs)


def test_no_model_sees_the_scan_it_is_scored_on(ready: Workspace) -> None:
    """A scan that is not on the disk while a model is adapted can't have been seen by it; one that is seen can't be taken away."""
    stored = ready.cases(DATASET, "arena_mini")
    adapting = [one for one in runs_of(ready) if one.job is not None]
    assert sorted(query.case for one in adapting for query in one.queries) == SCANS
    for one in adapting:
        hidden = list(stored.glob(f"{one.queries[0].case}.*"))
        assert hidden and one.job is not None
        for path in hidden:
            path.rename(path.with_suffix(path.suffix + ".hidden"))
        run_job(one.job, torch.device("cpu"), progress=False)
        assert read_adapter_record(one.job.folder).support_ids == tuple(scan for scan in SCANS if scan != one.queries[0].case)
        with pytest.raises(ArenaError):
            run_job(replace(one.job, support_ids=(*one.job.support_ids, one.queries[0].case)), torch.device("cpu"), progress=False)
        for path in hidden:
            path.with_suffix(path.suffix + ".hidden").rename(path)


def test_a_case_that_the_support_set_has_twice_leaves_as_a_whole(ready: Workspace) -> None:
    planned = read_planned_dataset(901, ready, None)
    (job,) = planned.jobs(3, [0], ["liver"], {})
    raw, folder = RawDataset.open(ready.raw_dataset(DATASET)), ready.cross_validation(DATASET, "arena_mini", 4)
    build = LeaveOneOut(planned, raw, folder, "cpu")
    twice = replace(job, shots=4, support_ids=("case_0", "case_1", "case_0", "case_2"))
    supports = [one.job.support_ids for one in build.runs([twice]) if one.job is not None]
    assert supports == [("case_1", "case_2"), ("case_0", "case_0", "case_2"), ("case_0", "case_1", "case_0")]
    with pytest.raises(SupportSetError, match="liver: 2 different scans"):
        build.runs([replace(job, support_ids=("case_0", "case_1"))])


def test_files_and_figures(ready: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FAST, "-np", "0", "-w", str(ready.root)]) == 0
    printed = capsys.readouterr().out
    folder = ready.cross_validation(DATASET, "arena_mini", 3)
    for words in ("liver, arena: expected Dice 0.", "against zero-shot: ", "no bound can be promised for more than 75 %"):
        assert words in printed
    scans, summary = pd.read_csv(folder.table("scans")), pd.read_csv(folder.table("summary")).set_index("method")
    assert scans.groupby("method")["case"].apply(sorted).to_dict() == {"zero_shot": SCANS, "arena": SCANS}
    own = scans[scans["method"] == "arena"].set_index("case")["Dice"]
    for place, case in enumerate(SCANS):
        reference = np.asanyarray(nibabel.load(ready.raw / DATASET / "labelsTr" / f"{case}.nii.gz").dataobj) == 1
        kept = np.asanyarray(nibabel.load(folder.predictions("arena_3shots", "liver", place) / f"{case}.nii.gz").dataobj) == 1
        assert own[case] == pytest.approx(overlap(reference, kept).dice, rel=1e-5)
    half = 4.3027 * own.std() / 3**0.5
    expected = [own.mean(), max(0, own.mean() - half), min(1, own.mean() + half)]
    assert summary.loc["arena", ["Dice", "Dice_low", "Dice_high"]].tolist() == pytest.approx(expected, rel=1e-3)
    facts = json.loads((folder.root / "cross_validation.json").read_text())
    plans = Plans.read(ready.plans(DATASET, "arena_mini"))
    (job,) = read_planned_dataset(901, ready, None).jobs(3, [0], ["liver"], {})
    made_with = setup_of(plans.foundation_sha256, plans.task("liver").train_decoder, plans.adaptation, job.support_sha256())
    assert [(row["method"], row["made_with"]) for row in facts["expected"]] == [("zero_shot", None), ("arena", made_with)]
    assert (folder.root / "cross_validation.png").is_file()
    again = run(ready)
    assert again.executed == 0 and again.scans["Dice"].tolist() == pytest.approx(scans["Dice"].tolist(), rel=1e-5)
    with locked(folder.root), ThreadPoolExecutor(1) as other, pytest.raises(FolderInUse):
        other.submit(run, ready).result()


def test_what_an_earlier_command_found_of_another_structure_stays_until_its_plans_change(ready: Workspace) -> None:
    run(ready)
    done = run(ready, structures=["spleen"])
    assert done.executed == 4 and set(done.summary["structure"]) == {"liver", "spleen"} and set(done.ranked["method"]) == {"zero_shot", "arena"}
    folder = ready.cross_validation(DATASET, "arena_mini", 3)
    facts = json.loads((folder.root / "cross_validation.json").read_text())
    assert {row["structure"] for row in facts["expected"] if row["made_with"]} == {"liver", "spleen"}
    only = run(ready, structures=["spleen"], max_epochs=1)  # liver's are of the planned schedule
    assert set(only.summary["structure"]) == {"spleen"}
    next((folder.root / "runs" / "arena_3shots" / "liver").glob("*.json")).unlink()
    assert set(run(ready, structures=["spleen"]).summary["structure"]) == {"spleen"}  # a leave-one-out that lacks a scan is none


def test_a_scan_that_is_left_out_has_no_say_in_its_post_processing(ready: Workspace) -> None:
    path = ready.fingerprint(DATASET)
    facts, plans = json.loads(path.read_text()), json.loads(ready.plans(DATASET, "arena_mini").read_text())
    facts["structures"]["liver"]["components"]["case_1"] = 2
    path.write_text(json.dumps(facts))
    for task in plans["tasks"]:
        task["keep_largest"] = {name: name != "liver" for name in task["keep_largest"]}
    ready.plans(DATASET, "arena_mini").write_text(json.dumps(plans))
    kept = {(one.method, one.queries[0].case): (one.task.keep_largest["liver"], len(one.queries)) for one in runs_of(ready)}
    assert kept == {
        ("zero_shot", "case_0"): (False, 2),
        ("zero_shot", "case_1"): (True, 1),
        ("arena", "case_0"): (False, 1),
        ("arena", "case_1"): (True, 1),
        ("arena", "case_2"): (False, 1),
    }


def test_foundations_are_ranked_and_keep_their_own_figures(
    ready: Workspace, plan_short_runs: Callable[..., Workspace], capsys: pytest.CaptureFixture[str]
) -> None:
    preset = load_preset("arena_mini")
    twin = ready.installed_foundation("twin")  # the same network under another name: the two must come out equal
    twin.mkdir(parents=True)
    shutil.copy(weights_file(preset, twin), twin / "weights.safetensors")
    renamed = preset.model_dump(mode="json") | {"name": "twin"}
    renamed["weights"] |= {"packaged": None}
    (twin / "foundation.json").write_text(json.dumps({"preset": renamed}))
    plan_short_runs("twin")
    assert main([*FAST, "-np", "0", "-foundation", "arena_mini", "twin", "-w", str(ready.root)]) == 0
    printed = capsys.readouterr().out
    together = pd.read_csv(ready.cross_validation(DATASET, None, 3).table("ranking"))
    assert sorted(zip(together["foundation"], together["method"], strict=True)) == [
        (foundation, method) for foundation in ("arena_mini", "twin") for method in ("arena", "zero_shot")
    ]
    dice = together.set_index(["method", "foundation"])["Dice"]
    assert dice["arena", "twin"] == dice["arena", "arena_mini"] and dice["zero_shot", "twin"] == dice["zero_shot", "arena_mini"]
    assert set(together["verdict"][1:]) <= {"can't tell from three scans", "worse than the first"}
    assert "to use the first: arena_" in printed and "-foundation" in printed.split("to use the first: ")[1]
    for foundation in ("arena_mini", "twin"):
        assert set(pd.read_csv(ready.cross_validation(DATASET, foundation, 3).table("ranking"))["foundation"]) == {foundation}


@pytest.mark.timeout(200)
def test_a_kill_repeats_no_finished_run(ready: Workspace) -> None:
    code = "import sys; from arena_pipeline.cli.cross_validate import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *FAST, "-np", "0", "-w", str(ready.root)]
    process = psutil.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    folder = ready.cross_validation(DATASET, "arena_mini", 3)
    deadline = time.monotonic() + 150
    while not folder.finished_runs():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait(30)
    finished = {path: path.stat().st_mtime_ns for path in folder.finished_runs()}
    assert 0 < len(finished) < 4 and not folder.table("summary").exists()
    assert run(ready).executed == 4 - len(finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_refusals_come_before_anything_is_written(ready: Workspace) -> None:
    with pytest.raises(PlansError, match="zero_shot adapts nothing"):
        run(ready, methods=["zero_shot"])
    with pytest.raises(PlansError, match="method"):
        run(ready, methods=["LORA"])
    with pytest.raises(SupportSetError):
        cross_validate(901, 2, ready, structures=["liver"], device="cpu")
    assert not list(ready.results.glob("*/*/cross_validation/*/*"))
