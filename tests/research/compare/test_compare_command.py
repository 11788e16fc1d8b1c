"""arena_compare end to end on tiny data: what it runs once, what it writes, and that a kill costs one run at most."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from arena_pipeline.cli.compare import main
from arena_pipeline.errors import DatasetError, FolderInUse, NotLearned, PlansError, UnknownStructure
from arena_pipeline.evaluate.scores import LabelPair, native_scores
from arena_pipeline.io import filestate
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.io.lock import locked
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.research.compare.compare import Comparison, compare
from arena_pipeline.research.compare.tables import RUN_COLUMNS
from arena_pipeline.stages.evaluate import evaluate
from arena_pipeline.workspace import Workspace

DATASET = "Dataset901_Tiny"
QUERIES = 3


@pytest.fixture
def ready(
    tiny_dataset: Callable[..., Path], write_nifti: Callable[..., Path], rng: np.random.Generator, plan_short_runs: Callable[[], Workspace]
) -> Workspace:
    """Three training cases and three queries, planned."""
    folder = tiny_dataset(cases=3)
    for index in range(1, QUERIES):
        segmentation = np.zeros((24, 24, 24), np.uint8)
        segmentation[3 : 9 + index, 4:10, 5:11] = 1
        image = rng.normal(-20, 10, segmentation.shape) + 80 * segmentation
        write_nifti(folder / "imagesTs" / f"query_{index}_0000.nii.gz", image.astype(np.int16))
        write_nifti(folder / "labelsTs" / f"query_{index}.nii.gz", segmentation)
    return plan_short_runs()


def run(workspace: Workspace, **options: object) -> Comparison:
    given = {"methods": ["zero_shot", "arena"], "folds": [0], "structures": ["liver"], "device": "cpu", "workers": 0} | options
    return compare(901, [1], workspace, **given)  # type: ignore[arg-type]


def scores(done: Comparison) -> pd.DataFrame:
    """What must not depend on how the runs were made: everything of runs.csv but seconds and memory."""
    return done.data.runs.drop(columns=["seconds", "predict_seconds", "peak_memory_mib"])


def test_files_and_figures(ready: Workspace) -> None:
    done = run(ready)
    folder = done.folder
    assert (done.executed, done.reused) == (2, 0)
    runs = pd.read_csv(folder.table("runs"))
    assert list(runs.columns) == list(RUN_COLUMNS)
    assert runs[["method", "shots", "case"]].apply(tuple, axis=1).tolist() == [
        (method, shots, f"query_{case}") for method, shots in (("zero_shot", 0), ("arena", 1)) for case in range(QUERIES)
    ]
    arena = runs[runs["method"] == "arena"].iloc[0]
    assert (runs.loc[runs["method"] == "arena", "Dice"] > 0).all()
    assert (arena["rank"], arena["epochs"], arena["effective_rank"], arena["allocated_rank"]) == (8, 2, 128, 128)
    assert arena["trained_parameters"] == 11_520 + 128 + 1_224_864 + 15 * 13  # A and B, v, the decoder, 15 rows of 12 + 1
    assert arena["peak_memory_mib"] > 100
    reference = read_segmentation(ready.raw / DATASET / "labelsTs" / "query_0.nii.gz")
    kept = read_segmentation(folder.predictions("arena_1shots", "liver", 0) / "query_0.nii.gz")
    _, measures = native_scores(reference.array, kept.array, {"liver": LabelPair(1, 1)}, reference.geometry)["liver"]
    assert arena[["Dice", "NSD_2mm", "HD95_mm"]].tolist() == pytest.approx([measures[name] for name in ("Dice", "NSD_2mm", "HD95_mm")], rel=1e-5)
    for name in ("dice_1shots", "tests", "efficiency"):
        assert "| arena |" in folder.markdown(name).read_text() or "| zero_shot |" in folder.markdown(name).read_text()
    assert "<html" in folder.report.read_text(encoding="utf-8").lower()
    assert json.loads(folder.description.read_text())["queries"] == {"liver": ["query_0", "query_1", "query_2"]}
    assert not folder.table("ranks").exists() and done.data.tests["verdict"].tolist() == ["too few folds"]
    examples = {(example.which, example.case) for example in done.data.examples}
    assert len(examples) == 3 and all(example.prediction.is_file() for example in done.data.examples)
    evaluated = evaluate(ready.raw / DATASET / "labelsTs", folder.predictions("arena_1shots", "liver", 0), structures=["liver"], workers=1)
    mean = float(done.data.dice[1].loc["arena", "liver"])
    assert evaluated.table.loc["liver", "Dice"] == pytest.approx(mean)


def test_the_foundation_is_hashed_once(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = list[Path]()
    monkeypatch.setattr(filestate, "file_sha256", lambda path, real=filestate.file_sha256: hashed.append(path) or real(path))
    assert run(ready).executed == 2
    assert [path.name for path in hashed].count("arena_mini.safetensors") == 1


def test_a_finished_run_is_kept_while_nothing_changes(ready: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run(ready)
    wider = run(ready, methods=["arena"], ranks=[2, 8])
    assert (wider.executed, wider.reused) == (
        1,
        2,
    )  # 8 is the default: only rank 2 is new; the zero-shot run of the command before stays in the tables
    assert wider.data.ranks[["method", "rank", "allocated_rank"]].values.tolist() == [["arena", 2, 32.0], ["arena", 8, 128.0]]
    assert not wider.folder.predictions("arena_rank2_1shots", "liver", 0).exists()
    options = ["-shots", "1", "-methods", "zero_shot", "arena", "-s", "liver", "-f", "0", "-device", "cpu", "--finished_only"]
    assert main(["-d", "901", *options, "-w", str(ready.root)]) == 0
    printed = capsys.readouterr().out
    assert "mean Dice, shots: 1" in printed and "0 runs made, 3 found finished" in printed and str(wider.folder.root) in printed
    finished = next(path for path in wider.folder.finished_runs() if "arena_1shots" in str(path))
    queries = json.loads(finished.read_text())["identity"]["queries"]
    reference = ready.raw / DATASET / "labelsTs" / "query_1.nii.gz"
    reference.write_bytes((reference.parent / "query_2.nii.gz").read_bytes())
    changed = run(ready, methods=["arena"])
    assert (changed.executed, changed.reused) == (1, 0)  # other queries: none of the older scores belongs beside it
    of_arena = wider.data.runs["method"].eq("arena") & wider.data.runs["default_rank"]
    earlier = wider.data.runs[of_arena].set_index("case")["Dice"]
    later = changed.data.runs.set_index("case")["Dice"]
    assert later["query_2"] == earlier["query_2"] and later["query_1"] != earlier["query_1"]
    assert json.loads(finished.read_text())["identity"]["queries"] != queries
    published = run(ready, methods=["arena"], most_queries=2, protocol="published")
    assert published.executed == 1 and "first 2 query cases" in published.data.facts["notes"][0]
    runs = published.data.runs
    assert len(runs) == 2 and runs["NSD_2mm"].isna().all()
    stored = StoredCase.open(ready.cases(DATASET, "arena_mini"), "query_0")
    assert runs["Dice"].between(0, 1 - 1 / (2 * np.count_nonzero(stored.segmentation() == 1) + 1)).all()


def test_a_fit_that_did_not_learn_is_a_result(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise NotLearned("liver, fold 0: has not learned in 2 attempts")

    monkeypatch.setattr("arena_pipeline.research.compare.runs.run_job", fails)
    done = run(ready, methods=["arena"])
    assert done.data.runs[["failed", "status", "case"]].values.tolist() == [[True, "fit failed", f"query_{index}"] for index in range(QUERIES)]
    row = done.data.summary.iloc[0]
    assert (row["failed_fits"], row["fits"]) == (1, 1) and np.isnan(row["Dice"]) and done.data.examples == []
    assert "1 of 1 failed" in done.folder.markdown("dice_1shots").read_text() and done.folder.report.is_file()
    assert run(ready, methods=["arena"]).executed == 0


def test_a_damaged_segmentation_is_made_again(ready: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    done = run(ready)
    kept = done.folder.predictions("arena_1shots", "liver", 0)
    whole = {path: read_segmentation(path).array.tobytes() for path in kept.iterdir()}
    record, adapter = done.folder.finished_run("arena_1shots", "liver", 0), ready.model(DATASET, "arena_mini", "arena", 1) / "liver" / "fold_0"
    written = (adapter / "adapter.safetensors").stat().st_mtime_ns
    (kept / "query_0.nii.gz").write_bytes((kept / "query_0.nii.gz").read_bytes()[:100])
    (kept / "query_1.nii.gz").unlink()
    tables = run(ready, finished_only=True)
    pd.testing.assert_frame_equal(tables.data.runs, done.data.runs)  # the scores hold
    assert {example.case for example in tables.data.examples} == {"query_2"}
    caplog.set_level(logging.INFO)
    again = run(ready)
    assert (again.executed, again.reused) == (1, 1)
    assert "arena_1shots liver fold 0: made again: query_0.nii.gz, query_1.nii.gz damaged or gone" in caplog.text
    assert {path: read_segmentation(path).array.tobytes() for path in kept.iterdir()} == whole
    assert (adapter / "adapter.safetensors").stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(scores(again), scores(done))
    earlier = json.loads(record.read_text())
    del earlier["predictions"]  # as written by earlier versions
    record.write_text(json.dumps(earlier))
    assert run(ready).executed == 0


def test_one_command_at_a_time(ready: Workspace) -> None:
    for held in (ready.comparison(DATASET, "arena_mini").root, ready.preprocessed_dataset(DATASET)):
        refused = pytest.raises(FolderInUse, match=f"{held.name}: in use by process {os.getpid()} on ")
        with locked(held), ThreadPoolExecutor(1) as elsewhere, refused:
            elsewhere.submit(run, ready).result()
        assert not ready.results.exists()


def test_a_checkpoint_of_other_plans_is_started_anew(ready: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    fold = ready.model(DATASET, "arena_mini", "arena", 1) / "liver" / "fold_0"
    fold.mkdir(parents=True)
    torch.save({"version": 1, "identity": {"task": "another"}, "seconds": 0.0, "state": {}}, fold / "checkpoint.pt")
    with caplog.at_level(logging.INFO):
        assert run(ready, methods=["arena"]).executed == 1
    assert "adapted from the start" in caplog.text and (fold / "adapter.json").is_file() and not (fold / "checkpoint.pt").exists()


@pytest.mark.timeout(280)
def test_a_kill_repeats_no_finished_run(ready: Workspace) -> None:
    """Command and workers are killed after the first finished run; the rest, made later in one process, equals a comparison without a kill."""
    methods = ["zero_shot", "arena"]
    command = [str(Path(sys.executable).parent / "arena_compare"), "-d", "901", "-shots", "1", "-s", "liver"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["-f", "0", "-device", "cpu", "-np", "2", "-w", str(ready.root), "-methods", *methods]
    process = psutil.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    folder = ready.comparison(DATASET, "arena_mini")
    deadline = time.monotonic() + 240
    while not folder.finished_runs():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    victims = [process, *process.children(recursive=True)]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):  # one worker may just have ended
            victim.kill()
    psutil.wait_procs(victims, timeout=30)
    finished = {path: path.stat().st_mtime_ns for path in folder.finished_runs()}
    assert 0 < len(finished) < len(methods) and not folder.report.exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = run(ready, methods=methods)
        assert (resumed.executed, resumed.reused) == (len(methods) - len(finished), len(finished))
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        shutil.rmtree(ready.results)
        pd.testing.assert_frame_equal(scores(run(ready, methods=methods)), scores(resumed))
    finally:
        torch.set_num_threads(threads)


def test_refusals_come_before_anything_is_written(ready: Workspace) -> None:
    with pytest.raises(PlansError, match="unknown method LORA; known: zero_shot, .*arena"):
        run(ready, methods=["LORA"])
    with pytest.raises(UnknownStructure, match="heart"):
        run(ready, structures=["heart"])
    with pytest.raises(DatasetError, match="no finished run yet"):
        run(ready, finished_only=True)
    shutil.rmtree(ready.raw / DATASET / "labelsTs")
    with pytest.raises(DatasetError, match="liver: no query in .* into labelsTs"):
        run(ready)
    assert not ready.results.exists()
