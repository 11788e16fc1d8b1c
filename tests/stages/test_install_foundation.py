"""A published checkpoint becomes a foundation that computes what its file's network computed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SwinUNETR
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import choose_foundation, load_preset
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.model.task_head import head_module, set_head_
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.stages.install_foundation import install_preset
from arena_pipeline.workspace import Workspace
from tests.stages.published_checkpoints import (
    INDEX,
    State,
    tiny,
    trained,
    write_clip,
    write_fseft,
    write_fseft_parallel,
    write_monai,
    write_old_ssl,
    write_ssl,
    write_suprem,
)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(1))


FILES: list[tuple[str, Callable[[State], Any]]] = [
    ("fseft", write_fseft),
    ("fseft", write_fseft_parallel),
    ("suprem_swinunetr", write_suprem),
    ("clip_driven_swinunetr", write_clip),
    ("clip_driven_swinunetr", write_suprem),
    ("monai_btcv", write_monai),
    ("ssl_swinvit", write_ssl),
    ("ssl_swinvit", write_old_ssl),
    ("arena_mini", dict),
]


@pytest.mark.parametrize("indices", [True, False], ids=["with indices", "without"])
@pytest.mark.parametrize(("name", "write"), FILES, ids=[f"{name}-{write.__name__}" for name, write in FILES])
def test_an_installed_foundation_computes_what_the_saved_network_did(
    name: str, write: Callable[[State], Any], indices: bool, workspace: Workspace, tmp_path: Path, image: Tensor
) -> None:
    preset = tiny(name)
    network = trained(preset.architecture)
    state = {key: tensor for key, tensor in network.state_dict().items() if indices or INDEX not in key}
    torch.save(write(state), tmp_path / preset.weights.expected_file)
    install_preset(preset, tmp_path / preset.weights.expected_file, workspace)
    torch.manual_seed(7)  # what a foundation computes does not hang on the global generator
    found = load_foundation_network(preset, workspace.installed_foundation(name) / "weights.safetensors")
    with torch.no_grad():
        if preset.pretrained_parts == "encoder":
            for ours, theirs in zip(found.swinViT(image), network.swinViT(image), strict=True):
                assert torch.equal(ours, theirs)
            return
        if preset.head == "none":
            set_head_(found, preset.architecture, head_module(network, preset.architecture))
        assert torch.equal(found(image), network(image))


class OldMerging(nn.Module):
    """MONAI <= 0.9.1's patch merging, written out."""

    def __init__(self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3) -> None:
        super().__init__()
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[:, 0::2], x[:, 1::2]
        grids = [even[:, :, 0::2, 0::2], odd[:, :, 0::2, 0::2], even[:, :, 1::2, 0::2], even[:, :, 0::2, 1::2]]
        grids += [odd[:, :, 0::2, 1::2], even[:, :, 1::2, 0::2], even[:, :, 0::2, 1::2], odd[:, :, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(grids, -1)))


def test_an_installed_foundation_computes_what_monai_091_did(workspace: Workspace, tmp_path: Path, image: Tensor) -> None:
    preset = tiny("fseft")
    torch.manual_seed(0)
    old = SwinUNETR(in_channels=1, out_channels=29, feature_size=12, window_size=2, downsample=OldMerging, use_v2=False).eval()
    torch.save(write_fseft(old.state_dict()), tmp_path / "fseft.pth")
    folder = install_preset(preset, tmp_path / "fseft.pth", workspace).folder
    with torch.no_grad():
        expected = old(image)
        torch.testing.assert_close(load_foundation_network(preset, folder / "weights.safetensors")(image), expected, atol=1e-5, rtol=1e-5)
        today = preset.model_copy(update={"architecture": preset.architecture.model_copy(update={"patch_merging": "monai_1.5"})})
        assert (load_foundation_network(today, folder / "weights.safetensors")(image) - expected).abs().max() > 1e-3  # the trap


def test_a_safetensors_file_is_as_good(workspace: Workspace, tmp_path: Path, image: Tensor) -> None:
    preset = tiny("suprem_swinunetr")
    network = trained(preset.architecture)
    save_file(write_suprem(network.state_dict())["net"], tmp_path / "suprem.safetensors")
    folder = install_preset(preset, tmp_path / "suprem.safetensors", workspace).folder
    found = load_foundation_network(preset, folder / "weights.safetensors")
    set_head_(found, preset.architecture, head_module(network, preset.architecture))
    with torch.no_grad():
        assert torch.equal(found(image), network(image))


@pytest.fixture
def fseft(tmp_path: Path) -> Path:
    path = tmp_path / "downloads" / "fseft.pth"
    path.parent.mkdir()
    torch.save(write_fseft(trained(tiny("fseft").architecture).state_dict()), path)
    return path


def test_the_record_says_where_it_comes_from(fseft: Path, workspace: Workspace) -> None:
    installation = install_preset(tiny("fseft"), fseft, workspace)
    assert installation.folder == workspace.installed_foundation("fseft")
    assert sorted(path.name for path in installation.folder.iterdir()) == ["foundation.json", "weights.safetensors"]
    record = json.loads((installation.folder / "foundation.json").read_text())
    assert (record["name"], record["source_file"], record["source_sha256"]) == ("fseft", "fseft.pth", file_sha256(fseft))
    assert record["weights_sha256"] == file_sha256(installation.folder / "weights.safetensors")
    assert (record["matched"], record["missing"], record["ignored"], record["unexpected"], record["trusted"]) == (151, 0, 0, [], False)
    assert record["licence"] == tiny("fseft").licence and record["preset"]["architecture"]["patch_merging"] == "monai_0.9.1"
    assert re.match(r"\d{4}-\d\d-\d\dT", record["installed"]) and "torch" in record["versions"]
    assert choose_foundation(workspace.foundations)[0] == "fseft"


def test_the_names_are_monais_and_only_of_what_was_pretrained(workspace: Workspace, tmp_path: Path) -> None:
    own = set(trained(tiny("fseft").architecture).state_dict())
    expected = {
        "suprem_swinunetr": own - {"out.conv.conv.weight", "out.conv.conv.bias"},
        "ssl_swinvit": {name for name in own if name.startswith("swinViT.")},
    }
    for (name, names), write in zip(expected.items(), (write_suprem, write_ssl), strict=True):
        torch.save(write(trained(tiny(name).architecture).state_dict()), tmp_path / "file.pth")
        assert set(load_file(install_preset(tiny(name), tmp_path / "file.pth", workspace).folder / "weights.safetensors")) == names


@pytest.mark.parametrize(("name", "write"), [("fseft", write_fseft_parallel), ("suprem_swinunetr", write_suprem), ("ssl_swinvit", write_ssl)])
def test_a_stored_file_can_be_carried_to_another_workspace(name: str, write: Callable[[State], Any], workspace: Workspace, tmp_path: Path) -> None:
    torch.save(write(trained(tiny(name).architecture).state_dict()), tmp_path / "file.pth")
    first = install_preset(tiny(name), tmp_path / "file.pth", workspace)
    second = install_preset(tiny(name), first.folder / "weights.safetensors", Workspace(tmp_path / "other"))
    assert second.record.weights_sha256 == first.record.weights_sha256


def test_installing_twice_changes_nothing_and_other_weights_are_told(fseft: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    """Adapters know a foundation by its SHA-256: the same file gives the same one on every machine."""
    first = install_preset(tiny("fseft"), fseft, workspace)
    again = install_preset(tiny("fseft"), fseft, workspace)
    assert (again.replaced, again.record.weights_sha256) == (None, first.record.weights_sha256)
    torch.save({name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in torch.load(fseft).items()}, fseft)
    other = install_preset(tiny("fseft"), fseft, workspace)
    assert other.replaced == first.record.weights_sha256
    assert "plans and adapters made with those" in caplog.text


def test_an_invalid_file_leaves_what_is_installed(fseft: Path, workspace: Workspace) -> None:
    folder = install_preset(tiny("fseft"), fseft, workspace).folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    whole = fseft.read_bytes()
    state = torch.load(fseft)
    without_decoder = {name: tensor for name, tensor in state.items() if "decoder1" not in name}
    for content in (whole[:-500], b"<html>", {**state, "classifier.bias": torch.full((29,), torch.nan)}, without_decoder):
        torch.save(content, fseft) if isinstance(content, dict) else fseft.write_bytes(content)
        with pytest.raises(FoundationError):
            install_preset(tiny("fseft"), fseft, workspace)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_with_the_name_of_another_family_is_doubted(workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / load_preset("suprem_swinunetr").weights.expected_file
    torch.save(write_suprem(trained(tiny("suprem_swinunetr").architecture).state_dict()), path)
    install_preset(tiny("suprem_swinunetr"), path, workspace)
    assert not caplog.text
    install_preset(tiny("clip_driven_swinunetr"), path, workspace)
    assert "what the authors of suprem_swinunetr call their file" in caplog.text
