"""Pre-training on datasets that are annotated in part, from raw images to a foundation that predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from arena_pipeline.cli.info import main as info_command
from arena_pipeline.cli.install_foundation import main as install_command
from arena_pipeline.cli.pretrain import main as pretrain_command
from arena_pipeline.errors import ArenaError, DatasetError, FoundationError
from arena_pipeline.foundations import choose_foundation, load_preset, read_preset
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.research.pretrain.patches import PatchSteps
from arena_pipeline.research.pretrain.pretrain import pretrain_foundation
from arena_pipeline.research.pretrain.settings import PretrainSettings, make_settings
from arena_pipeline.research.pretrain.volumes import check_annotations, dataset_volumes, preprocess_volumes
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace


def test_labels_become_the_channels_of_the_preset(
    own_preset: Callable[..., Path], partly_annotated: Callable[..., Path], workspace: Workspace
) -> None:
    raw = RawDataset.open(partly_annotated({"case_0": ["liver"], "case_1": []}))  # labels: liver 1, spleen 2
    preset = read_preset(own_preset("sigmoid", ("spleen", "liver", "pancreas")))
    first, third = dataset_volumes(raw, preset, workspace)
    assert (first.identifier, first.targets, first.annotated) == ("case_0", {1: 2}, (False, True, False))
    assert (third.identifier, third.targets, third.annotated) == ("case_2", {1: 2, 2: 1}, (True, True, False))
    softmax = read_preset(own_preset("softmax", ("spleen", "liver")))
    assert dataset_volumes(raw, softmax, workspace)[1].targets == {1: 2, 2: 1}


def test_a_structure_that_is_not_annotated_is_neither_target_nor_centre(
    own_preset: Callable[..., Path], partly_annotated: Callable[..., Path], workspace: Workspace
) -> None:
    raw = RawDataset.open(partly_annotated({"case_0": ["liver"]}, cases=1))
    preset = read_preset(own_preset("sigmoid"))
    volumes = dataset_volumes(raw, preset, workspace)
    preprocess_volumes(raw, preset, volumes, workers=1)
    batch = PatchSteps([volumes], (32, 32, 32), PretrainSettings(steps=3, batch_size=4))[0]
    assert batch.targets.unique().tolist() == [0, 2]  # the liver is channel 1, so 2; the spleen is in the file but not annotated
    assert batch.annotated.tolist() == [[False, True]] * 4


def test_queries_of_the_split_are_left_out(own_preset: Callable[..., Path], tiny_dataset: Callable[..., Path], workspace: Workspace) -> None:
    folder = tiny_dataset()
    path = folder / "dataset.json"
    split = {"liver": {"train": ["case_0", "case_1"], "test": ["case_2"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split": split}))
    volumes = dataset_volumes(RawDataset.open(folder), read_preset(own_preset()), workspace)
    assert [volume.identifier for volume in volumes] == ["case_0", "case_1"]


def test_a_head_that_the_data_can_not_train_is_refused(
    own_preset: Callable[..., Path], partly_annotated: Callable[..., Path], workspace: Workspace
) -> None:
    raw = RawDataset.open(partly_annotated({"case_1": ["liver"]}))
    softmax = read_preset(own_preset("softmax"))
    with pytest.raises(FoundationError, match="case_1 of tiny has spleen not annotated .* in a softmax .* sigmoid head"):
        check_annotations(softmax, {"tiny": dataset_volumes(raw, softmax, workspace)})
    wide = read_preset(own_preset("sigmoid", ("spleen", "liver", "pancreas")))
    with pytest.raises(FoundationError, match="pancreas annotated in no volume of tiny"):
        check_annotations(wide, {"tiny": dataset_volumes(raw, wide, workspace)})
    sigmoid = read_preset(own_preset("sigmoid"))
    check_annotations(sigmoid, {"tiny": dataset_volumes(raw, sigmoid, workspace)})
    other = read_preset(own_preset("sigmoid", ("pancreas",)))
    with pytest.raises(DatasetError, match=r"none of its labels \(liver, spleen\) is a structure of foundation own \(pancreas\)"):
        dataset_volumes(raw, other, workspace)


def test_the_recipes() -> None:
    fseft = make_settings("sigmoid", 2022, {})
    assert (fseft.loss, fseft.learning_rate, fseft.weight_decay, fseft.foreground_share, fseft.averaging) == ("dice", 1e-4, 1e-5, 0.8, 0)
    assert (fseft.batch_size, fseft.steps, fseft.warmup_steps) == (24, 253_000, 2_530)  # 3 * 2022 / 24 = 252.75 steps are an epoch
    assert make_settings("sigmoid", 2022, {"steps": 50, "seed": None}).warmup_steps == 5
    mini = make_settings("softmax", 300, {"epochs": 2})
    assert (mini.steps, mini.warmup_steps, mini.loss) == (900, 100, "dice_ce")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 3, "epochs": 1}, "--steps and --epochs"),
        ({"averaging": 1.0}, "--averaging: .* less than 1"),
        ({"learning_rate": -1.0}, "--learning_rate: .* greater than 0"),
        ({"loss": "dice_balanced_ce"}, "is for softmax heads"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ArenaError, match=words):
        make_settings("sigmoid", 4, changes)


def test_nothing_to_train_on(own_preset: Callable[..., Path], workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nothing to train on"):
        pretrain_foundation(str(own_preset()), tmp_path / "out", workspace)
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(600)
def test_from_annotated_datasets_to_a_foundation_that_predicts(
    own_preset: Callable[..., Path],
    partly_annotated: Callable[..., Path],
    workspace: Workspace,
    tmp_path: Path,
    write_nifti: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two datasets, each with one structure annotated, move both channels of the head."""
    partly_annotated({f"case_{index}": ["liver"] for index in range(2)}, cases=2, dataset_id=901)
    partly_annotated({f"case_{index}": ["spleen"] for index in range(2)}, cases=2, dataset_id=902)
    output, root = tmp_path / "out", str(workspace.root)
    rate = ["--steps", "3", "--learning_rate", "0.001", "--batch_size", "2", "--loss", "dice_ce"]
    arguments = ["-foundation", str(own_preset()), "-w", root, "-o", str(output), "-device", "cpu", "-np", "1", *rate]
    assert pretrain_command([*arguments, "-d", "901", "902"]) == 0
    assert len((output / "training_log.csv").read_text().splitlines()) == 4
    torch.manual_seed(0)  # the command's default
    architecture = read_preset(output / "own.json").architecture
    name = f"{architecture.head}.bias"
    before, after = architecture.build().get_parameter(name), load_file(output / "own.safetensors")[name]
    assert (before != after).all() and after.dtype == torch.float16
    record = json.loads((output / "pretraining.json").read_text())
    assert record["volumes"] == {"Dataset901_Tiny": 2, "Dataset902_Tiny": 2} and record["settings"]["steps"] == 3

    weights = (output / "own.safetensors").read_bytes()
    assert pretrain_command([*arguments, "-d", "902", "901"]) == 0  # the same run in other words, and done already
    assert (output / "own.safetensors").read_bytes() == weights
    write_nifti(workspace.raw / "Dataset901_Tiny" / "labelsTr" / "case_1.nii.gz", np.ones((24, 24, 24), np.uint8))
    assert pretrain_command([*arguments, "-d", "901", "902"]) == 2  # not the run that is there
    assert "differing: datasets" in capsys.readouterr().err

    assert install_command([str(output / "own.json"), str(output / "own.safetensors"), "-w", root]) == 0
    assert choose_foundation(workspace.foundations)[0] == "own"
    assert load_preset("own", workspace.foundations).structures == {"spleen": 0, "liver": 1}
    installed = load_file(workspace.installed_foundation("own") / "weights.safetensors")
    assert all(torch.equal(tensor, installed[name]) for name, tensor in load_file(output / "own.safetensors").items())
    assert info_command(["-w", root]) == 0
    assert "own (used when none is named): a small one for tests" in capsys.readouterr().out

    images = workspace.raw_dataset("Dataset901_Tiny") / "imagesTs"
    predict(images, tmp_path / "predicted", workspace=workspace, zero_shot=["liver"], no_previews=True, device="cpu")
    assert read_segmentation(tmp_path / "predicted" / "query_0.nii.gz").array.shape == (24, 24, 24)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "fseft"}, "is the name of a foundation of the package"),
        ({"name": "a/b"}, "letters, digits, - and _ alone"),
        ({"head": "none"}, "head none"),
        ({"structures": {"spleen": 0, "liver": 0}}, r"a structure for each of the channels \[0, 1\]"),
        ({"heads": "sigmoid"}, "heads: unknown key"),
    ],
)
def test_an_own_preset_that_can_not_work_is_refused(own_preset: Callable[..., Path], changes: dict[str, object], words: str) -> None:
    with pytest.raises(FoundationError, match=words):
        read_preset(own_preset(**changes))
