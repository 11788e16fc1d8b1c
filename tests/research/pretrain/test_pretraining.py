"""A pre-training on two tiny phantoms: it repeats from its seed, and one that was killed ends like one that was not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from threadpoolctl import threadpool_info, threadpool_limits

from arena_pipeline import foundations
from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset, load_preset, read_preset
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.research.pretrain import loop
from arena_pipeline.research.pretrain.loop import rate_factor
from arena_pipeline.research.pretrain.patches import PatchSteps, single_threaded
from arena_pipeline.research.pretrain.pretrain import pretrain_foundation
from arena_pipeline.research.pretrain.settings import PretrainSettings
from arena_pipeline.research.pretrain.volumes import phantom_volumes, store_phantoms
from arena_pipeline.stages.install_foundation import install_foundation
from arena_pipeline.workspace import Workspace

NEW = {"nnunet", "outside_body"}  # keys of a scheme that older runs did not know
CHANGES = {"steps": 4, "learning_rate": 1e-3, "warmup_steps": 1, "batch_size": 2, "averaging": 0.9, "seed": 3}
SETTINGS = PretrainSettings(loss="dice_ce", **CHANGES)  # type: ignore[arg-type]
# the command with a checkpoint every two steps, which stops before the fourth step and waits to be killed
COMMAND = """
import sys, time
from arena_pipeline.cli.pretrain import main
from arena_pipeline.research.pretrain import loop

step, loop.CHECKPOINT_STEPS = loop.Pretraining.step, 2
loop.Pretraining.step = lambda self, *batch: time.sleep(600) if self.done == 3 else step(self, *batch)
sys.exit(main())
"""


@pytest.fixture
def preset_file(own_preset: Callable[..., Path]) -> Path:
    """arena_mini's structures and head in a small network on a coarse grid."""
    mini = load_preset("arena_mini")
    scheme = {"spacing_mm": [10, 10, 10], "window_hu": [-175, 250], "patch_size_voxels": [64, 32, 32]}
    return own_preset("softmax", tuple(mini.structures), scheme=scheme)


@pytest.fixture
def tiny(preset_file: Path) -> FoundationPreset:
    return read_preset(preset_file)


def test_batches_are_a_function_of_seed_step_and_place(tiny: FoundationPreset, tmp_path: Path) -> None:
    store_phantoms(tmp_path, tiny, range(2), seed=3, workers=1)
    volumes = phantom_volumes(tmp_path, tiny, range(2))
    before = random.getstate()
    steps = PatchSteps([volumes], tiny.scheme.patch_size_voxels, SETTINGS)
    images, targets, annotated = steps[2]
    again = PatchSteps([volumes], tiny.scheme.patch_size_voxels, SETTINGS)[2]
    assert torch.equal(images, again.images) and torch.equal(targets, again.targets)
    assert not torch.equal(images, steps[3].images)
    assert images.shape == (2, 1, 64, 32, 32) and images.min() >= 0 and images.max() <= 1
    assert targets.dtype == torch.int64 and targets.min() >= 0 and targets.max() < tiny.architecture.out_channels
    assert annotated.shape == (2, len(tiny.structures)) and annotated.all()
    assert random.getstate() == before  # the global generator is handed back as it was
    for place in range(2):
        one = PatchSteps([volumes], tiny.scheme.patch_size_voxels, SETTINGS, range(place, place + 1))[2]
        assert torch.equal(one.images, images[place : place + 1]) and torch.equal(one.targets, targets[place : place + 1])


def test_the_heart_is_never_labelled(tiny: FoundationPreset, tmp_path: Path) -> None:
    (volume,) = phantom_volumes(tmp_path, tiny, range(1))
    assert sorted(volume.targets.values()) == sorted(tiny.structures.values())
    assert not any("heart" in name for name in tiny.structures)


@pytest.mark.timeout(600)
def test_a_killed_run_ends_like_one_that_was_not(preset_file: Path, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 2)
    whole = pretrain_foundation(str(preset_file), tmp_path / "whole", workspace, phantoms=2, changes=CHANGES, device="cpu", workers=1)

    parts, log = tmp_path / "parts", tmp_path / "parts" / "training_log.csv"
    options = [word for name, value in CHANGES.items() for word in (f"--{name}", str(value))]
    words = ["-foundation", str(preset_file), "-o", str(parts), "--phantoms", "2", "-device", "cpu", *options]
    command = subprocess.Popen([sys.executable, "-c", COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (log.is_file() and len(log.read_text().splitlines()) == 4):  # the title and three steps
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    command.send_signal(signal.SIGKILL)
    command.wait()
    assert torch.load(parts / loop.CHECKPOINT, weights_only=True)["done"] == 2 and not (parts / "own.safetensors").exists()

    continued = pretrain_foundation(str(preset_file), parts, workspace, phantoms=2, changes=CHANGES, device="cpu", workers=1)
    first, second = load_file(whole), load_file(continued)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    rows = log.read_text().splitlines()
    assert rows == (tmp_path / "whole" / "training_log.csv").read_text().splitlines() and len(rows) == 5


def test_a_folder_with_another_run_is_refused(preset_file: Path, tiny: FoundationPreset, tmp_path: Path, workspace: Workspace) -> None:
    described = tiny.model_dump(mode="json", exclude={"weights": True, "adaptation": True, "architecture": {"family"}, "scheme": NEW})
    settings = SETTINGS.model_dump(exclude={"precision"}) | {"autocast": False}  # as a run of an older version wrote it
    (tmp_path / "run.json").write_text(json.dumps({"preset": described, "settings": settings, "phantoms": 2}), encoding="utf-8")
    with pytest.raises(FoundationError, match=r"holds a run with other settings \(differing: settings\); give another -o"):
        pretrain_foundation(str(preset_file), tmp_path, workspace, phantoms=2, changes=CHANGES | {"seed": 4}, device="cpu")
    with pytest.raises(FoundationError, match=r"differing: phantoms\)"):
        pretrain_foundation(str(preset_file), tmp_path, workspace, phantoms=3, changes=CHANGES, device="cpu")


def test_warm_up_then_cosine() -> None:
    settings = PretrainSettings(steps=110, warmup_steps=10)
    assert rate_factor(0, settings) == pytest.approx(0.1)
    assert rate_factor(9, settings) == 1
    assert rate_factor(60, settings) == pytest.approx(0.5)
    assert rate_factor(110, settings) == pytest.approx(0)


def test_a_cooldown_keeps_the_rate_until_the_last_steps() -> None:
    settings = PretrainSettings(steps=100, warmup_steps=10, cooldown_steps=20)
    assert [rate_factor(step, settings) for step in (4, 10, 80)] == [0.5, 1, 1]
    assert [rate_factor(step, settings) for step in (90, 99, 100)] == pytest.approx([0.5, 0.05, 0])


def test_the_loaders_process_keeps_to_one_thread() -> None:
    with threadpool_limits(2):
        single_threaded(0)
        assert {library["num_threads"] for library in threadpool_info()} == {1}


@pytest.mark.timeout(300)
def test_a_run_may_start_from_earlier_weights_and_other_phantoms(preset_file: Path, tmp_path: Path, workspace: Workspace) -> None:
    changes = CHANGES | {"steps": 1}
    first = pretrain_foundation(str(preset_file), tmp_path / "1", workspace, phantoms=1, changes=changes, device="cpu", workers=0)
    again = {"phantoms": 1, "changes": changes | {"seed": 9, "learning_rate": 1e-12, "averaging": 0.0}, "device": "cpu", "workers": 0}
    second = pretrain_foundation(str(preset_file), tmp_path / "2", workspace, **again, phantom_seed=CHANGES["seed"], pretrained_weights=first)
    before, after = load_file(first), load_file(second)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)  # a step too small for halves
    images = [StoredCase.open(tmp_path / part / "phantoms", "phantom_00000").image_patch((0, 0, 0), (32, 32, 32)) for part in ("1", "2")]
    assert np.array_equal(*images)
    with pytest.raises(FoundationError, match=r"differing: pretrained_weights\)"):
        pretrain_foundation(str(preset_file), tmp_path / "2", workspace, **again, phantom_seed=CHANGES["seed"])
    with pytest.raises(FoundationError, match=r"own: .*nowhere.safetensors is not a readable file"):
        pretrain_foundation(str(preset_file), tmp_path / "3", workspace, **again, pretrained_weights=tmp_path / "nowhere.safetensors")


def test_shipped_weights_are_those_the_preset_names() -> None:
    from arena_pipeline.io.filestate import file_sha256
    from arena_pipeline.model.weights import load_foundation_network

    packaged = [preset for preset in map(load_preset, foundations.preset_names()) if preset.weights.packaged]
    assert [preset.name for preset in packaged] == ["arena_mini"]
    for preset in packaged:
        path = foundations.weights_file(preset, Path("nowhere"))
        assert path.stat().st_size <= 16_000_000
        assert file_sha256(path) == preset.weights.sha256
        load_foundation_network(preset, path)


@pytest.mark.timeout(300)
def test_a_small_unet_is_pretrained_and_told_from_other_schemes(own_preset: Callable[..., Path], tmp_path: Path, workspace: Workspace) -> None:
    lists = {"features_per_stage": [4, 8], "kernel_sizes": [[3, 3, 3]] * 2, "strides": [[1, 1, 1], [2, 2, 2]]}
    architecture = {"family": "plain_unet", "out_channels": 3, **lists, "blocks_per_stage": [1, 1], "decoder_convolutions": [1]}
    scheme = {"spacing_mm": [12, 10, 10], "window_hu": [-175, 250], "patch_size_voxels": [16, 32, 32], "nnunet": {"mean_hu": 40, "std_hu": 80}}
    preset = own_preset("softmax", architecture=architecture, scheme=scheme)
    options = {"phantoms": 1, "changes": CHANGES | {"steps": 2}, "device": "cpu", "workers": 0}
    weights = pretrain_foundation(str(preset), tmp_path / "run", workspace, **options)
    installed = install_foundation(str(weights.with_suffix(".json")), weights, workspace).record.preset
    assert installed.architecture.family == "plain_unet" and installed.scheme.spacing_xyz_mm == (10, 10, 12)
    images = StoredCase.open(tmp_path / "run" / "phantoms", "phantom_00000").image()
    assert images.min() == pytest.approx((-175 - 40) / 80) and images.max() == pytest.approx((250 - 40) / 80)
    own_preset("softmax", architecture=architecture, scheme=scheme | {"nnunet": {"mean_hu": 41, "std_hu": 80}})
    with pytest.raises(FoundationError, match=r"differing: preset\)"):
        pretrain_foundation(str(preset), tmp_path / "run", workspace, **options)
