"""arena_install_foundation typed: what it shows and refuses; from a published checkpoint to a prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from arena_pipeline.cli.install_foundation import main, print_installation
from arena_pipeline.errors import FoundationError, PlansError
from arena_pipeline.foundations import preset_folder
from arena_pipeline.model.architectures.swin_attention import FastWindowAttention
from arena_pipeline.planning import Plans
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.install_foundation import install_preset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace
from tests.stages.published_checkpoints import State, tiny, trained, write_fseft, write_ssl, write_suprem


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
