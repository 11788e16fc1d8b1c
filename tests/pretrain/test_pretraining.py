"""A pre-training on two tiny phantoms: it repeats from its seed, and an interrupted one ends like one that was not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arena_pipeline import foundations
from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import Architecture, FoundationPreset, Scheme, load_preset
from arena_pipeline.pretrain import loop
from arena_pipeline.pretrain.loop import rate_factor
from arena_pipeline.pretrain.patches import PatchSteps
from arena_pipeline.pretrain.settings import PretrainSettings
from arena_pipeline.stages import pretrain as stage
from arena_pipeline.stages.pretrain import phantom_volumes, pretrain_on_phantoms

SETTINGS = PretrainSettings(steps=4, loss="dice_ce", learning_rate=1e-3, warmup_steps=1, batch_size=2, averaging=0.9, seed=3)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> FoundationPreset:
    """arena_mini's preset with small windows, patches and a coarse grid."""
    preset = load_preset("arena_mini")
    architecture = Architecture(**(preset.architecture.model_dump() | {"window_size_voxels": (2, 2, 2)}))
    scheme = Scheme(spacing_mm=(10, 10, 10), window_hu=(-175, 250), patch_size_voxels=(64, 32, 32))
    tiny = preset.model_copy(update={"architecture": architecture, "scheme": scheme})
    monkeypatch.setattr(stage, "load_preset", lambda name: tiny)
    return tiny


def test_batches_are_a_function_of_seed_and_step(tiny: FoundationPreset, tmp_path: Path) -> None:
    volumes = phantom_volumes(tmp_path, tiny, range(2), seed=3, workers=1)
    before = random.getstate()
    steps = PatchSteps([volumes], tiny.scheme.patch_size_voxels, SETTINGS)
    images, targets = steps[2]
    again = PatchSteps([volumes], tiny.scheme.patch_size_voxels, SETTINGS)[2]
    assert torch.equal(images, again[0]) and torch.equal(targets, again[1])
    assert not torch.equal(images, steps[3][0])
    assert images.shape == (2, 1, 64, 32, 32) and images.min() >= 0 and images.max() <= 1
    assert targets.dtype == torch.int64 and targets.min() >= 0 and targets.max() < tiny.architecture.out_channels
    assert random.getstate() == before  # the global generator is handed back as it was


def test_the_heart_is_never_labelled(tiny: FoundationPreset, tmp_path: Path) -> None:
    (volume,) = phantom_volumes(tmp_path, tiny, range(1), seed=3, workers=1)
    assert sorted(volume.channels.values()) == sorted(tiny.structures.values())
    assert not any("heart" in name for name in tiny.structures)


@pytest.mark.timeout(600)
def test_an_interrupted_run_ends_like_one_that_was_not(tiny: FoundationPreset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain_on_phantoms("arena_mini", tmp_path / "whole", 2, SETTINGS)
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 2)
    step = loop.Pretraining.step

    def interrupted(self: loop.Pretraining, *batch: object) -> float:
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self, *batch)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Pretraining, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_on_phantoms("arena_mini", tmp_path / "parts", 2, SETTINGS)
    monkeypatch.setattr(loop.Pretraining, "step", step)
    continued = pretrain_on_phantoms("arena_mini", tmp_path / "parts", 2, SETTINGS)
    first, second = load_file(whole), load_file(continued)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    rows = (tmp_path / "parts" / "training_log.csv").read_text().splitlines()
    assert rows == (tmp_path / "whole" / "training_log.csv").read_text().splitlines() and len(rows) == 5


def test_a_folder_with_another_run_is_refused(tiny: FoundationPreset, tmp_path: Path) -> None:
    stage._claim(tmp_path, tiny, SETTINGS, 2)
    with pytest.raises(FoundationError, match="holds a run with other settings"):
        pretrain_on_phantoms("arena_mini", tmp_path, 2, SETTINGS.model_copy(update={"seed": 4}))


def test_warm_up_then_cosine() -> None:
    settings = PretrainSettings(steps=110, warmup_steps=10)
    assert rate_factor(0, settings) == pytest.approx(0.1)
    assert rate_factor(9, settings) == 1
    assert rate_factor(60, settings) == pytest.approx(0.5)
    assert rate_factor(110, settings) == pytest.approx(0)


def test_shipped_weights_are_those_the_preset_names() -> None:
    from arena_pipeline.model.weights import load_foundation_network, sha256

    packaged = [preset for preset in map(load_preset, foundations.preset_names()) if preset.weights.packaged]
    assert [preset.name for preset in packaged] == ["arena_mini"]
    for preset in packaged:
        path = foundations.weights_file(preset, Path("nowhere"))
        assert path.stat().st_size <= 16_000_000
        assert sha256(path) == preset.weights.sha256
        load_foundation_network(preset, path)
