"""arena_adapt that is killed, ended or interrupted, and goes on: the same bits as one that nobody stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arena_pipeline.adapt.checkpoint import Checkpoints
from arena_pipeline.cli.adapt import main
from arena_pipeline.errors import AdapterError, FolderInUse, NoSpace
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.workspace import Workspace, fold_folder

MakeDataset = Callable[..., Path]
NAME, FOUNDATION = "Dataset901_Tiny", "arena_mini"
EPOCHS = 6
TIMES = ("seconds", "peak_memory_mib")


@pytest.fixture
def ready(workspace: Workspace, tiny_dataset: MakeDataset) -> Workspace:
    """Planned and preprocessed, with small patches and a schedule that is never cut short."""
    tiny_dataset(cases=3)
    plan_and_preprocess([901], workspace, device="cpu", workers=0, fingerprint_workers=0)
    edit_plans(workspace, max_epochs=EPOCHS, patches_per_volume=1, stop_window=0)
    return workspace


def edit_plans(workspace: Workspace, **settings: object) -> None:
    path = workspace.plans(NAME, FOUNDATION)
    plans = json.loads(path.read_text())
    plans["adaptation"] |= settings
    plans["scheme"]["patch_size_voxels"] = [64, 32, 32]
    path.write_text(json.dumps(plans))


def run(workspace: Workspace, method: str = "arena", **options: object) -> Path:
    model = adapt_dataset(901, 2, workspace, folds=[0], structures=["liver"], device="cpu", method=method, **options)  # type: ignore[arg-type]
    return fold_folder(model, "liver", 0)


def results(folder: Path) -> dict[str, object]:
    """All that an adaptation leaves, without the times."""
    record = json.loads((folder / "adapter.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "adapter.safetensors", "progress.png", "training_log.csv"]
    files = {name: (folder / name).read_bytes() for name in ("adapter.safetensors", "training_log.csv", "progress.png")}
    return files | {name: value for name, value in record.items() if name not in TIMES}


def start(workspace: Workspace, method: str) -> subprocess.Popen[bytes]:
    program = "from arena_pipeline.cli.adapt import main; raise SystemExit(main())"
    return subprocess.Popen([sys.executable, "-c", program, *options(workspace, method), "--overwrite"], stderr=subprocess.DEVNULL)


def options(workspace: Workspace, method: str) -> list[str]:
    shared = ["-d", "901", "-shots", "2", "-f", "0", "--structures", "liver", "-device", "cpu"]
    return [*shared, "-method", method, "-w", str(workspace.root)]


def stop_at_a_random_point(process: subprocess.Popen[bytes], log: Path, number: signal.Signals) -> int:
    """Sends the signal some time after some epoch, and returns the exit code; a failing test shows when that was."""
    rng = np.random.default_rng()
    epochs, pause = int(rng.integers(1, EPOCHS // 2)), float(rng.uniform(0, 0.3))
    logging.getLogger("arena_pipeline.tests").warning("%s after %d epochs and %.3f s", number.name, epochs, pause)
    while process.poll() is None and (not log.is_file() or log.read_text().count("\n") <= epochs):
        time.sleep(0.01)
    time.sleep(pause)
    process.send_signal(number)
    return process.wait(60)


@pytest.mark.parametrize(("method", "number", "code"), [("arena", signal.SIGKILL, -9), ("lora", signal.SIGTERM, 143)], ids=["killed", "ended"])
def test_a_run_that_was_stopped_gives_the_same_bits(ready: Workspace, method: str, number: signal.Signals, code: int) -> None:
    folder = run(ready, method)
    expected = results(folder)
    (folder / "training_log.csv").unlink()
    assert stop_at_a_random_point(start(ready, method), folder / "training_log.csv", number) == code
    assert (folder / "checkpoint.pt").is_file() and not (folder / "adapter.json").is_file()
    assert main([*options(ready, method), "--continue"]) == 0
    assert results(folder) == expected


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in this process, when the checkpoints of so many epochs have been kept."""
    kept, keep = [], Checkpoints.keep

    def counted(self: Checkpoints) -> None:
        keep(self)
        kept.append(1)
        if len(kept) == epochs:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "keep", counted)


@pytest.mark.parametrize("method", ["arena_adamw", "adalora", "fft"])
def test_every_kind_of_method_goes_on_after_ctrl_c(ready: Workspace, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if method == "adalora":
        pytest.importorskip("peft")
    edit_plans(ready, max_epochs=2)
    expected = results(run(ready, method))
    interrupt_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(ready, method, overwrite=True)
    monkeypatch.undo()
    assert results(run(ready, method, continue_unfinished=True)) == expected


def test_refusals_and_starting_anew(ready: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    edit_plans(ready, max_epochs=3)
    interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(ready)
    monkeypatch.undo()
    checkpoint = fold_folder(ready.model(NAME, FOUNDATION, "arena", 2), "liver", 0) / "checkpoint.pt"
    content = checkpoint.read_bytes()
    with pytest.raises(AdapterError, match=r"other settings.rank \(8 there, 4 now\); go back to those, or delete it, or leave out --continue"):
        run(ready, rank=4, continue_unfinished=True)
    for damaged in (b"", content[: len(content) // 2], content[:5000] + b"\0" + content[5001:], b"no checkpoint at all"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(AdapterError, match=r"checkpoint.pt: damaged.*leave out --continue, to adapt this fold from its start"):
            run(ready, continue_unfinished=True)
    checkpoint.write_bytes(content)
    case = ready.cases(NAME, FOUNDATION) / f"{torch.load(checkpoint, weights_only=True)['identity']['support_ids'][0]}.json"
    case.write_text(case.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(AdapterError, match=r"other support_volumes.case_"):
        run(ready, continue_unfinished=True)
    with caplog.at_level(logging.WARNING):
        folder = run(ready)
    assert "an unfinished adaptation is there and starts anew; --continue goes on with it" in caplog.text
    assert "checkpoint.pt" not in [path.name for path in folder.iterdir()]


def test_a_checkpoint_that_runs_code_is_refused(ready: Workspace, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = fold_folder(ready.model(NAME, FOUNDATION, "arena", 2), "liver", 0)
    folder.mkdir(parents=True)
    torch.save(Hostile(), folder / "checkpoint.pt")
    with pytest.raises(AdapterError, match="damaged, or not a checkpoint"):
        run(ready, continue_unfinished=True)
    assert not (tmp_path / "ran").exists()


def test_two_commands_on_one_fold_and_no_room_for_its_checkpoint(ready: Workspace, small_disk: Callable[..., Path]) -> None:
    folder = fold_folder(ready.model(NAME, FOUNDATION, "arena", 2), "liver", 0)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(FolderInUse, match=rf"fold_0: in use by process {holder.pid} on "):
            run(ready)
        assert not (folder.parent.parent / "plans.json").exists()
    finally:
        holder.kill()
        holder.wait()
    shutil.rmtree(ready.results)
    ready.results.symlink_to(small_disk("1m"))
    with pytest.raises(NoSpace, match=r"fold_0: adapting liver needs about [\d,]+ bytes, [\d,]+ bytes are free on this disk"):
        run(ready)


HOLD = """
import sys
from pathlib import Path
from arena_pipeline.io.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""
