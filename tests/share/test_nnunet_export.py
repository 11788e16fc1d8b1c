"""A U-Net of nnU-Net's adapted, used, and given back: nnU-Net model folders that say what ARENA says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from arena_pipeline.cli import export_model as command
from arena_pipeline.errors import PackageError
from arena_pipeline.foundations import load_preset, weights_file
from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import read_adapter
from arena_pipeline.model.nnunet_plans import READERS, architecture_of, configuration_of, scheme_of
from arena_pipeline.share.nnunet_plans import nnunet_plans
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.export_model import export_nnunet
from arena_pipeline.stages.install_foundation import install_model_folder
from arena_pipeline.stages.install_model import install_model
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace, fold_folder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nnunet"
TRAINED = "nnUNetTrainer__nnUNetPlans__3d_fullres"
MODEL = ("Dataset901_Made", "tiny", "arena", 1)
LABELS = {"background": 0, "cyst": 1, "liver": 2}  # cyst: novel to the foundation, liver: among its structures
SPACING_MM = {"plain": (7.0, 7.0, 9.0), "residual": (6.0, 7.0, 20.0)}
EPOCHS = {"plain": 10, "residual": 2}


def make_dataset(folder: Path, spacing_mm: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    for part, name in (("Tr", "a"), ("Tr", "b"), ("Ts", "query")):
        labels = np.zeros((40, 36, 24), np.uint8)
        x, y = rng.integers(2, 8, 2)
        labels[x : x + 10, y : y + 12, 4:14], labels[x + 14 : x + 26, y + 6 : y + 20, 8:20] = 1, 2
        image = rng.normal(30, 8, labels.shape) + np.array([0, -60, 90])[labels]
        for kind, array, ending in (("images", image.astype(np.int16), "_0000"), ("labels", labels, "")):
            (folder / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing_mm, 1])), folder / f"{kind}{part}" / f"{name}{ending}.nii.gz")
    description = DatasetJson(channel_names={"0": "CT"}, labels=LABELS, numTraining=2, file_ending=".nii.gz", objective="binary")
    description.write(folder / "dataset.json")


@pytest.fixture(scope="module", params=["plain", "residual"])
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Workspace]:
    """The tiny model of nnU-Net's adapted to two structures; the plain one long enough to learn the cyst."""
    kind, root = request.param, tmp_path_factory.mktemp(request.param)
    workspace = Workspace(root / "workspace")
    shutil.copytree(FIXTURES / kind, root / "Dataset901_Tiny" / TRAINED)
    install_model_folder(root / "Dataset901_Tiny", workspace, "tiny")
    make_dataset(workspace.raw / "Dataset901_Made", SPACING_MM[kind])
    plan_and_preprocess([901], workspace, foundation="tiny", device="cpu", workers=0, fingerprint_workers=0)
    plans = workspace.plans("Dataset901_Made", "tiny")
    content = json.loads(plans.read_text())
    rates = {"learning_rate": 0.02, "decoder_learning_rate": 0.02}
    content["adaptation"] |= rates | {"max_epochs": EPOCHS[kind], "patches_per_volume": 1, "stop_window": 0, "l1_weight": 0.001}
    plans.write_text(json.dumps(content))
    adapt_dataset(901, 1, workspace, folds=[0], device="cpu")
    return kind, workspace


def segmented(workspace: Workspace, output: Path, **options: object) -> np.ndarray:
    cts = workspace.raw / "Dataset901_Made" / "imagesTs"
    predict(cts, output, workspace, device="cpu", no_postprocessing=True, no_previews=True, **options)  # type: ignore[arg-type]
    return read_segmentation(output / "query.nii.gz").array


def test_each_task_comes_back_as_a_model_of_nnunet_that_says_the_same(adapted: tuple[str, Workspace], tmp_path: Path) -> None:
    kind, workspace = adapted
    folders = export_nnunet(901, tmp_path / "out", workspace, shots=1)
    assert [(folder.task, folder.folds) for folder in folders] == [("cyst", (0,)), ("liver", (0,))]
    assert folders[0].labels == {"background": 0, "cyst": 1}
    assert folders[1].labels == {"background": 0, "liver": 1, "spleen": 2, "pancreas": 3}
    theirs = torch.load(FIXTURES / kind / "fold_0" / "checkpoint_final.pth", weights_only=False)
    for folder in folders:
        ours = torch.load(folder.path / "fold_0" / "checkpoint_final.pth", weights_only=True)
        assert theirs.keys() == ours.keys()
        heads = {name for name in theirs["network_weights"] if "seg_layers" in name}
        shapes = [{name: (heads & {name}) or tensor.shape for name, tensor in content["network_weights"].items()} for content in (theirs, ours)]
        assert shapes[0] == shapes[1]
        back = install_model_folder(folder.path, workspace, f"back_{folder.task}").record.preset
        patch = torch.from_numpy(np.load(FIXTURES / kind / "expected.npz")["patch"])[None, None]
        with torch.inference_mode():
            own = network_of(workspace, "tiny").select(read_adapter(fold_folder(workspace.model(*MODEL), folder.task, 0)))(patch)
            logits = network_of(workspace, back.name).select(None)(patch)
        assert len(folder.labels) == logits.shape[1]
        if folder.task == "liver":  # its own row is the first there, then the foundation's others
            torch.testing.assert_close(logits[:, [1, 0, 2, 3]], own, atol=1e-4, rtol=1e-4)
        else:
            torch.testing.assert_close(logits[:, 1:] - logits[:, :1], own, atol=1e-4, rtol=1e-4)


def network_of(workspace: Workspace, name: str) -> AdaptedNetwork:
    preset = load_preset(name, workspace.foundations)
    return AdaptedNetwork(preset, weights_file(preset, workspace.installed_foundation(name)), torch.device("cpu"))


READ = [(reader, False, reader) for reader in READERS] + [(reader, True, f"{reader}WithReorient") for reader in ("SimpleITKIO", "NibabelIO")]


@pytest.mark.parametrize(("named", "canonical", "written"), READ)
def test_files_are_read_as_the_foundation_s_folder_says_and_turned_where_its_images_were(named: str, canonical: bool, written: str) -> None:
    """`canonical`: TotalSegmentator's, which turns images to RAS itself, whatever reader its folders name."""
    plans = json.loads((FIXTURES / "plain" / "plans.json").read_text()) | {"image_reader_writer": named}
    configuration = configuration_of(plans, "3d_fullres")
    again = nnunet_plans("Dataset901_Made", architecture_of(configuration, 4), scheme_of(plans, configuration, canonical))
    assert again["image_reader_writer"] == written


@pytest.mark.parametrize("structure", ["cyst", "liver"])
@pytest.mark.parametrize("adapted", ["plain"], indirect=True)
def test_segmentations_are_the_same(adapted: tuple[str, Workspace], structure: str, tmp_path: Path) -> None:
    _, workspace = adapted
    (folder,) = export_nnunet(901, tmp_path / "out", workspace, shots=1, structures=[structure])
    back = install_model_folder(folder.path, workspace, "back").record.preset.name
    own = segmented(workspace, tmp_path / "own", dataset_id=901, structures=[structure]) > 0
    again = segmented(workspace, tmp_path / "again", foundation=back, zero_shot=[structure]) > 0
    assert own.sum() > 50
    np.testing.assert_array_equal(own, again)


def test_nnunet_itself_says_the_same_of_exported_folds(tmp_path: Path) -> None:
    """nnU-Net's segmentations are stored: tests/fixtures/make_exported.py."""
    stored, workspace = FIXTURES / "exported", Workspace(tmp_path / "workspace")
    tiny = tmp_path / "Dataset901_Tiny" / TRAINED
    with pytest.raises(
        PackageError, match=f"tiny, which is not here; get that and run: arena_install_foundation Dataset901_Tiny/{TRAINED} -n tiny -f 0 "
    ):
        install_model(stored / "model.zip", workspace)
    shutil.copytree(FIXTURES / "plain", tiny)
    install_model_folder(tiny, workspace, "tiny", "0")
    install_model(stored / "model.zip", workspace)
    theirs = np.load(stored / "nnunet.npz")
    for structure in ("cyst", "liver"):
        folder = tmp_path / structure
        predict(stored / "ct.nii.gz", folder, workspace, dataset_id=901, structures=[structure], no_postprocessing=True, no_previews=True)
        own = read_segmentation(folder / "ct.nii.gz").array > 0
        assert own.sum() > 900
        assert (own == theirs[structure]).mean() > 0.999
        assert (own & theirs[structure]).sum() > 0.995 * (own | theirs[structure]).sum()


def test_licence_travels_and_texts_of_cases_do_not(adapted: tuple[str, Workspace], tmp_path: Path) -> None:
    _, workspace = adapted
    (folder,) = export_nnunet(901, tmp_path / "out", workspace, shots=1, structures=["cyst"])
    assert json.loads((folder.path / "dataset.json").read_text())["licence"] == "not stated"
    assert "derives from the foundation tiny" in (folder.path / "LICENCE.txt").read_text()
    with pytest.raises(PackageError, match="is there already"):
        export_nnunet(901, tmp_path / "out", workspace, shots=1, structures=["cyst"])
    assert export_nnunet(901, tmp_path / "out", workspace, shots=1, structures=["cyst"], overwrite=True) == [folder]


def test_command(adapted: tuple[str, Workspace], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, workspace = adapted
    typed = ["-d", "901", "-shots", "1", "--nnunet", str(tmp_path / "out"), "-w", str(workspace.root)]
    assert command.main(typed) == 0
    said = capsys.readouterr().out
    assert "labels: 1 cyst\n" in said and "nnUNetv2_predict_from_modelfolder" in said
    with pytest.raises(SystemExit):
        command.main([*typed, "-o", "model.zip"])


def change_of_record(workspace: Workspace, **changes: object) -> None:
    for record in workspace.results.glob("*/*/*/*/fold_*/adapter.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | changes))


@pytest.mark.parametrize("licence", ["CC BY-NC-ND: no commercial use", "CC-BY-ND-4.0", "Creative Commons, NoDerivatives"])
def test_a_licence_without_derivatives_stops_the_export(adapted: tuple[str, Workspace], tmp_path: Path, licence: str) -> None:
    _, workspace = adapted
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(workspace.root, copy.root)
    change_of_record(copy, licence=licence)
    with pytest.raises(PackageError, match="forbids to give changed weights away"):
        export_nnunet(901, tmp_path / "out", copy, shots=1)
    assert not (tmp_path / "out").exists()
