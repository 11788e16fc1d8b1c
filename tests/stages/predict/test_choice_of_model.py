"""Which model, folds and structures predict, and what is said of those that do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from arena_pipeline.cli.info import main as show_info
from arena_pipeline.cli.predict import main
from arena_pipeline.errors import AdapterError, ArenaError, DatasetError, FoundationError, PlansError, UnknownStructure
from arena_pipeline.model.model_folder import choose_model
from arena_pipeline.planning import Plans
from arena_pipeline.stages.info import info
from arena_pipeline.stages.predict import predict, predict_to_file
from arena_pipeline.workspace import Workspace, fold_folder
from tests.stages.predict.conftest import BINARY, FOUNDATION, make_model


def test_an_unknown_structure_lists_those_of_a_multiclass_model_and_a_lost_file_is_told_before_the_cts(
    workspace: Workspace, scans: Path, tmp_path: Path
) -> None:
    model = make_model(workspace, "multiclass", folds=(0,))
    with pytest.raises(UnknownStructure, match="unknown structure livre; the model of Dataset901_Tiny has: .*liver"):
        predict(scans, tmp_path / "out", workspace, structures=["livre"])
    (fold_folder(model, "multiclass", 0) / "adapter.safetensors").unlink()
    with pytest.raises(AdapterError, match="multiclass: .*adapter.safetensors is missing"):
        predict(scans, tmp_path / "out", workspace)
    assert not (tmp_path / "out").exists()


def test_each_fold_that_leaves_a_scan_out_is_missed(workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(workspace, "binary", folds=(0, 1, 2))
    for path in model.glob("liver/fold_*/adapter.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"support_ids": content["support_ids"][1:]}))
    predict(scans / "a_0000.nii.gz", tmp_path / "out", workspace, structures=["liver"], no_previews=True)
    assert "fold 3, 4 has no usable adapter" in caplog.text


def test_folds_that_are_missing_are_told(workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(workspace, "binary")
    shutil.rmtree(fold_folder(model, "spleen", 1))
    predict(scans / "a_0000.nii.gz", tmp_path / "out", workspace, no_previews=True)
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert warning.startswith("fold 1 has no usable adapter") and "the folds in brackets: spleen (0)." in warning
    caplog.clear()
    predict(scans / "b.nii.gz", tmp_path / "chosen", workspace, folds=[0], no_previews=True)
    assert "is planned" not in caplog.text


def test_a_model_folder_and_another_choice_beside_it_are_refused(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", folds=(0,))
    with pytest.raises(
        PlansError, match=r"arena_5shots: this model is not the one .*: -d 7, where the model has 901, -shots 3, .* 5; leave them out"
    ):
        predict(scans, tmp_path / "out", workspace, model_folder=model, dataset_id=7, shots=3)
    assert not (tmp_path / "out").exists()
    assert predict(scans / "b.nii.gz", tmp_path / "out", workspace, model_folder=model, dataset_id=901, no_previews=True).written


def test_without_a_model_the_error_says_what_to_run(workspace: Workspace, scans: Path, tmp_path: Path, tiny_dataset: Callable[..., Path]) -> None:
    with pytest.raises(AdapterError, match=r"put a dataset into .*raw"):
        predict(scans, tmp_path / "out", workspace)
    tiny_dataset(901)
    with pytest.raises(AdapterError, match="run: arena_plan_and_preprocess -d 901 -w .*, then arena_adapt -d 901 -shots 5 -w "):
        predict(scans, tmp_path / "out", workspace)
    assert not (tmp_path / "out").exists()


def test_of_several_models_each_ones_command_is_listed_and_works(
    workspace: Workspace, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    make_model(workspace, "binary", shots=5, folds=(0,))
    make_model(workspace, "binary", shots=10, folds=(0,))
    make_model(workspace, "binary", shots=5, folds=(0,), dataset="Dataset102_Other")
    typed = ["-i", str(scans), "-o", str(tmp_path / "out"), "-w", str(workspace.root)]
    assert main(typed) == 2
    message = capsys.readouterr().err
    commands = message[message.index(": arena_predict") + 2 :].split("; ")
    endings = [command.split(" ")[-4:] for command in commands]
    assert len(commands) == 3 and ["-d", "901", "-shots", "10\n"] not in endings
    assert sorted(shlex.split(command)[7:] for command in commands) == [["-d", "102"], ["-d", "901", "-shots", "10"], ["-d", "901", "-shots", "5"]]
    assert main([*shlex.split(commands[-1])[1:], "--no_previews", "-device", "cpu"]) == 0
    with pytest.raises(AdapterError, match="no adapted model with dataset 7"):
        predict(scans, tmp_path / "out", workspace, dataset_id=7)


def test_where_one_file_is_wanted_the_listed_commands_name_it(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    for shots in (5, 10):
        make_model(workspace, "binary", shots=shots, folds=(0,))
    with pytest.raises(AdapterError, match=rf"arena_predict -i .+ -o {tmp_path}/one.nii.gz -w .+ -d 901 -shots 10;"):
        predict_to_file(scans / "b.nii.gz", tmp_path / "one.nii.gz", workspace)
    with pytest.raises(DatasetError, match="one file, and -num_parts splits a folder"):
        predict_to_file(scans / "b.nii.gz", tmp_path / "one.nii.gz", workspace, shots=10, num_parts=2, part_id=1)
    predict_to_file(scans / "b.nii.gz", tmp_path / "one.nii.gz", workspace, shots=10)
    assert [path.name for path in tmp_path.glob("one*")] == ["one.nii.gz"]


def test_a_method_is_chosen_by_name_and_arena_without(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", folds=(0,))
    shutil.copytree(model, model.with_name("lora_5shots"))
    shutil.copytree(model, model.with_name("lora_10shots"))
    assert choose_model(workspace, "arena_predict", None, None, None) == model
    assert choose_model(workspace, "arena_predict", None, 5, None, "lora") == model.with_name("lora_5shots")
    with pytest.raises(AdapterError, match="2 adapted models fit.*-d 901 -shots 10 -method lora; .*-d 901 -shots 5 -method lora"):
        choose_model(workspace, "arena_predict", 901, None, None, "lora")
    with pytest.raises(AdapterError, match="no adapted model with method fft .*-d NUMBER -shots 5 -method fft -w .*There are: .*-d 901; "):
        predict(scans, tmp_path / "out", workspace, method="fft")
    with pytest.raises(
        AdapterError, match="run: arena_plan_and_preprocess -d 7 -foundation organs -w .* arena_adapt -d 7 -shots 5 -foundation organs "
    ):
        predict(scans, tmp_path / "out", workspace, dataset_id=7, foundation="organs")


def test_adapters_of_other_plans_are_left_out_and_told(
    workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(workspace, "binary")
    plans = Plans.read(model / "plans.json")
    plans.model_copy(update={"tasks": plans.tasks[:1]}).write(model / "plans.json")
    assert predict(scans / "b.nii.gz", tmp_path / "out", workspace, no_previews=True).labels == {"liver": 1}
    assert f"left out, adapted with other plans than {model / 'plans.json'}: spleen, folds 0, 1" in caplog.messages
    with pytest.raises(UnknownStructure, match="has: liver; left out, adapted with other plans than those of now: spleen, folds 0, 1"):
        predict(scans, tmp_path / "out", workspace, structures=["spleen"])
    assert (info(workspace).models[0].folds, info(workspace).models[0].of_other_plans) == ({"liver": (0, 1)}, {"spleen": (0, 1)})
    assert show_info(["-w", str(workspace.root)]) == 0
    assert "    of other plans, not used: spleen, folds 0, 1\n" in capsys.readouterr().out
    plans.model_copy(update={"labels": {**BINARY, "heart": 3}}).write(model / "plans.json")
    with pytest.raises(AdapterError, match="liver/fold_0: .* was made with other plans .*labels"):
        predict(scans, tmp_path / "out", workspace)
    assert info(workspace).models[0].next_command == workspace.command("arena_adapt", "-d", 901, "-foundation", FOUNDATION, "-shots", 5)


def test_arguments_that_name_nothing(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", folds=(0, 2))
    with pytest.raises(AdapterError, match=r"fold 1 is not adapted .*finished: 0, 2"):
        predict(scans, tmp_path / "out", workspace, folds=[0, 1])
    with pytest.raises(UnknownStructure, match="heart"):
        predict(scans, tmp_path / "out", workspace, structures=["heart"])
    with pytest.raises(AdapterError, match="not a model folder"):
        predict(scans, tmp_path / "out", workspace, model_folder=tmp_path)
    with pytest.raises(UnknownStructure, match=r"not pre-trained on heart.*knows: spleen"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["heart"])
    with pytest.raises(PlansError, match="leave out -method"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], method="lora")
    with pytest.raises(PlansError, match="leave out -shots, -m"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], shots=5, model_folder=model)
    with pytest.raises(FoundationError, match="no linear head"):
        predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], foundation="suprem_swinunetr")
    with pytest.raises(ArenaError, match="unknown device tpu"):
        predict(scans, tmp_path / "out", workspace, device="tpu")
    assert not (tmp_path / "out").exists()


def test_the_plans_of_the_model_folder_may_be_edited_but_not_misspelled(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary")
    content = json.loads((model / "plans.json").read_text())
    content["inference"]["overlapp"] = 0.5
    (model / "plans.json").write_text(json.dumps(content))
    with pytest.raises(PlansError, match=r"inference\.overlapp: unknown key"):
        predict(scans, tmp_path / "out", workspace)
