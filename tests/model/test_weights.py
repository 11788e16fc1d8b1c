"""Files of a foundation's weights: exactly what the preset says, or refused before a network is handed out."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset, Scheme, Weights, load_preset, packaged_weights, preset_folder
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.checkpoint_files import code_wanted, read_checkpoint_file
from arena_pipeline.model.weights import load_foundation_network

PRESET = FoundationPreset(
    name="toy",
    title="toy",
    architecture=SwinUnetr(feature_size=12, window_size_voxels=(2, 2, 2), out_channels=2, patch_merging="monai_1.5"),
    scheme=Scheme(spacing_mm=(4, 4, 4), window_hu=(-175, 250), patch_size_voxels=(64, 32, 32)),
    head="sigmoid",
    structures={"spleen": 0, "liver": 1},
    weights=Weights(expected_file="x", layout="arena", origin="made here"),
    preference=1,
    licence="CC0",
    citation="none",
)
BIAS, INDEX = "out.conv.conv.bias", "swinViT.layers1.0.blocks.0.attn.relative_position_index"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in PRESET.architecture.build().state_dict().items()}


def test_half_precision_is_read_into_the_same_numbers(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    found = load_foundation_network(PRESET, tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(found[name], tensor.to(found[name].dtype)) for name, tensor in state.items())


BAD: list[tuple[str, dict[str, Tensor], str]] = [
    ("doubles", {BIAS: torch.zeros(2).double()}, f"{BIAS} is F64 instead of F32, F16, BF16"),
    ("integers", {BIAS: torch.zeros(2, dtype=torch.int64)}, f"{BIAS} is I64 instead of"),
    ("positions as numbers", {INDEX: torch.zeros(8, 8)}, f"{INDEX} is F32 instead of I64"),
    ("positions outside", {INDEX: torch.full((8, 8), 27)}, f"positions outside their tables in {INDEX}"),
    ("no number", {BIAS: torch.tensor([0.0, float("nan")])}, f"{BIAS}: values that are not finite"),
    ("another shape", {BIAS: torch.zeros(3)}, "does not fit the network"),
    ("a tensor more", {"evil": torch.zeros(1)}, "1 unexpected .evil."),
    ("far too large", {"evil": torch.zeros(30_000_000)}, "at most .* were expected"),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_weights_that_are_not_the_presets_are_refused(change: dict[str, Tensor], message: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state | change, path)
    with pytest.raises(FoundationError, match=message) as refused:
        load_foundation_network(PRESET, path)
    assert str(path) in str(refused.value)


def test_changed_weights_of_the_package_are_refused_when_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(str(preset_folder()), tmp_path / "plans")
    monkeypatch.setattr("arena_pipeline.foundations.presets.preset_folder", lambda: tmp_path / "plans")
    preset = load_preset("arena_mini")
    path = packaged_weights(preset)
    assert path is not None and path.is_relative_to(tmp_path)
    load_foundation_network(preset, path)
    changed = load_file(path)
    changed[BIAS] = changed[BIAS] + 1
    save_file(changed, path)
    with pytest.raises(FoundationError, match=r"its preset says .*; the file was changed or damaged, reinstall arena-pipeline"):
        load_foundation_network(preset, path)


class Unknown:
    """An object of a class that torch's safe loader does not know."""


@pytest.mark.parametrize(("content", "wanted"), [({"model": Unknown()}, "Unknown"), ({"model": nn.Linear(1, 1)}, "torch.nn.modules.linear.Linear")])
def test_torchs_own_words_still_tell_code_from_damage(content: dict[str, object], wanted: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError) as refused:
        torch.load(tmp_path / "w.pth", weights_only=True)
    named = code_wanted(refused.value)
    assert named is not None and named.endswith(wanted)
    (tmp_path / "damaged.pth").write_bytes(b"\x80\x02}q\x00\xff\xff.")
    with pytest.raises(pickle.UnpicklingError) as damaged:
        torch.load(tmp_path / "damaged.pth", weights_only=True)
    assert code_wanted(damaged.value) is None


def test_a_checkpoint_that_would_expand_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2_000_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    assert read_checkpoint_file(tmp_path / "plain.pth")["weight"].shape == (2_000_000,)
    with pytest.raises(FoundationError, match=r"would unpack to 8,00\d,\d+ bytes"):
        read_checkpoint_file(tmp_path / "bomb.pth")
