"""Models that nnunetv2 planned, trained and ran itself (tests/fixtures/make_nnunet.py): read, prepared for and computed to its numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.images import read_image
from arena_pipeline.model.nnunet_checkpoint import read_nnunet_checkpoint
from arena_pipeline.model.nnunet_folder import NnunetModel, read_nnunet_folder
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.predict.predictors import zero_shot_setup
from arena_pipeline.preprocess.case import preprocess_image
from arena_pipeline.stages.install_foundation import install_model_folder
from arena_pipeline.workspace import Workspace
from tests.toy import predict_image

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nnunet"
KINDS = ("plain", "residual")
TRAINED = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def model_folder(kind: str, root: Path, plans: str = "plans.json", name: str = TRAINED) -> Path:
    """The model as nnU-Net lays it out."""
    target = root / "Dataset901_Tiny" / name
    shutil.copytree(FIXTURES / kind, target)
    shutil.copy(FIXTURES / kind / plans, target / "plans.json")
    return target


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def network_of(model: NnunetModel) -> torch.nn.Module:
    network = model.preset.architecture.build()
    network.load_state_dict(read_nnunet_checkpoint(model).tensors)
    return network


@pytest.mark.parametrize("plans", ["plans.json", "plans_old_format.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_nnunet(kind: str, plans: str, tmp_path: Path) -> None:
    expected = np.load(FIXTURES / kind / "expected.npz")
    network = network_of(read_nnunet_folder(model_folder(kind, tmp_path, plans)))
    with torch.inference_mode():
        logits = network(torch.from_numpy(expected["patch"])[None, None])[0].numpy()
    assert np.abs(logits - expected["logits"]).max() < 1e-5 * max(1, np.abs(expected["logits"]).max())


@pytest.mark.parametrize("kind", KINDS)
def test_preprocessed_array_is_that_of_nnunet(kind: str, tmp_path: Path) -> None:
    """Isotropic and anisotropic, with a border of zeros that is cut off, of an image that is not stored as RAS."""
    expected = np.load(FIXTURES / kind / "expected.npz")
    low, high = expected["range"]
    scheme = read_nnunet_folder(model_folder(kind, tmp_path)).preset.scheme
    volume, grid = preprocess_image(read_image(FIXTURES / kind / "case.nii.gz"), scheme)
    assert volume.shape == expected["preprocessed"].shape == grid.cropped_shape
    difference = np.abs(volume - (low + expected["preprocessed"].astype(np.float64) / 65535 * (high - low)))
    assert difference.max() < 1e-3 * (high - low)


VARIANTS = {  # those of tests/fixtures/make_nnunet.py
    "zscore": ("SimpleITKIO", "ZScoreNormalization", False),
    "masked": ("NibabelIO", "ZScoreNormalization", True),
    "none": ("NibabelIOWithReorient", "NoNormalization", False),
    "reorient": ("SimpleITKIOWithReorient", "CTNormalization", False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_readers_and_normalizations_are_those_of_nnunet(name: str, tmp_path: Path) -> None:
    reader, scheme, masked = VARIANTS[name]
    folder, expected = model_folder("plain", tmp_path), np.load(FIXTURES / "plain" / "variants.npz")
    edited(folder / "plans.json", lambda plans: plans.update(image_reader_writer=reader))
    edited(folder / "plans.json", of_configuration({"normalization_schemes": [scheme], "use_mask_for_norm": [masked]}))
    volume, _ = preprocess_image(read_image(FIXTURES / "plain" / "case.nii.gz"), read_nnunet_folder(folder).preset.scheme)
    low, high = expected[f"{name}_range"]
    assert volume.shape == expected[name].shape
    assert np.abs(volume - (low + expected[name].astype(np.float64) / 65535 * (high - low))).max() < 1e-3 * (high - low)


@pytest.mark.parametrize("kind", KINDS)
def test_segmentation_is_that_of_nnunet_in_999_of_1000_voxels(kind: str, tmp_path: Path) -> None:
    expected = np.load(FIXTURES / kind / "expected.npz")
    folder, workspace = model_folder(kind, tmp_path), Workspace(tmp_path / "workspace")
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    for name in content["network_weights"]:
        if name.endswith("seg_layers.2.bias"):
            content["network_weights"][name] = content["network_weights"][name] - torch.from_numpy(expected["means"])
    torch.save(content, path)
    preset = install_model_folder(folder, workspace, "tiny").record.preset
    setup = zero_shot_setup(list(preset.structures), workspace, "tiny", None, torch.device("cpu"), {})
    segmentation = predict_image(read_image(FIXTURES / kind / "case.nii.gz"), setup.tasks, setup.settings)
    assert len(np.unique(segmentation)) == 4
    assert (segmentation == expected["segmentation"]).mean() > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_folder_becomes_a_foundation(kind: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    installed = install_model_folder(model_folder(kind, tmp_path).parent, workspace, "tiny")
    preset = load_preset("tiny", workspace.foundations)
    assert preset.structures == {"liver": 1, "spleen": 2, "pancreas": 3}
    assert preset.licence == "not stated" and installed.record.missing == 0
    assert preset.scheme.orientation == "as_stored" and preset.scheme.overlap == 0.5
    network = load_foundation_network(preset, installed.folder / "weights.safetensors")
    expected = np.load(FIXTURES / kind / "expected.npz")
    with torch.inference_mode():
        logits = network(torch.from_numpy(expected["patch"])[None, None])[0].numpy()
    assert np.abs(logits - expected["logits"]).max() < 1e-5 * np.abs(expected["logits"]).max()


def test_totalsegmentator_and_readers_that_reorient_are_ras(tmp_path: Path) -> None:
    folder = model_folder("plain", tmp_path / ".totalsegmentator")
    model = read_nnunet_folder(folder)
    assert model.preset.scheme.orientation == "RAS" and any("TotalSegmentator" in choice for choice in model.choices)
    other = model_folder("plain", tmp_path)
    edited(other / "plans.json", lambda plans: plans.update(image_reader_writer="SimpleITKIOWithReorient"))
    assert read_nnunet_folder(other).preset.scheme.orientation == "RAS"


@pytest.mark.parametrize(
    ("dataset", "orientation"),
    [
        ("Dataset291_TotalSegmentator_part1_organs_1559subj", "RAS"),
        ("Dataset297_TotalSegmentator_total_3mm_1559subj_v204", "RAS"),
        ("Dataset831_TotalSegmentator_part1_organs_1830subj", "RAS"),
        ("Dataset777_MyFinetuneOfTotalSegmentator", "as_stored"),
        ("Dataset291_TotalSegmentator_part1_organs_finetuned", "as_stored"),
        ("Dataset501_TotalSegmentator_part1_organs_1559subj", "as_stored"),
    ],
)
def test_of_folders_elsewhere_totalsegmentator_s_own_names_alone_make_it_ras(dataset: str, orientation: str, tmp_path: Path) -> None:
    folder = model_folder("plain", tmp_path).parent.rename(tmp_path / dataset)
    assert read_nnunet_folder(folder).preset.scheme.orientation == orientation


def test_folders_beside_totalsegmentator_s_weights_are_as_their_reader_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path))
    assert read_nnunet_folder(model_folder("plain", tmp_path)).preset.scheme.orientation == "as_stored"
    assert read_nnunet_folder(model_folder("plain", tmp_path / "nnunet" / "results")).preset.scheme.orientation == "RAS"


def test_fold_is_chosen_and_said(tmp_path: Path) -> None:
    folder = model_folder("plain", tmp_path)
    shutil.copytree(folder / "fold_0", folder / "fold_all")
    model = read_nnunet_folder(folder)
    assert model.checkpoint.parent.name == "fold_0" and "fold 0 of 0, all" in model.choices[0]
    assert read_nnunet_folder(folder, fold="all").checkpoint.parent.name == "fold_all"
    with pytest.raises(FoundationError, match="no fold 3, it has: 0, all; name one of them with -f"):
        read_nnunet_folder(folder, fold="3")


def of_configuration(change: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    return lambda plans: plans["configurations"]["3d_fullres"].update(change)


def of_network(change: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    return lambda plans: plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(change)


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "2d": ("plans.json", of_configuration({"patch_size": [64, 64]}), "is a 2D network; name the folder of a 3d_fullres"),
    "cascade": ("plans.json", of_configuration({"previous_stage": "3d_lowres"}), "second stage of a cascade"),
    "resampling": ("plans.json", of_configuration({"resampling_fn_data": "resample_torch_fornnunet"}), "resample_torch_fornnunet, only"),
    "normalization": ("plans.json", of_configuration({"normalization_schemes": ["RescaleTo01Normalization"]}), "RescaleTo01Normalization"),
    "batch norm": ("plans.json", of_network({"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}), "BatchNorm3d, expected InstanceNorm3d"),
    "slope": ("plans.json", of_network({"nonlin_kwargs": {"negative_slope": 0.2}}), "negative_slope in nonlin_kwargs .* is 0.2, only 0.01 is"),
    "eps": ("plans.json", of_network({"norm_op_kwargs": {"eps": 0.001, "affine": True}}), "eps in norm_op_kwargs .* is 0.001, only 1e-05 is"),
    "reader": ("plans.json", lambda plans: plans.update(image_reader_writer="Tiff3DIO"), "image_reader_writer is Tiff3DIO; known: SimpleITKIO"),
    "not nnU-Net's": ("plans.json", lambda plans: plans.pop("transpose_forward"), "not as nnU-Net v2 writes it .*transpose_forward.*copy"),
    "another network": (
        "plans.json",
        lambda plans: plans["configurations"]["3d_fullres"]["architecture"].update(network_class_name="my.MedNeXt"),
        "is a MedNeXt; known: PlainConvUNet, ResidualEncoderUNet",
    ),
    "round": ("plans.json", of_configuration({"inherits_from": "3d_fullres"}), "inherits_from goes round"),
    "MR": ("dataset.json", lambda dataset: dataset.update(channel_names={"0": "T1"}), "input channels are T1, expected CT alone"),
    "two channels": ("dataset.json", lambda dataset: dataset.update(channel_names={"0": "CT", "1": "PET"}), "CT, PET, expected CT alone"),
    "regions": ("dataset.json", lambda dataset: dataset["labels"].update(liver=[1, 2]), "labels are regions"),
    "gap": ("dataset.json", lambda dataset: dataset["labels"].update(pancreas=7), "consecutive integers"),
    "other plans": ("plans.json", of_network({"features_per_stage": [4, 8, 8, 16]}), "does not fit the network of .*instead of"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_that_can_not_be_taken_over_is_refused_with_the_reason(what: str, tmp_path: Path) -> None:
    file, change, message = REFUSED[what]
    folder = model_folder("plain", tmp_path)
    edited(folder / file, change)
    workspace = Workspace(tmp_path / "workspace")
    with pytest.raises(FoundationError, match=message):
        install_model_folder(folder, workspace, "tiny")
    assert not (tmp_path / "workspace").exists()


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FoundationError, match="no such folder; name a folder such as"):
        read_nnunet_folder(tmp_path / "nothing")
    with pytest.raises(FoundationError, match=r"no plans\.json"):
        read_nnunet_folder(tmp_path)
    v1 = tmp_path / "Task001_Old" / "nnUNetTrainerV2__nnUNetPlansv2.1"
    v1.mkdir(parents=True)
    (v1 / "plans.pkl").write_bytes(b"")
    with pytest.raises(FoundationError, match="nnU-Net v1"):
        read_nnunet_folder(v1.parent)
    model_folder("plain", tmp_path)
    model_folder("plain", tmp_path, name="nnUNetTrainer__nnUNetPlans__3d_lowres")
    with pytest.raises(FoundationError, match="several models: .*3d_fullres, .*3d_lowres; name the folder of one"):
        read_nnunet_folder(tmp_path / "Dataset901_Tiny")


def test_damaged_checkpoints_and_those_of_another_network(tmp_path: Path) -> None:
    folder = model_folder("plain", tmp_path)
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    model = read_nnunet_folder(folder)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(FoundationError, match="truncated"):
        read_nnunet_checkpoint(model)
    weights = content["network_weights"]
    torch.save(content | {"network_weights": weights | {"encoder.gate.weight": torch.zeros(2)}, "trainer_name": "MyTrainer"}, path)
    with pytest.raises(FoundationError, match=r"trainer MyTrainer may build.*encoder\.gate\.weight"):
        read_nnunet_checkpoint(model)
    copy = "decoder.encoder.stages.0.0.convs.0.conv.weight"
    torch.save(content | {"network_weights": weights | {copy: weights[copy] + 1}}, path)
    with pytest.raises(FoundationError, match="differ, where nnU-Net stores one tensor"):
        read_nnunet_checkpoint(model)
    torch.save(content | {"init_args": {"configuration": "3d_lowres"}}, path)
    with pytest.raises(FoundationError, match="was trained as configuration 3d_lowres"):
        read_nnunet_checkpoint(model)
    torch.save({"state_dict": weights}, path)
    with pytest.raises(FoundationError, match="a checkpoint of nnU-Net v1"):
        read_nnunet_checkpoint(model)
