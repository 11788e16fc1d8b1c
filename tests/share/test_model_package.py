"""A model that is given away: it works elsewhere as at home, and tells nothing of the patients."""

from __future__ import annotations

import json
import re
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from arena_pipeline.cli import export_model as export_command
from arena_pipeline.cli import install_model as install_command
from arena_pipeline.errors import AdapterError, ArenaError, PackageError
from arena_pipeline.foundations import load_preset, preset_folder, weights_file
from arena_pipeline.io.dataset import DatasetJson, StructureSplit
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.model.adapter import read_adapter_record
from arena_pipeline.model.expected import ExpectedDice, write_expected
from arena_pipeline.model.model_folder import list_models
from arena_pipeline.stages import export_model as export_stage
from arena_pipeline.stages.adapt import describe_model
from arena_pipeline.stages.ensemble import ensemble
from arena_pipeline.stages.export_model import export_model
from arena_pipeline.stages.info import info
from arena_pipeline.stages.install_model import install_model
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace, fold_folder
from tests.share.conftest import CASES, DATASET, FOUNDATION, LABELS, contents, make_model, repacked


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
