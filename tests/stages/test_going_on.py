"""Commands that were stopped go on, with what is there verified and not just seen; and two at once do no harm."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest

from arena_pipeline.errors import FolderInUse, NoSpace
from arena_pipeline.foundations import Scheme, load_preset
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.lock import locked
from arena_pipeline.io.parallel import map_jobs
from arena_pipeline.preprocess.dataset import preprocess_dataset
from arena_pipeline.preprocess.store import write_case
from arena_pipeline.research.phantoms.make_phantoms import make_phantoms
from arena_pipeline.research.pretrain.pretrain import pretrain_foundation
from arena_pipeline.stages import evaluate as evaluation
from arena_pipeline.stages.evaluate import evaluate
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.preprocess import preprocess
from arena_pipeline.workspace import Workspace
from dataset_conversion.flare22 import convert_flare22

NAME = "Dataset901_Tiny"
SCHEME = Scheme(spacing_mm=(2.0, 2.0, 2.0), window_hu=(-175, 250), patch_size_voxels=(16, 16, 16))
MakeDataset = Callable[..., Path]


def flip(path: Path) -> None:
    """Another byte in the middle: the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "a byte": flip,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".npz", ".json"])
def test_preprocessing_makes_a_damaged_case_again(
    tiny_dataset: MakeDataset, tmp_path: Path, ending: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = RawDataset.open(tiny_dataset(cases=2))
    preprocess_dataset(raw, SCHEME, tmp_path, 0)
    whole = {path: path.read_bytes() for path in tmp_path.glob("case_*")}
    assert len(whole) == 8
    DAMAGE[damage](tmp_path / f"case_1{ending}")
    caplog.set_level(logging.INFO)
    made = preprocess_dataset(raw, SCHEME, tmp_path, 0)
    assert not made or re.search("case_1: preprocessed again: .*(damaged|incomplete|gone)", caplog.text)
    assert made == ["case_1"] or (ending, damage) == (".json", "a byte")  # where the byte is of a number, it is as good as another record
    assert {path: path.read_bytes() for path in tmp_path.glob("case_*") if path.suffix != ".json"} == {
        path: content for path, content in whole.items() if path.suffix != ".json"
    }


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("part", ["imagesTr/FLARE22_Tr_0001_0000.nii.gz", "labelsTr/FLARE22_Tr_0001.nii.gz", "conversion/FLARE22_Tr_0001.json"])
def test_converting_makes_a_damaged_case_again(
    workspace: Workspace, write_nifti: Callable[..., Path], tmp_path: Path, part: str, damage: str
) -> None:
    source = tmp_path / "FLARE22Train"
    for number in (1, 2):
        write_nifti(source / "images" / f"FLARE22_Tr_000{number}_0000.nii", np.full((12, 12, 12), number, np.int16))
        os.rename(source / "images" / f"FLARE22_Tr_000{number}_0000.nii", source / "images" / f"FLARE22_Tr_000{number}_0000.nii.gz")
        write_nifti(source / "labels" / f"FLARE22_Tr_000{number}.nii.gz", np.full((12, 12, 12), number, np.uint8))
    folder = convert_flare22(source, workspace, 901, "Tiny", workers=0)
    files = sorted(path for path in folder.rglob("*.nii.gz"))
    whole = [nibabel.load(path).get_fdata().tolist() for path in files]
    other = (folder / "labelsTr" / "FLARE22_Tr_0002.nii.gz").stat().st_mtime_ns
    DAMAGE[damage](folder / part)
    convert_flare22(source, workspace, 901, "Tiny", workers=0)
    assert [nibabel.load(path).get_fdata().tolist() for path in files] == whole
    assert (folder / "labelsTr" / "FLARE22_Tr_0002.nii.gz").stat().st_mtime_ns == other
    assert (folder / "dataset.json").is_file()


def evaluated_cases(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[str]:
    """The cases that are scored from now on; Ctrl-C after so many."""
    scored: list[str] = []

    def counted(*args: object, **options: object) -> object:
        for case, result in map_jobs(*args, **options):  # type: ignore[arg-type]
            if len(scored) == stop_after:
                raise KeyboardInterrupt
            scored.append(case)
            yield case, result

    monkeypatch.setattr(evaluation, "map_jobs", counted)
    return scored


def test_an_evaluation_goes_on_where_it_stopped(tiny_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = tiny_dataset(cases=4), tmp_path / "out"
    reference = raw / "labelsTr"
    out.mkdir()
    for path in reference.iterdir():
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.roll(np.asarray(image.dataobj), 1, axis=0), image.affine), out / path.name)
    expected = evaluate(reference, out, workers=0).summary_file.read_bytes()
    table = (out / "metrics.csv").read_bytes()
    evaluated_cases(monkeypatch, stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        evaluate(reference, out, workers=0)
    journal = out / ".summary.unfinished.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    journal.write_text(lines[0] + lines[1].replace("liver", "lever", 1) + lines[2][:50])
    os.utime(out / "case_3.nii.gz")
    scored = evaluated_cases(monkeypatch)
    evaluate(reference, out, workers=0)
    assert scored == ["case_1", "case_2", "case_3"]
    assert (out / "summary.json").read_bytes() == expected and (out / "metrics.csv").read_bytes() == table
    assert not journal.exists()


def test_two_commands_on_one_dataset(workspace: Workspace, tiny_dataset: MakeDataset) -> None:
    tiny_dataset(cases=6, size=64)
    plan_and_preprocess([901], workspace, device="cpu", workers=0, fingerprint_workers=0)
    program = "from arena_pipeline.cli.preprocess import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "-d", "901", "-np", "0", "--clean", "-w", str(workspace.root)]
    lock = workspace.preprocessed_dataset(NAME) / ".in_use.txt"
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while first.poll() is None and not lock.exists():
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert second.stderr.startswith("error: ")
    assert f"{NAME}: in use by process {first.pid} on {socket.gethostname()} (" in second.stderr
    assert first.wait(60) == 0
    assert not lock.exists()
    assert preprocess([901], workspace, workers=0)[0].written == ()  # all that the first one made is whole


def test_a_folder_of_phantoms_is_made_by_one_command_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), ThreadPoolExecutor(1) as elsewhere, pytest.raises(FolderInUse, match=f"{os.getpid()}"):
        elsewhere.submit(make_phantoms, tmp_path, 1, "flare22").result()
    assert not list(tmp_path.iterdir())


def test_pre_training_holds_a_dataset_while_it_preprocesses_it(workspace: Workspace, tiny_dataset: MakeDataset, tmp_path: Path) -> None:
    tiny_dataset()
    preset = load_preset("arena_mini", workspace.foundations).model_dump(mode="json")
    preset |= {"name": "own", "head": "sigmoid", "structures": {"liver": 0}, "architecture": preset["architecture"] | {"out_channels": 1}}
    preset["weights"] = {"expected_file": "own.safetensors", "layout": "arena", "origin": "made here"}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(preset))
    held = workspace.preprocessed_dataset(NAME)
    with locked(held), ThreadPoolExecutor(1) as elsewhere, pytest.raises(FolderInUse, match=f"{NAME}: in use by process {os.getpid()} on "):
        one_step = {"changes": {"steps": 1, "batch_size": 1}, "device": "cpu"}
        elsewhere.submit(pretrain_foundation, str(path), tmp_path / "out", workspace, [901], **one_step).result()  # type: ignore[arg-type]
    assert not (tmp_path / "out" / "run.json").exists() and not held.exists()


def test_a_full_disk_while_preprocessing(workspace: Workspace, tiny_dataset: MakeDataset, small_disk: Callable[..., Path]) -> None:
    raw, disk = RawDataset.open(tiny_dataset()), small_disk("1m")
    with pytest.raises(NoSpace, match=r"preprocessing 3 cases needs about [\d,]+ bytes, [\d,]+ bytes are free on this disk"):
        preprocess_dataset(raw, SCHEME, disk / "cases", 0)
    noise = np.random.default_rng(0).random((96, 96, 96), dtype=np.float32)
    one = (1.0, 1.0, 1.0)
    from arena_pipeline.preprocess.grid import GridMap

    grid = GridMap(
        native_shape=noise.shape, axes=(0, 1, 2), flips=(False, False, False), native_spacing_mm=one, scheme_spacing_mm=one,
        resampled_shape=noise.shape, crop_start=(0, 0, 0), crop_stop=noise.shape,
    )  # fmt: skip
    with pytest.raises(NoSpace, match=r"case_0.b2nd: no space is left on the disk: [\d,]+ bytes of this file were written"):
        write_case(disk / "cases", "case_0", noise, None, grid, np.random.default_rng(0))
    assert not list((disk / "cases").iterdir())


def test_a_read_only_workspace_is_told_before_the_work(workspace: Workspace, tiny_dataset: MakeDataset, small_disk: Callable[..., Path]) -> None:
    tiny_dataset()
    workspace.preprocessed.symlink_to(small_disk("1m", read_only=True))
    with pytest.raises(NoSpace, match=r"Dataset901_Tiny: can't be written \(Read-only file system"):
        plan_and_preprocess([901], workspace, device="cpu", workers=0, fingerprint_workers=0)
    assert json.dumps(os.listdir(workspace.preprocessed)) == "[]"
