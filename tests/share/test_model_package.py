"""A model that is given away: it works elsewhere as at home, tells nothing of the patients, and nothing hostile gets in with it."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from arena_pipeline.cli import export_model as export_command
from arena_pipeline.cli import install_model as install_command
from arena_pipeline.errors import AdapterError, ArenaError, PackageError
from arena_pipeline.foundations import load_preset, preset_folder, weights_file
from arena_pipeline.io.dataset import DatasetJson, StructureSplit
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.model.adapter import Adapter, AdapterRecord, read_adapter_record, write_adapter
from arena_pipeline.model.checkpoints import skeleton
from arena_pipeline.model.expected import ExpectedDice, write_expected
from arena_pipeline.model.model_folder import list_models
from arena_pipeline.planning import InferencePlan, Plans, TaskPlan, WorkersPlan
from arena_pipeline.settings import AdaptationSettings
from arena_pipeline.share.archive import REGULAR_FILE, YEAR_0
from arena_pipeline.stages import export_model as export_stage
from arena_pipeline.stages.adapt import describe_model
from arena_pipeline.stages.ensemble import ensemble
from arena_pipeline.stages.export_model import export_model
from arena_pipeline.stages.info import info
from arena_pipeline.stages.install_model import install_model
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace, fold_folder

DATASET, FOUNDATION = "Dataset901_Tiny", "arena_mini"
CASES = ("SMITH_john", "pat0042", "1.2.840.113619", "o'neill", "case 0 (copy)")
LABELS = {"background": 0, "liver": 1, "left atrium": 2}
Change = Callable[[dict[str, bytes]], None]


def make_model(workspace: Workspace) -> Path:
    """A model of two tasks and two folds on arena_mini, its texts full of names of cases, as those of a real one are."""
    preset = load_preset(FOUNDATION)
    weights = weights_file(preset, workspace.installed_foundation(FOUNDATION))
    tasks = tuple(
        TaskPlan(name=name, structures={name: LABELS[name]}, kind="base", train_decoder=False, head="new", keep_largest={name: True},
                 candidates=CASES, max_shots=4)
        for name in ("liver", "left atrium")
    )  # fmt: skip
    plans = Plans(
        dataset_name=DATASET, foundation=FOUNDATION, foundation_sha256=file_sha256(weights), objective="binary", labels=LABELS, scheme=preset.scheme,
        tasks=tasks, adaptation=AdaptationSettings(rank=2), inference=InferencePlan(window_batch=1), workers=WorkersPlan(preprocess=1, export=1),
        reasons={"tasks.liver.keep_largest.liver": f"more than one component in {CASES[0]} (2), {CASES[3]} (3)"},
    )  # fmt: skip
    model = workspace.model(DATASET, FOUNDATION, "arena", 2)
    plans.write(model / "plans.json")
    DatasetJson(
        channel_names={"0": "CT"}, labels=LABELS, numTraining=4, file_ending=".nii.gz", objective="binary", annotated={CASES[1]: ("liver",)},
        split={"*": StructureSplit(train=CASES[:2], test=CASES[2:])}, source=f"/data/{CASES[0]}", licence="CC BY 4.0",
    ).write(model / "dataset.json")  # fmt: skip
    for task in tasks:
        for fold in (0, 1):
            write_adapter(fold_folder(model, task.name, fold), _adapter(plans, task, fold))
            (fold_folder(model, task.name, fold) / "training_log.csv").write_text(CASES[2])
    return model


def _adapter(plans: Plans, task: TaskPlan, fold: int) -> Adapter:
    """Random updates of rank 2 (key) and 0 (value) on every projection, and a random head."""
    generator = torch.Generator().manual_seed(10 * LABELS[task.name] + fold)
    network, tensors, ranks = skeleton(load_preset(FOUNDATION).architecture), {}, {}
    for name, weight in network.items():
        if name.endswith("attn.qkv.weight"):
            layer, channels = name.removesuffix(".weight"), weight.shape[1]
            for projection, rank in (("key", 2), ("value", 0)):
                ranks[f"{layer}.{projection}"] = rank
                tensors[f"update.{layer}.{projection}.A"] = torch.randn(rank, channels, generator=generator)
                tensors[f"update.{layer}.{projection}.B"] = torch.randn(channels, rank, generator=generator) * 0.01
                tensors[f"update.{layer}.{projection}.v"] = torch.ones(rank)
    tensors["weight.out.conv.conv.weight"] = torch.randn(1, 12, 1, 1, 1, generator=generator)
    tensors["weight.out.conv.conv.bias"] = torch.zeros(1)
    record = AdapterRecord(
        dataset_name=plans.dataset_name, foundation=plans.foundation, foundation_sha256=plans.foundation_sha256, plans_sha256="0" * 64,
        scheme=plans.scheme, inference=plans.inference, task=task.name, structures=task.structures, dataset_labels=plans.labels,
        activation=task.activation, kind=task.kind, train_decoder=False, head=task.head, keep_largest=task.keep_largest, fold=fold, shots=2,
        support_ids=CASES[fold : fold + 2], support_sha256="f" * 64, settings=plans.adaptation,
        effective_rank=ranks, trained_parameters=10, saved_parameters=10,
        epochs=3, stop_reason="last epoch", final_loss=0.5, seconds=1.0, versions={}, licence="Apache-2.0",
    )  # fmt: skip
    return Adapter(record, tensors)


@pytest.fixture
def other(tmp_path: Path) -> Workspace:
    """The workspace of somebody else, not made yet."""
    return Workspace(tmp_path / "elsewhere" / "their workspace")


@pytest.fixture
def package(workspace: Workspace, tmp_path: Path) -> Path:
    make_model(workspace)
    export_model(901, tmp_path / "model.zip", workspace, shots=2)
    return tmp_path / "model.zip"


def contents(package: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repacked(package: Path, change: Change) -> Path:
    """The package with other contents and honest checksums, as somebody who means harm would make it."""
    files = contents(package)
    change(files)
    manifest = json.loads(files.pop("manifest.json"))
    manifest["files"] = {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    changed = package.with_name("changed.zip")
    with zipfile.ZipFile(changed, "w") as archive:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            info = zipfile.ZipInfo(name, YEAR_0)
            info.create_system, info.external_attr = 3, REGULAR_FILE
            archive.writestr(info, content)
    return changed


def test_it_predicts_elsewhere_what_it_predicts_at_home(
    package: Path, workspace: Workspace, other: Workspace, tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz", np.random.default_rng(3).normal(0, 100, (24, 20, 16)).astype(np.int16), (4, 4, 4))
    installed = install_model(package, other)
    assert installed.folder == other.model(DATASET, FOUNDATION, "arena", 2) and installed.missing_foundation is None
    assert [model.path for model in list_models(other)] == [installed.folder]
    predict(scan, tmp_path / "home", workspace, folds=[1], no_previews=True, device="cpu")
    predict(scan, tmp_path / "there", other, dataset_id=901, shots=2, folds=[1], save_probabilities=True, no_previews=True, device="cpu")
    ensemble([tmp_path / "there"], tmp_path / "mean")
    home = read_segmentation(tmp_path / "home" / "scan.nii.gz").array
    assert set(np.unique(home)) == {0, 1, 2}
    np.testing.assert_array_equal(read_segmentation(tmp_path / "there" / "scan.nii.gz").array, home)
    assert read_segmentation(tmp_path / "mean" / "scan.nii.gz").array.max() == 2
    (model,) = info(other).models
    assert model.installed and model.folds == {"liver": (0, 1), "left atrium": (0, 1)} and model.next_command.startswith("arena_predict")
    assert not info(workspace).models[0].installed


def test_nothing_in_it_tells_of_patients_or_of_the_machine(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "ct-desk-7")
    for variable in ("USER", "LOGNAME", "HOSTNAME", "HOME"):
        monkeypatch.setenv(variable, "/home/dr-who")
    make_model(workspace)
    summary = tmp_path / "summary.json"
    means = {"1": {"Dice": 0.875, "NSD_1mm": 0.5}, "2": {"Dice": float("nan"), "NSD_1mm": 0.25}}
    per_case = [{"reference_file": f"/data/{case}.nii.gz", "metrics": {}} for case in CASES]
    summary.write_text(json.dumps({"structures": {"1": "liver", "2": "left atrium"}, "mean": means, "metric_per_case": per_case}))
    export_model(901, tmp_path / "model.zip", workspace, summary=summary)
    files = contents(tmp_path / "model.zip")
    secrets = (*CASES, str(workspace.root), str(tmp_path), "/data/", "ct-desk-7", "dr-who", "training_log")
    for name, content in files.items():
        assert not [secret for secret in secrets if secret.encode() in content or secret in name], name
    card = files["MODEL_CARD.md"].decode()
    assert f"Means over {len(CASES)} cases" in card
    for part in ("| liver | 0.875 | 0.500 |", "arena_install_model", "Not a medical device", "arena, 2 shots", "0, 1"):
        assert part in card
    assert file_sha256(weights_file(load_preset(FOUNDATION), tmp_path)) in card
    assert "Apache-2.0" in files["LICENCE.txt"].decode() and "CC BY 4.0" in files["LICENCE.txt"].decode()
    assert json.loads(files["labels.json"])["labels"] == LABELS
    assert len(files) == 5 + 2 * 2 * 2 and (tmp_path / "model.zip").stat().st_size < 2**20


def test_the_same_model_gives_the_same_bytes_there_and_here(package: Path, workspace: Workspace, other: Workspace, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    export_model(901, again, workspace)
    assert again.read_bytes() == package.read_bytes()
    install_model(package, other)
    export_model(901, tmp_path / "theirs.zip", other)
    assert (tmp_path / "theirs.zip").read_bytes() == package.read_bytes()
    record = read_adapter_record(fold_folder(other.model(DATASET, FOUNDATION, "arena", 2), "liver", 1))
    assert record.support_ids == () and record.support_sha256 is None and record.shots == 2


def test_some_of_the_folds_and_structures(workspace: Workspace, other: Workspace, tmp_path: Path) -> None:
    model = make_model(workspace)
    for name in ("liver", "left atrium"):
        write_expected(model / name, [ExpectedDice.of(name, "arena", (0.8, 0.7, 0.9), None)])
    manifest = export_model(901, tmp_path / "part.zip", workspace, folds=[1], structures=["liver"])
    assert manifest.folds == {"liver": (1,)}
    with zipfile.ZipFile(tmp_path / "part.zip") as package:
        card = package.read("MODEL_CARD.md").decode()
    assert "liver: expected Dice 0.800" in card and "left atrium" not in card
    install_model(tmp_path / "part.zip", other)
    assert info(other).models[0].folds == {"liver": (1,)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_name": "Dataset902_Other"}, "of Dataset901_Tiny/.* of Dataset902_Other"),
        ({"foundation": "fseft"}, "for arena_mini was made with other plans .* for fseft: foundation arena_mini there, fseft here"),
        ({"foundation_sha256": "f" * 64}, "foundation_sha256 .* there, ffff"),
    ],
)
def test_an_adapter_of_other_plans_is_refused_with_both_names(change: dict[str, str], message: str, workspace: Workspace, tmp_path: Path) -> None:
    model = make_model(workspace)
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps(plans | change))
    with pytest.raises(AdapterError, match=message):
        export_model(901, tmp_path / "model.zip", workspace)
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(AdapterError, match=message):
        predict(tmp_path / "scan.nii.gz", tmp_path / "out", workspace, model_folder=model, device="cpu")
    assert not (tmp_path / "model.zip").exists()


@pytest.mark.parametrize("words", ["with {}", "as {}.", "'{}'", "/data/{}.nii.gz", "/data/{}_0000.nii.gz, lent"])
@pytest.mark.parametrize("case", [*CASES, "4"])
def test_a_case_is_found_however_it_is_named(case: str, words: str, workspace: Workspace, tmp_path: Path) -> None:
    model = make_model(workspace)
    description = DatasetJson.read(model / "dataset.json").model_copy(update={"split": {"*": StructureSplit(train=(*CASES, "4"), test=())}})
    description.write(model / "dataset.json")
    export_model(901, tmp_path / "model.zip", workspace)  # its licence, CC BY 4.0, names no case 4
    description.model_copy(update={"licence": f"CC BY 4.0 {words.format(case)}"}).write(model / "dataset.json")
    with pytest.raises(PackageError, match=f"its licence names the case {re.escape(case)};"):
        export_model(901, tmp_path / "another.zip", workspace)


def test_a_text_that_names_a_case_and_a_file_that_is_there_are_refused(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(workspace)
    description = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps({**description, "licence": f"as agreed with {CASES[1]}"}))
    with pytest.raises(PackageError, match="its licence names the case pat0042"):
        export_model(901, tmp_path / "model.zip", workspace)
    (model / "dataset.json").write_text(json.dumps(description))
    own = load_preset(FOUNDATION).model_copy(update={"title": f"trained on {CASES[1]} and others"})
    with monkeypatch.context() as patched, pytest.raises(PackageError, match=f"the preset of {FOUNDATION} names the case pat0042"):
        patched.setattr(export_stage, "load_preset", lambda *_: own)
        export_model(901, tmp_path / "model.zip", workspace)
    assert not (tmp_path / "model.zip").exists()
    (tmp_path / "model.zip").write_text("mine")
    with pytest.raises(PackageError, match="is there already"):
        export_model(901, tmp_path / "model.zip", workspace)
    with pytest.raises(AdapterError, match="no adapted model with dataset 901, shots 7"):
        export_model(901, tmp_path / "7.zip", workspace, shots=7)


def test_a_model_that_is_there_stays_unless_it_is_to_be_replaced(package: Path, workspace: Workspace, other: Workspace) -> None:
    target = install_model(package, other).folder
    (target / "mine.txt").touch()
    with pytest.raises(PackageError, match="a model is there already; add --overwrite"):
        install_model(package, other)
    with pytest.raises(ArenaError):
        install_model(repacked(package, lambda files: files.update({"plans.json": b"{}"})), other, overwrite=True)
    assert (target / "mine.txt").is_file() and [path.name for path in target.parent.iterdir()] == [target.name]
    install_model(package, other, overwrite=True)
    assert not (target / "mine.txt").exists()
    with pytest.raises(AdapterError, match="was installed from a package; delete its folder"):
        describe_model(cast(Any, None), target)


def test_what_a_killed_installation_left_is_put_right(package: Path, other: Workspace) -> None:
    target = install_model(package, other).folder
    target.rename(target.with_name(f".{target.name}.replaced"))  # killed between its two renames
    half = target.with_name(f".{target.name}.installing")
    (half / "liver" / "fold_0").mkdir(parents=True)
    (half / "liver" / "fold_0" / "adapter.json").write_text("{")
    assert list_models(other) == [] and info(other).models == ()
    with pytest.raises(PackageError, match="a model is there already"):
        install_model(package, other)
    assert [path.name for path in target.parent.iterdir()] == [target.name] and len(list_models(other)) == 1


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


def test_a_foundation_that_is_not_here_yet_is_told(
    package: Path, other: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = json.loads((preset_folder() / f"{FOUNDATION}.json").read_text())
    preset["weights"] |= {"packaged": None, "sha256": None}
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / f"{FOUNDATION}.json").write_text(json.dumps(preset))
    monkeypatch.setattr("arena_pipeline.foundations.presets.preset_folder", lambda: tmp_path / "presets")
    assert install_command.main([str(package), "-w", str(other.root)]) == 0
    printed = capsys.readouterr().out
    assert "its foundation is not here yet: arena_mini" in printed and "next: arena_install_foundation arena_mini" in printed
    (model,) = info(other).models
    assert model.next_command.startswith("arena_install_foundation arena_mini")


def test_the_commands_say_what_they_did_and_what_comes_next(
    workspace: Workspace, other: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(workspace)
    file = tmp_path / "model.zip"
    assert export_command.main(["-d", "901", "-shots", "2", "-method", "arena", "-o", str(file), "-w", str(workspace.root)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"model\.zip: 0\.\d MB, 13 files", printed) and "left atrium: folds 0, 1" in printed
    assert install_command.main([str(file), "-w", str(other.root)]) == 0
    assert "next: arena_predict -i in/ -o out/ -m" in capsys.readouterr().out
    assert install_command.main([str(file), "-w", str(other.root)]) == 2
    assert "a model is there already" in capsys.readouterr().err
