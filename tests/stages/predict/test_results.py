"""arena_predict end to end on the packaged foundation: what it writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from arena_pipeline.errors import PlansError
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.dataset import Case
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.planning import Plans
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.postprocess import postprocess_segmentation_
from arena_pipeline.predict.probabilities import ProbabilityFile
from arena_pipeline.predict.review import read_review
from arena_pipeline.preprocess.dataset import PreprocessingJob, preprocess_case
from arena_pipeline.preprocess.masks import masks_file, read_masks
from arena_pipeline.stages.ensemble import ensemble
from arena_pipeline.stages.postprocess import postprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace, fold_folder
from tests.stages.predict.conftest import BINARY, DATASET, FOUNDATION, make_model, voxels


def test_an_unchanged_multiclass_model_predicts_what_zero_shot_does(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "multiclass")
    summary = predict(scans, tmp_path / "out", workspace)
    names = list(load_preset(FOUNDATION).structures)
    predict(scans, tmp_path / "zero", workspace, zero_shot=names, no_previews=True)
    assert list(summary.written) == ["a", "b"]
    for case in ("a", "b"):
        assert len(np.unique(voxels(tmp_path / "out", case))) > 3
        np.testing.assert_array_equal(voxels(tmp_path / "out", case), voxels(tmp_path / "zero", case))
        assert (tmp_path / "out" / "previews" / f"{case}.png").stat().st_size > 10_000
    assert LabelMap.read(tmp_path / "out").structures == load_preset(FOUNDATION).structures


def test_the_output_lies_where_the_ct_lies_for_nibabel_and_simpleitk(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary")
    predict(scans, tmp_path / "out", workspace)
    for source, case in ((scans / "a_0000.nii.gz", "a"), (scans / "b.nii.gz", "b")):
        output = tmp_path / "out" / f"{case}.nii.gz"
        np.testing.assert_allclose(nib.load(output).affine, nib.load(source).affine, atol=1e-5)
        assert nib.load(output).shape == nib.load(source).shape
        if case == "a":  # ITK refuses axes that are not at right angles, of the CT too
            ours, theirs = SimpleITK.ReadImage(str(output)), SimpleITK.ReadImage(str(source))
            np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)
            np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-4)


def test_zero_shot_of_some_lets_the_others_compete_and_takes_a_datasets_integers(
    workspace: Workspace, scans: Path, tmp_path: Path, tiny_dataset: Callable[..., Path]
) -> None:
    tiny_dataset(901)  # liver 1, spleen 2
    every = load_preset(FOUNDATION).structures
    predict(scans, tmp_path / "all", workspace, zero_shot=list(every), no_previews=True)
    full = voxels(tmp_path / "all", "a")
    predict(scans, tmp_path / "some", workspace, zero_shot=["spleen", "liver"], dataset_id=901, no_previews=True)
    np.testing.assert_array_equal(voxels(tmp_path / "some", "a"), np.select([full == every["liver"], full == every["spleen"]], [1, 2], 0))
    own = predict(scans, tmp_path / "own", workspace, zero_shot=["liver", "liver"], no_previews=True)
    assert own.labels == {"liver": 1}
    np.testing.assert_array_equal(voxels(tmp_path / "own", "a"), full == every["liver"])


def test_probabilities_saved_and_ensembled_give_the_segmentation_again(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "multiclass", folds=(0,))
    predict(scans, tmp_path / "out", workspace, save_probabilities=True, no_previews=True)
    file = ProbabilityFile(tmp_path / "out" / "a_probabilities.npz")
    channels = np.stack([file.read(name) for name in file.channels])
    assert file.channels[0] == "background" and channels.shape[1:] == (30, 26, 22)
    ensemble([tmp_path / "out"], tmp_path / "mean")
    differing = voxels(tmp_path / "mean", "a") != voxels(tmp_path / "out", "a")
    top = np.sort(channels, axis=0)
    assert (top[-1] - top[-2])[differing].max(initial=0) < 2e-3  # float16 decides near-ties otherwise, nothing else
    assert differing.mean() < 0.02


def test_masks_on_the_preprocessed_grid_for_the_published_protocol(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary")
    predict(scans, tmp_path / "out", workspace, save_preprocessed=True, no_previews=True)
    masks, grid = read_masks(masks_file(tmp_path / "out", "b"), ("liver", "spleen"))
    assert masks["liver"].shape == grid.cropped_shape and grid.native_shape == (30, 26, 22)


def test_the_largest_component_is_kept_where_the_plans_say_so(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", keep_largest=True)
    predict(scans, tmp_path / "raw", workspace, no_postprocessing=True, no_previews=True)
    predict(scans, tmp_path / "out", workspace, no_previews=True)
    postprocess(tmp_path / "raw", tmp_path / "later", model_folder=model)
    assert (voxels(tmp_path / "raw", "a") > 0).sum() > (voxels(tmp_path / "out", "a") > 0).sum() > 0
    np.testing.assert_array_equal(voxels(tmp_path / "later", "a"), voxels(tmp_path / "out", "a"))
    assert (tmp_path / "later" / "labels.txt").is_file()
    applied = [LabelMap.read(tmp_path / name).source["largest component alone"] for name in ("raw", "later", "out")]
    assert applied == ["of no structure", "liver, spleen", "liver, spleen"]
    with pytest.raises(PlansError, match="largest component alone liver, spleen, now of no structure"):
        predict(scans, tmp_path / "later", workspace, no_postprocessing=True, no_previews=True, continue_prediction=True)


def test_intensities_that_are_not_hu_are_a_warning_that_names_the_case(
    workspace: Workspace, tmp_path: Path, write_nifti: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    scaled = np.random.default_rng(7).random((20, 20, 20)).astype(np.float32)
    predict(write_nifti(tmp_path / "s.nii.gz", scaled), tmp_path / "out", workspace, zero_shot=["liver"], no_previews=True)
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert warning.startswith("s: intensities from ") and "not Hounsfield units (scaled to a small range?)" in warning


def test_one_structure_of_several(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary")
    summary = predict(scans / "b.nii.gz", tmp_path / "out", workspace, structures=["spleen"], folds=[1], no_previews=True)
    assert summary.labels == {"spleen": 2}
    assert set(np.unique(voxels(tmp_path / "out", "b"))) <= {0, 2}


def test_cases_that_the_model_was_adapted_on_are_named(workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All folds' support sets, per structure: the liver's second fold has seen b."""
    record = fold_folder(make_model(workspace, "binary"), "liver", 1) / "adapter.json"
    record.write_text(record.read_text().replace('"c"', '"b"'))
    predict(scans / "b.nii.gz", tmp_path / "out", workspace, no_previews=True)
    assert LabelMap.read(tmp_path / "out").support_ids == {"liver": ("b", "c"), "spleen": ("c",)}
    assert "the model was adapted on b: do not judge it by" in caplog.text


def test_review_names_what_to_look_at_and_keeps_the_lines_of_kept_cases(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    """Two equal folds agree in full (Dice 1); the spleen of the second support set is a hundredth of what is found."""
    model, out = make_model(workspace, "binary"), tmp_path / "out"
    first = predict(scans, out, workspace, no_previews=True)
    lines = {(line.case, line.structure): line for line in read_review(out / "review.csv")}
    assert set(lines) == {(case, name) for case in "ab" for name in ("liver", "spleen")} and first.review_file == out / "review.csv"
    geometry = read_segmentation(out / "a.nii.gz").geometry
    for (case, name), line in lines.items():
        assert line.volume_ml == pytest.approx(np.count_nonzero(voxels(out, case) == BINARY[name]) * geometry.voxel_volume_ml, abs=1e-3)
        assert line.fold_dice == 1 and "folds disagree" not in line.reasons
    record = fold_folder(model, "spleen", 1) / "adapter.json"
    small = round(lines["b", "spleen"].volume_ml / 100, 3)
    record.write_text(record.read_text().replace('"support_volumes_ml": {}', f'"support_volumes_ml": {{"spleen": [{small}]}}'))
    shutil.rmtree(out)
    predict(scans, out, workspace, no_previews=True)
    (out / "b.nii.gz").unlink()
    again = predict(scans, out, workspace, no_previews=True, continue_prediction=True)
    assert list(again.kept) == ["a"] and {line.case for line in again.review} == {"a", "b"}
    assert "large: " in next(line.reasons for line in again.review if (line.case, line.structure) == ("b", "spleen"))
    assert [str(line) for line in again.review] == [str(line) for line in read_review(out / "review.csv")]  # NaN equals nothing


def test_support_cases_among_the_inputs_are_told_by_name_and_by_content(
    workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(workspace, "binary", folds=(0,))
    for name in ("liver", "spleen"):
        path = fold_folder(model, name, 0) / "adapter.json"
        path.write_text(path.read_text().replace('"c"', '"s9"'))
    (tmp_path / "in").mkdir()
    shutil.copy(scans / "b.nii.gz", tmp_path / "in" / "s9_0000.nii.gz")
    shutil.copy(scans / "b.nii.gz", tmp_path / "in" / "renamed.nii.gz")
    shutil.copy(scans / "a_0000.nii.gz", tmp_path / "in" / "new.nii.gz")

    def told() -> list[str]:
        caplog.clear()
        predict(tmp_path / "in", tmp_path / "out", workspace, no_previews=True)
        return [message.partition(":")[0] for message in caplog.messages if message.startswith("the model was adapted on ")]

    assert told() == ["the model was adapted on s9"]
    scheme = Plans.read(model / "plans.json").scheme
    preprocess_case(PreprocessingJob(Case("s9", scans / "b.nii.gz", None), scheme, workspace.cases(DATASET, FOUNDATION), {}))
    assert told() == ["the model was adapted on renamed (the file of s9), s9"]
    assert LabelMap.read(tmp_path / "out").support_ids == dict.fromkeys(("liver", "spleen"), ("s9", "renamed"))
    predict(scans / "a_0000.nii.gz", tmp_path / "out", workspace, no_previews=True)  # among whose inputs it is not
    assert LabelMap.read(tmp_path / "out").support_ids == dict.fromkeys(("liver", "spleen"), ("s9", "renamed"))


def test_zero_shot_keeps_the_largest_component_where_the_datasets_plans_say_so(
    workspace: Workspace, scans: Path, tmp_path: Path, tiny_dataset: Callable[..., Path]
) -> None:
    tiny_dataset(901)
    model = make_model(workspace, "binary", keep_largest=True)
    predict(scans, tmp_path / "raw", workspace, zero_shot=["liver"], no_previews=True)
    planned = workspace.plans(DATASET, FOUNDATION)
    planned.parent.mkdir(parents=True)
    shutil.copy(model / "plans.json", planned)
    predict(scans, tmp_path / "out", workspace, zero_shot=["liver"], dataset_id=901, no_previews=True)
    expected = voxels(tmp_path / "raw", "a").copy()
    assert postprocess_segmentation_(expected, {"liver": 1}, {"liver": True})["liver"] > 0
    np.testing.assert_array_equal(voxels(tmp_path / "out", "a"), expected)
