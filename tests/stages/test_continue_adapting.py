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

import nibabel
import numpy as np
import pytest
import torch

from arena_pipeline.adapt import checkpoint, loop
from arena_pipeline.adapt.checkpoint import Checkpoints
from arena_pipeline.adapt.run import ADAPTER_BYTES, CHECKPOINT_BYTES
from arena_pipeline.cli.adapt import main
from arena_pipeline.errors import AdapterError, ArenaError, FolderInUse, NoSpace, PlansError, SupportSetError
from arena_pipeline.io import space
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.splits import draw_support_set
from arena_pipeline.model.adapter import read_adapter
from arena_pipeline.planning import Plans
from arena_pipeline.preprocess.dataset import preprocess_dataset
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.preprocess import preprocess
from arena_pipeline.workspace import Workspace, fold_folder

MakeDataset = Callable[..., Path]
NAME, FOUNDATION = "Dataset901_Tiny", "arena_mini"
EPOCHS = 6
TIMES = ("seconds", "peak_memory_mib")


@pytest.fixture
def ready(workspace: Workspace, tiny_dataset: MakeDataset) -> Workspace:
    """PlannedDataset and preprocessed, with small patches and a schedule that is never cut short."""
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
    given = {"folds": [0], "structures": ["liver"], "device": "cpu", "method": method} | options
    model = adapt_dataset(901, 2, workspace, **given)  # type: ignore[arg-type]
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


def meanwhile(epochs: int, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Something happens, once, when the checkpoints of so many epochs have been kept."""
    kept, keep = [], Checkpoints.keep

    def counted(self: Checkpoints) -> None:
        keep(self)
        kept.append(1)
        if len(kept) == epochs:
            happens()

    monkeypatch.setattr(Checkpoints, "keep", counted)


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in this process, when the checkpoints of so many epochs have been kept."""
    meanwhile(epochs, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))


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


def test_an_interrupt_in_the_middle_of_an_epoch_saves_those_before_it(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_plans(ready, max_epochs=3)
    expected = results(run(ready))
    monkeypatch.setattr(checkpoint, "SECONDS_PER_SECOND_OF_WRITING", 10**9)  # the first epoch is written, then none before the interrupt
    iterate, done = loop.Adaptation._iterate, []

    def interrupted(*args: object) -> float:
        done.append(iterate(*args))  # type: ignore[arg-type]
        if len(done) == 5:  # the first of two volumes in the third epoch: the weights have moved on
            raise KeyboardInterrupt
        return done[-1]

    monkeypatch.setattr(loop.Adaptation, "_iterate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(ready, overwrite=True)
    monkeypatch.undo()
    folder = fold_folder(ready.model(NAME, FOUNDATION, "arena", 2), "liver", 0)
    assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["epochs"]) == 2
    assert results(run(ready, continue_unfinished=True)) == expected


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
    for damaged in (b"", content[: len(content) // 2], content[:5000] + bytes([content[5000] ^ 255]) + content[5001:], b"no checkpoint at all"):
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


@pytest.mark.parametrize("fault", ["no room", "a damaged case"])
def test_a_finished_adapter_stays_while_the_new_one_cannot_start(ready: Workspace, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_plans(ready, max_epochs=1)
    folder = run(ready)
    expected, record = results(folder), read_adapter(folder).record
    if fault == "no room":
        monkeypatch.setattr(space, "free_disk_bytes", lambda place: 0)
    else:  # as large as before, so that it is noticed when it is read
        positions = ready.cases(NAME, FOUNDATION) / f"{record.support_ids[0]}.npz"
        positions.write_bytes(bytes(positions.stat().st_size))
    with pytest.raises(ArenaError, match="adapting liver needs about|npz: damaged"):
        run(ready, overwrite=True)
    assert results(folder) == expected and read_adapter(folder).record == record


def test_room_for_one_fold_but_not_for_two(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_plans(ready, max_epochs=1)
    numbers = 11_520 + 128 + 1_224_864 + 15 * 13  # A and B, v, the decoder, 15 rows of 12 + 1
    free = space.RESERVE_BYTES + (CHECKPOINT_BYTES + 2 * ADAPTER_BYTES) * numbers - 1
    monkeypatch.setattr(space, "free_disk_bytes", lambda place: free)
    with pytest.raises(NoSpace, match=rf"arena_2shots: adapting 2 folds needs about {free + 1:,} bytes, {free:,} bytes are free"):
        run(ready, folds=[0, 1])
    assert not ready.results.exists()
    assert read_adapter(run(ready)).record.trained_parameters == numbers
    run(ready, folds=[0, 1])  # one of them is there
    run(ready, folds=[0, 1], overwrite=True)  # in the place of the older ones


def correct_label(workspace: Workspace, case: str) -> None:
    """Annotates a case anew and preprocesses it again, as one would in another terminal."""
    path = workspace.raw_dataset(NAME) / "labelsTr" / f"{case}.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.roll(np.asarray(image.dataobj), 1, axis=0), image.affine), path)
    assert preprocess([901], workspace, workers=0)[0].written == (case,)


def test_a_case_corrected_while_its_fold_is_adapted(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_plans(ready, max_epochs=1)
    case = draw_support_set(("case_0", "case_1", "case_2"), 2, 0)[1]
    meanwhile(1, monkeypatch, lambda: correct_label(ready, case))
    with pytest.raises(
        SupportSetError, match=rf"cases: liver, fold 0: {case} preprocessed again from other files .*; no adapter is written, run the command again"
    ):
        run(ready)
    folder = fold_folder(ready.model(NAME, FOUNDATION, "arena", 2), "liver", 0)
    assert not {"adapter.json", "checkpoint.pt"} & {path.name for path in folder.iterdir()}
    monkeypatch.undo()
    made = read_adapter(run(ready, continue_unfinished=True)).record
    stored = ready.cases(NAME, FOUNDATION) / f"{case}.json"
    content = stored.read_bytes()
    meanwhile(1, monkeypatch, stored.unlink)  # as while it is preprocessed again, from the same files
    assert read_adapter(run(ready, overwrite=True)).record.support_sha256 == made.support_sha256
    stored.write_bytes(content)
    written = (folder / "adapter.json").stat().st_mtime_ns
    run(ready)
    assert (folder / "adapter.json").stat().st_mtime_ns == written


def test_every_fold_checks_its_support_in_its_turn(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_plans(ready, max_epochs=1)
    first, later = (draw_support_set(("case_0", "case_1", "case_2"), 1, fold)[0] for fold in (0, 1))
    assert first != later
    raw, plans = RawDataset.open(ready.raw_dataset(NAME)), Plans.read(ready.plans(NAME, FOUNDATION))
    other = plans.scheme.model_copy(update={"window_hu": (-100.0, 200.0)})
    meanwhile(1, monkeypatch, lambda: preprocess_dataset(raw, other, ready.cases(NAME, FOUNDATION), 0, [later]))
    with pytest.raises(PlansError, match=f"{later}: preprocessed by another scheme"):
        adapt_dataset(901, 1, ready, folds=[0, 1], structures=["liver"], device="cpu")
    model = ready.model(NAME, FOUNDATION, "arena", 1)
    assert [(fold_folder(model, "liver", fold) / "adapter.json").is_file() for fold in (0, 1)] == [True, False]


HOLD = """
import sys
from pathlib import Path
from arena_pipeline.io.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""
