"""A folder that holds segmentations already: which are kept, made again or refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from arena_pipeline.errors import PlansError
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.review import read_review
from arena_pipeline.stages.ensemble import ensemble
from arena_pipeline.stages.postprocess import postprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace
from tests.stages.predict.conftest import BINARY, make_model, voxels


def test_continuing_redoes_only_what_is_missing_damaged_or_on_another_grid(
    workspace: Workspace, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make_model(workspace, "binary")
    out = tmp_path / "out"
    expected = {case: path.read_bytes() for case, path in predict(scans, out, workspace).written.items()}
    assert list(predict(scans, out, workspace, continue_prediction=True).kept) == ["a", "b"]
    (out / "a.nii.gz").write_bytes(expected["a"][: len(expected["a"]) // 2])
    summary = predict(scans, out, workspace, continue_prediction=True)
    assert (list(summary.written), list(summary.kept)) == (["a"], ["b"])
    (again,) = [message for message in caplog.messages if "predicted again" in message]
    assert "cut short or damaged" in again and "download" not in again
    np.testing.assert_array_equal(voxels(out, "a"), nib.Nifti1Image.from_bytes(_unzip(expected["a"])).get_fdata())
    with pytest.raises(PlansError, match="choose another output folder"):
        predict(scans, out, workspace, zero_shot=["liver"], continue_prediction=True)


def test_continuing_needs_to_know_what_made_the_segmentations(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary", folds=(0,))
    out = tmp_path / "out"
    predict(scans / "b.nii.gz", out, workspace, no_previews=True)
    labels = {name: (out / name).read_bytes() for name in ("labels.json", "labels.txt")}
    (out / "labels.txt").unlink()
    assert list(predict(scans / "b.nii.gz", out, workspace, no_previews=True, continue_prediction=True).kept) == ["b"]
    assert {name: (out / name).read_bytes() for name in labels} == labels
    (out / "labels.json").unlink()
    made = (out / "b.nii.gz").read_bytes()
    with pytest.raises(PlansError, match=r"out: its segmentations \(b\) have no labels.json beside them.*put it back, choose another output folder"):
        predict(scans, out, workspace, no_previews=True, continue_prediction=True)
    assert sorted(path.name for path in out.iterdir()) == ["b.nii.gz", "inputs.json", "journal", "labels.txt", "review.csv"]
    assert (out / "b.nii.gz").read_bytes() == made
    (out / "labels.json").write_text("{")
    with pytest.raises(PlansError, match=r"\(b\) have a damaged labels.json beside them"):
        predict(scans / "a_0000.nii.gz", out, workspace, no_previews=True)
    predict(scans / "b.nii.gz", out, workspace, no_previews=True)  # all that lies there is made anew
    assert json.loads((out / "labels.json").read_text())["labels"] == BINARY


def test_another_models_results_never_stand_beside_this_ones(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary", folds=(0,), keep_largest=True)
    out = tmp_path / "out"
    predict(scans, out, workspace, no_previews=True, save_probabilities=True)
    kept = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(PlansError, match=r"out: its .* \(a\) were made otherwise: model .*, now zero-shot; .* liver 1, now none; .*choose another"):
        predict(scans / "b.nii.gz", out, workspace, zero_shot=["spleen"], no_previews=True)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == kept
    (out / "summary.json").write_text("{}")
    predict(scans / "b.nii.gz", out, workspace, no_previews=True)  # the same model: only what this run makes anew is replaced
    beside = ["inputs.json", "journal", "labels.json", "labels.txt", "review.csv"]
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "a_probabilities.npz", "b.nii.gz", *beside]
    with pytest.raises(PlansError, match=r"\(a\) were made otherwise: inference overlap 0.25, .*, now overlap 0.5, "):
        predict(scans / "b.nii.gz", out, workspace, no_previews=True, step_size=0.5)
    with pytest.raises(PlansError, match=r"largest component alone .*, now of no structure"):
        predict(scans / "b.nii.gz", out, workspace, no_previews=True, no_postprocessing=True)
    (out / "metrics.csv").write_text("")
    predict(scans, out, workspace, zero_shot=["spleen"], no_previews=True)  # nothing of the other model would stay, so nothing does
    assert sorted(path.name for path in out.iterdir()) == [
        "a.nii.gz",
        "b.nii.gz",
        "inputs.json",
        "journal",
        "labels.json",
        "labels.txt",
        "review.csv",
    ]
    assert LabelMap.read(out).structures == {"spleen": 1}


def test_ensembles_and_post_processed_segmentations_are_not_mixed_with_others(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    model = make_model(workspace, "binary", folds=(0,))
    predict(scans / "b.nii.gz", tmp_path / "out", workspace, no_previews=True, save_probabilities=True)
    predict(scans / "a_0000.nii.gz", tmp_path / "zero", workspace, zero_shot=["spleen"], no_previews=True)
    with pytest.raises(PlansError, match=r"zero: its segmentations \(a\) were made otherwise"):
        ensemble([tmp_path / "out"], tmp_path / "zero")
    with pytest.raises(PlansError, match=r"zero: its segmentations \(a\) were made otherwise"):
        postprocess(tmp_path / "out", tmp_path / "zero", model_folder=model)
    assert sorted(path.name for path in (tmp_path / "zero").iterdir()) == [
        "a.nii.gz",
        "inputs.json",
        "journal",
        "labels.json",
        "labels.txt",
        "review.csv",
    ]


def test_what_a_killed_run_left_half_written_is_removed(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "binary", folds=(0,))
    out = tmp_path / "out"
    left = [out / f".unfinished.{name}.x1y2.part" for name in ("review.csv", "labels.json", "inputs.json", "b.nii.gz")]
    left += [out / "journal" / name for name in (".in_use_case_b.lock", ".unfinished..in_use_case_b.txt.x1y2.txt")]
    (out / "journal").mkdir(parents=True)
    for path in left:
        path.touch()
    predict(scans / "b.nii.gz", out, workspace, no_previews=True)
    assert not list(out.rglob(".unfinished*"))


def test_whatever_is_damaged_is_predicted_again(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    make_model(workspace, "multiclass", folds=(0, 1))
    out, wanted = tmp_path / "out", {"save_probabilities": True, "save_preprocessed": True, "save_uncertainty": True}
    predict(scans, out, workspace, **wanted)
    names = ("a.nii.gz", "previews/a.png", "a_probabilities.npz", "preprocessed/a.npz", "uncertainty/a_entropy.nii.gz")
    unsure, split = (nib.load(out / "uncertainty" / f"a_{name}.nii.gz") for name in ("entropy", "disagreement"))
    np.testing.assert_allclose(unsure.affine, nib.load(scans / "a_0000.nii.gz").affine, atol=1e-4)
    assert 0 < unsure.get_fdata().max() <= 1 and split.get_fdata().max() == 0  # both folds are the same
    assert all(line.boundary_entropy > 0 for line in read_review(out / "review.csv") if line.volume_ml > 1)
    whole = {name: (out / name).read_bytes() for name in names}
    for name, content in whole.items():
        middle = len(content) // 2
        (out / name).write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
        (out / ".unfinished.a.nii.gz.x.nii.gz").write_bytes(b"half")
        summary = predict(scans, out, workspace, continue_prediction=True, **wanted)
        assert (list(summary.written), list(summary.kept)) == (["a"], ["b"]), name
        assert (out / name).read_bytes()[:middle] == content[:middle]
    assert list(predict(scans, out, workspace, continue_prediction=True, **wanted).kept) == ["a", "b"]
    assert not list(out.glob(".*"))


def _unzip(content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content)
