"""A published checkpoint becomes a foundation that computes what its file's network computed, through the whole chain."""

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

from arena_pipeline.cli.install_foundation import main, print_installation
from arena_pipeline.errors import FoundationError, PlansError
from arena_pipeline.foundations import FoundationPreset, choose_foundation, load_preset, preset_folder
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.architectures.swin_attention import FastWindowAttention
from arena_pipeline.model.task_head import head, set_head_
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.planning import Plans
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.install_foundation import install_preset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace

State = dict[str, Tensor]
INDEX = "relative_position_index"
CLIP_HEADS = {
    "organ_embedding": torch.zeros(32, 8),
    "precls_conv.0.weight": torch.ones(4),
    "GAP.0.weight": torch.ones(4),
    "controller.weight": torch.ones(4, 8),
    "text_to_vision.weight": torch.ones(8, 8),
}


def tiny(name: str) -> FoundationPreset:
    """The preset of a foundation with a network, spacing and patch that fit a test."""
    preset = load_preset(name)
    network = preset.architecture.model_copy(update={"feature_size": 12, "window_size_voxels": (2, 2, 2)})
    scheme = preset.scheme.model_copy(update={"patch_size_voxels": (64, 32, 32)})
    adaptation = preset.adaptation.model_copy(update={"patches_per_volume": 1, "rank": 2, "max_epochs": 1})
    weights = preset.weights.model_copy(update={"packaged": None})
    return preset.model_copy(update={"architecture": network, "scheme": scheme, "adaptation": adaptation, "weights": weights})


def trained(architecture: SwinUnetr) -> nn.Module:
    """A network whose every weight is its own, the norms' and biases' too."""
    torch.manual_seed(0)
    network = architecture.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(1))


# ---- each family's file, as its authors write it


def write_fseft(state: State, prefix: str = "") -> State:
    return {prefix + name.replace("out.conv.conv.", "classifier."): tensor for name, tensor in state.items()}


def write_fseft_parallel(state: State) -> State:
    return write_fseft(state, "module.") | {"module.out.conv.conv.bias": torch.ones(2)}  # of the backbone, left unused


def write_suprem(state: State, prefix: str = "module.backbone.") -> dict[str, Any]:
    heads = {f"module.{name}": tensor for name, tensor in CLIP_HEADS.items()}
    net = {prefix + name: tensor for name, tensor in state.items() if not name.startswith("out.")}
    return {"net": net | heads, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "scheduler": {"last_epoch": 3}, "epoch": 2100}


def write_clip(state: State) -> dict[str, Any]:
    return write_suprem(state, "module.")


def write_monai(state: State) -> dict[str, Any]:
    return {"state_dict": state, "epoch": 5000}


def write_ssl(state: State, prefix: str = "module.") -> dict[str, Any]:
    encoder = {name.replace("mlp.linear", "mlp.fc"): tensor for name, tensor in state.items() if name.startswith("swinViT.")}
    bare = {name.replace("swinViT.", prefix): tensor for name, tensor in encoder.items()}
    return {"state_dict": bare | {"module.rotation_head.weight": torch.ones(4, 4), "module.norm.weight": torch.ones(4)}}


def write_old_ssl(state: State) -> dict[str, Any]:
    return write_ssl(state, "module.swin_vit.")


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
            set_head_(found, preset.architecture, head(network, preset.architecture))
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
    set_head_(found, preset.architecture, head(network, preset.architecture))
    with torch.no_grad():
        assert torch.equal(found(image), network(image))


# ---- what is stored


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


# ---- the command


@pytest.fixture
def tiny_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command meets the tiny presets in the place of the published ones."""
    folder = tmp_path / "plans"
    folder.mkdir()
    for name in ("fseft", "suprem_swinunetr", "ssl_swinvit"):
        (folder / f"{name}.json").write_text(tiny(name).model_dump_json())
    (folder / "arena_mini.json").write_text((preset_folder() / "arena_mini.json").read_text())
    monkeypatch.setattr("arena_pipeline.foundations.presets.preset_folder", lambda: folder)


def test_the_command_shows_counts_and_licence(tiny_presets: None, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(write_suprem(trained(tiny("suprem_swinunetr").architecture).state_dict()), tmp_path / "a.pth")
    assert main(["suprem_swinunetr", str(tmp_path / "a.pth"), "-w", str(workspace.root)]) == 0
    shown = capsys.readouterr().out
    assert "149 matched, 0 missing, 0 unexpected" in shown and "ignored: 5 tensors" in shown
    assert "licence: CC BY-NC-ND" in shown and "next: arena_plan_and_preprocess -d NUMBER -foundation suprem_swinunetr" in shown


def test_unexpected_tensors_are_shown(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(write_ssl(trained(tiny("ssl_swinvit").architecture).state_dict()), tmp_path / "a.pt")
    print_installation(install_preset(tiny("ssl_swinvit"), tmp_path / "a.pt", workspace))
    shown = capsys.readouterr().out
    assert "2 unexpected" in shown and "module.rotation_head.weight, module.norm.weight" in shown and "an encoder alone" in shown


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fsft", b"", "unknown foundation fsft; known: arena_mini, clip_driven_swinunetr, fseft"),
        ("arena_mini", b"", "comes with the package"),
        ("fseft", b"", "empty"),
        ("fseft", b"<!doctype html>", "web page"),
    ],
)
def test_the_command_refuses_in_one_line(
    name: str, content: bytes, message: str, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    assert main([name, str(tmp_path / "file.pth"), "-w", str(workspace.root)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not workspace.root.exists()


def test_the_command_needs_trust_for_code(tiny_presets: None, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = write_fseft(trained(tiny("fseft").architecture).state_dict())
    torch.save(state | {"kind": FastWindowAttention}, tmp_path / "a.pth")  # a class by name: enough to be refused
    arguments = ["fseft", str(tmp_path / "a.pth"), "-w", str(workspace.root)]
    assert main(arguments) == 2
    assert "--trust_checkpoint" in capsys.readouterr().err
    assert main([*arguments, "--trust_checkpoint"]) == 0
    assert json.loads((workspace.installed_foundation("fseft") / "foundation.json").read_text())["trusted"]


# ---- what follows


@pytest.mark.parametrize(("name", "write", "decoder"), [("suprem_swinunetr", write_suprem, False), ("ssl_swinvit", write_ssl, True)])
def test_from_a_foundation_without_a_head_to_a_prediction(
    name: str,
    write: Callable[[State], Any],
    decoder: bool,
    tiny_presets: None,
    workspace: Workspace,
    tiny_dataset: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Planned with a new head; the decoder frozen for what SuPreM knows and trained with an encoder alone; adapted, saved, and predicted."""
    torch.save(write(trained(tiny(name).architecture).state_dict()), tmp_path / "file.pth")
    main([name, str(tmp_path / "file.pth"), "-w", str(workspace.root)])
    raw = tiny_dataset()
    plan_and_preprocess([901], workspace, foundation=name, device="cpu", workers=1, fingerprint_workers=1)
    plans = Plans.read(workspace.plans("Dataset901_Tiny", name))
    assert (plans.task("liver").head, plans.task("liver").train_decoder) == ("new", decoder)
    model = adapt_dataset(901, 1, workspace, folds=[0], structures=["liver"], foundation=name, device="cpu")
    saved = load_file(model / "liver" / "fold_0" / "adapter.safetensors")
    whole = {key.split(".")[1] for key in saved if key.startswith("weight.")}
    decoders = {f"decoder{number}" for number in range(1, 6)}
    assert whole == ({"out", *decoders, "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"} if decoder else {"out"})
    predict(raw / "imagesTs", tmp_path / "out", workspace, model_folder=model, device="cpu", no_previews=True)
    assert (tmp_path / "out" / "query_0.nii.gz").is_file()
    with pytest.raises(FoundationError, match="has no linear head of its own, so it can't predict without adaptation"):
        predict(raw / "imagesTs", tmp_path / "zero", workspace, zero_shot=["liver"], foundation=name, device="cpu")
    if decoder:
        path = workspace.plans("Dataset901_Tiny", name)
        path.write_text(path.read_text().replace('"train_decoder": true', '"train_decoder": false'))
        with pytest.raises(PlansError, match="has no pre-trained decoder, so it must be trained"):
            adapt_dataset(901, 1, workspace, folds=[1], structures=["liver"], foundation=name, device="cpu")
