"""Packages that were damaged or made by somebody else: nothing hostile gets in with them, and nothing stays."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from arena_pipeline.errors import ArenaError, PackageError
from arena_pipeline.stages.install_model import install_model
from arena_pipeline.workspace import Workspace
from tests.share.conftest import Change, repacked


def edit_json(name: str, **changes: Any) -> Change:
    def change(files: dict[str, bytes]) -> None:
        files[name] = json.dumps(json.loads(files[name]) | changes).encode()

    return change


def edit_tensors(**changes: torch.Tensor | None) -> Change:
    """Of the liver's first fold; None takes a tensor away."""

    def change(files: dict[str, bytes]) -> None:
        tensors = load(files["liver/fold_0/adapter.safetensors"]) | changes
        files["liver/fold_0/adapter.safetensors"] = save({name: tensor for name, tensor in tensors.items() if tensor is not None})

    return change


def outside(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    manifest["folds"] = {"../liver": [0, 1], "left atrium": [0, 1]}
    files["manifest.json"] = json.dumps(manifest).encode()
    for name in [name for name in files if name.startswith("liver/")]:
        files[f"../{name}"] = files.pop(name)


def program(files: dict[str, bytes]) -> None:
    files["sitecustomize.py"] = b"print('run')"


def scheme(**changes: Any) -> Change:
    def change(files: dict[str, bytes]) -> None:
        names = [name for name in files if name.endswith("adapter.json")] + ["plans.json"]
        for name in names:
            content = json.loads(files[name])
            files[name] = json.dumps(content | {"scheme": content["scheme"] | changes}).encode()

    return change


HEAD = "weight.out.conv.conv."
RECORD = "liver/fold_0/adapter.json"
HOSTILE: list[tuple[str, Change, str]] = [
    ("a file more", program, "also has sitecustomize.py"),
    ("a file less", lambda files: files.pop("labels.json"), "lacks labels.json"),
    ("a task outside", outside, "is not the name of a file in a package"),
    ("another version", edit_json("manifest.json", package_version=2), "a package of version 2, this arena-pipeline reads version 1"),
    ("an unknown key", edit_json("manifest.json", run="rm"), "run: unknown key"),
    ("a folder as dataset", edit_json("manifest.json", dataset_name="Dataset901_../../x"), "dataset_name: "),
    ("a folder as method", edit_json("manifest.json", method="../arena"), "method: "),
    (
        "an unknown foundation",
        edit_json("manifest.json", foundation="nobody"),
        "made on the foundation nobody, which is not here; get that and run: arena_install_foundation nobody.json WEIGHTS .*; then this again",
    ),
    ("another foundation", edit_json("manifest.json", foundation_sha256="e" * 64), "SHA-256 eeeeeeeeeeee.*, but arena_mini here"),
    ("no JSON", lambda files: files.update({"plans.json": b"[" * 100_000}), "plans.json: not a readable JSON file"),
    ("plans of another model", edit_json("plans.json", dataset_name="Dataset902_Other"), "are of different models"),
    ("other labels", edit_json(RECORD, dataset_labels={"background": 0, "liver": 2}), "made with other plans .*: labels .* there, .* here"),
    ("a record of another fold", edit_json(RECORD, fold=7), "arena, 2 shots, liver, fold 7"),
    ("a record of another task", edit_json(RECORD, task="spleen"), "made with other plans"),
    ("a tensor more", edit_tensors(**{"weight.evil": torch.ones(1)}), "the network has no parameter evil"),
    ("a tensor less", edit_tensors(**{f"{HEAD}bias": None}), "no out.conv.conv.bias"),
    ("another shape", edit_tensors(**{f"{HEAD}bias": torch.ones(9)}), r"out.conv.conv.bias is \(9,\), expected \(1,\)"),
    ("no numbers", edit_tensors(**{f"{HEAD}bias": torch.tensor([float("inf")])}), "values that are not finite"),
    ("doubles", edit_tensors(**{f"{HEAD}bias": torch.ones(1).double()}), "bias is F64"),
    ("a pickle", lambda files: files.update({"liver/fold_0/adapter.safetensors": b"\x80\x04cos\nsystem\n."}), "not a readable adapter"),
    ("voxels of a micrometre", scheme(spacing_mm=[0.001, 1, 1]), "voxels of .0.001, 1.0, 1.0. mm"),
    ("a patch of a person", scheme(patch_size_voxels=[3200, 32, 32]), "patches of .3200, 32, 32."),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_what_does_not_belong_into_a_package_is_refused_and_leaves_nothing(change: Change, message: str, package: Path, other: Workspace) -> None:
    bad = repacked(package, change)
    with pytest.raises(ArenaError, match=message) as refused:
        install_model(bad, other)
    assert str(bad) in str(refused.value)
    assert not other.root.exists() and not (other.root.parent / "liver").exists()


def test_a_changed_byte_is_refused_by_the_name_of_its_file(package: Path, other: Workspace) -> None:
    content = bytearray(package.read_bytes())
    with zipfile.ZipFile(package) as archive:
        entry = archive.getinfo("liver/fold_0/adapter.safetensors")
    content[entry.header_offset + entry.file_size] ^= 1  # inside its tensors
    package.write_bytes(content)
    with pytest.raises(PackageError, match="liver/fold_0/adapter.safetensors is damaged"):
        install_model(package, other)
    assert not other.root.exists()
