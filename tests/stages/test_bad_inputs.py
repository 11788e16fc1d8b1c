"""What follows a raw dataset, given bad or unusual input: each is refused with a sentence that names it, or read right."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from arena_pipeline.adapt.job import FoldJob, read_planned_dataset
from arena_pipeline.errors import ArenaError, DatasetError, FoundationError, ImageError, PlansError, SupportSetError
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.preprocess.case import preprocess_image
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace

NAME, FOUNDATION = "Dataset901_Tiny", "arena_mini"
MakeDataset = Callable[..., Path]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace root with four cases, planned and preprocessed: liver in case_0 and case_1, spleen in case_0, case_2 and case_3."""
    root = tmp_path_factory.mktemp("prepared")
    folder = Workspace(root).raw / NAME
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index, labels in enumerate(([1, 2], [1], [2], [2])):
        segmentation = np.zeros((24, 24, 24), np.uint8)
        for label in labels:
            segmentation[10 * label - 8 : 10 * label + 2, 3:20, 3:20] = label
        image = (rng.normal(40, 30, segmentation.shape) - 300 * (rng.random(segmentation.shape) > 0.99)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, np.diag([3.0, 3, 3, 1])), folder / "imagesTr" / f"case_{index}_0000.nii.gz")
        nib.save(nib.Nifti1Image(segmentation, np.diag([3.0, 3, 3, 1])), folder / "labelsTr" / f"case_{index}.nii.gz")
    names = {"background": 0, "liver": 1, "spleen": 2}
    description = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": 4, "file_ending": ".nii.gz", "objective": "multiclass"}
    (folder / "dataset.json").write_text(json.dumps(description))
    prepare(Workspace(root))
    return root


@pytest.fixture
def ready(prepared: Path, workspace: Workspace) -> Workspace:
    """A copy of its own."""
    shutil.copytree(prepared, workspace.root)
    return workspace


def prepare(workspace: Workspace) -> Any:
    ((_, stored),) = plan_and_preprocess([901], workspace, FOUNDATION, device="cpu", workers=0, fingerprint_workers=0)
    return stored


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def jobs(workspace: Workspace, shots: int, fold: int = 0) -> list[FoldJob]:
    """What arena_adapt looks at before it adapts."""
    return read_planned_dataset(901, workspace, FOUNDATION).jobs(shots, [fold], None, {})


# cases that are unusual and must be read right


@pytest.mark.parametrize("shape", [(31, 40, 40), (24, 24, 1), (1, 30, 2), (2, 2, 2)], ids=str)
def test_a_small_volume_is_preprocessed_and_told(
    workspace: Workspace, tiny_dataset: MakeDataset, write_nifti: Callable[..., Path], shape: tuple[int, ...]
) -> None:
    folder = tiny_dataset(cases=1)
    image = np.random.default_rng(0).normal(0, 150, shape).astype(np.int16)
    write_nifti(folder / "imagesTr" / "case_0_0000.nii.gz", image, (4.0, 4.0, 4.0))
    write_nifti(folder / "labelsTr" / "case_0.nii.gz", (image > 0).astype(np.uint8), (4.0, 4.0, 4.0))
    ((planned, stored),) = plan_and_preprocess([901], workspace, FOUNDATION, device="cpu", workers=0, fingerprint_workers=0)
    assert any("smaller than the foundation's patch" in finding.sentence for finding in planned.findings)
    case = StoredCase.open(stored.folder, "case_0")
    assert case.image_patch((-5, -5, -5), (64, 64, 64)).shape == (64, 64, 64)
    assert case.labels == (1,)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_left_handed_file_gives_the_same_case_as_its_right_handed_twin(axis: int) -> None:
    array = np.random.default_rng(0).normal(0, 150, (20, 18, 16)).astype(np.float32)
    affine = np.diag([3.0, 4, 5, 1])
    turned = affine.copy()
    turned[axis] *= -1
    turned[axis, axis], turned[axis, 3] = -affine[axis, axis], affine[axis, axis] * (array.shape[axis] - 1)
    assert np.linalg.det(turned) < 0 < np.linalg.det(affine)
    scheme = load_preset(FOUNDATION).scheme
    right, _ = preprocess_image(Image(array, Geometry(array.shape, affine)), scheme)
    left, _ = preprocess_image(Image(np.flip(array, axis), Geometry(array.shape, turned)), scheme)
    assert np.array_equal(left, right)


def test_a_voxel_size_that_would_fill_the_memory_is_refused_before_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arena_pipeline.preprocess.case.memory_bytes", lambda: 2**30)
    image = Image(np.zeros((20, 20, 20), np.int16), Geometry((20, 20, 20), np.diag([400.0, 400, 400, 1])))
    with pytest.raises(ImageError, match=r"voxels of 400 x 400 x 400 mm make .* GiB, where this machine has 1.0; correct the header's voxel size"):
        preprocess_image(image, load_preset("fseft").scheme)


# the support set


def test_more_shots_than_cases_are_refused_with_the_most_possible(ready: Workspace) -> None:
    with pytest.raises(SupportSetError, match="no task has 5 usable training cases, the most is 4; lower -shots or add annotated cases"):
        adapt_dataset(901, 5, ready, foundation=FOUNDATION, device="cpu")
    with pytest.raises(SupportSetError, match="multiclass: 0 shots asked for"):
        adapt_dataset(901, 0, ready, foundation=FOUNDATION, device="cpu")
    assert not ready.results.exists()


def test_all_cases_and_a_single_one_can_be_a_support_set(ready: Workspace) -> None:
    assert sorted(jobs(ready, shots=4)[0].support_ids) == ["case_0", "case_1", "case_2", "case_3"]
    assert len(jobs(ready, shots=1)[0].support_ids) == 1


def test_a_structure_that_the_support_set_does_not_show_is_told(ready: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    told = {}
    for fold in range(8):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            (job,) = jobs(ready, shots=1, fold=fold)
        told[job.support_ids[0]] = caplog.text
    assert set(told) >= {"case_1", "case_2"}
    assert "multiclass, fold" in told["case_1"] and "spleen in none of the support cases (case_1), so it can't be learned" in told["case_1"]
    assert "liver in none of the support cases (case_2)" in told["case_2"]
    assert told.get("case_0", "") == ""


# plans and stored cases

PLANS = [
    ("a typo", lambda plans: plans["adaptation"].update(max_epoch=3), "adaptation.max_epoch: unknown key; mend it, or delete it and run arena_plan"),
    ("another version", lambda plans: plans.update(plans_version=2), "plans_version: Input should be 1, found 2; mend it"),
    ("an impossible value", lambda plans: plans["inference"].update(overlap=1.5), "inference.overlap: Input should be less than 1, found 1.5"),
    ("no number", lambda plans: plans["adaptation"].update(learning_rate=float("nan")), "adaptation.learning_rate: .*, found nan"),
    (
        "infinite",
        lambda plans: plans["scheme"].update(spacing_mm=[float("inf")] * 3),
        "scheme.spacing_mm.0: Input should be a finite number, found inf",
    ),
    ("a folder's name", lambda plans: plans["labels"].update({"../heart": 3}), "'../heart' can't name a structure's folder"),
    ("a key missing", lambda plans: plans.pop("tasks"), "tasks: missing key"),
    (
        "an unknown case",
        lambda plans: plans["tasks"][0].update(candidates=["../a", "b"], max_shots=2),
        r"\.\./a: not preprocessed in .*arena_preprocess",
    ),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in PLANS], ids=[row[0] for row in PLANS])
def test_edited_plans_that_are_wrong_are_refused_with_the_key(ready: Workspace, change: Callable[[dict[str, Any]], object], words: str) -> None:
    edit(ready.plans(NAME, FOUNDATION), change)
    with pytest.raises(ArenaError, match=words):
        adapt_dataset(901, 2, ready, foundation=FOUNDATION, device="cpu")
    assert not ready.results.exists()


CASES: list[tuple[str, str, Callable[[Path], object]]] = [
    ("a record cut short", ".json", lambda path: os.truncate(path, 50)),
    ("a record of another version", ".json", lambda path: edit(path, lambda record: record.update(format_version=99))),
    ("a record of another case", ".json", lambda path: edit(path, lambda record: record.update(identifier="../case_1"))),
    ("a key that is none", ".json", lambda path: edit(path, lambda record: record.update(shapes=1))),
    ("an image cut short", ".b2nd", lambda path: os.truncate(path, path.stat().st_size // 2)),
    ("an image of text", ".b2nd", lambda path: path.write_text("not what it was")),
    ("a segmentation that is gone", "_seg.b2nd", lambda path: path.unlink()),
    ("positions cut short", ".npz", lambda path: os.truncate(path, 40)),
]


@pytest.mark.parametrize(("ending", "change"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_a_damaged_stored_case_is_refused_and_made_again(ready: Workspace, ending: str, change: Callable[[Path], object]) -> None:
    change(ready.cases(NAME, FOUNDATION) / f"case_0{ending}")
    with pytest.raises(DatasetError, match="case_0: (not preprocessed in .*|.*: damaged .*)run arena_preprocess"):
        adapt_dataset(901, 4, ready, foundation=FOUNDATION, device="cpu")
    assert not list(ready.results.rglob("adapter.json"))
    assert prepare(ready).written == ("case_0",)
    assert len(jobs(ready, shots=4)[0].support_ids) == 4


def test_an_unknown_foundation_lists_the_known(ready: Workspace) -> None:
    for call in (
        lambda: plan_and_preprocess([901], ready, "fseft2", device="cpu"),
        lambda: adapt_dataset(901, 2, ready, foundation="fseft2", device="cpu"),
    ):
        with pytest.raises(FoundationError, match="unknown foundation fseft2; known: .*arena_mini"):
            call()
    with pytest.raises(PlansError, match="no plans for fseft .it has: arena_mini.; run arena_plan_and_preprocess -d 901 -foundation fseft"):
        adapt_dataset(901, 2, ready, foundation="fseft", device="cpu")


# inputs of arena_predict


def _link(path: Path) -> None:
    path.symlink_to(path)


INPUTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("nothing", lambda folder: None, "no image in this folder; expected CASE.nii.gz or CASE_0000.nii.gz .*found nothing"),
    ("a text", lambda folder: (folder / "readme.txt").touch(), "no image in this folder; .*found readme.txt"),
    ("a link to itself", lambda folder: _link(folder / "a.nii.gz"), "a.nii.gz: a link that leads nowhere; mend or remove it"),
    (
        "a dead link",
        lambda folder: (folder / "a.nii").symlink_to(folder / "gone.nii"),
        "a.nii: a link to .*gone.nii, which is not there .*; mend or remove it",
    ),
    ("one case twice", lambda folder: [(folder / name).touch() for name in ("a.nii.gz", "a_0000.nii.gz")], "a: two images of one case, a.nii.gz and"),
    ("a second channel", lambda folder: [(folder / f"a_000{n}.nii").touch() for n in (0, 1)], "a: a_0001.nii beside a_0000.nii in .* second channel"),
    ("a line break", lambda folder: (folder / "a\nb.nii").touch(), "can't be named .*line breaks"),
    ("no name", lambda folder: (folder / "_0000.nii").touch(), "can't be named '', empty"),
]


@pytest.mark.parametrize(("make", "words"), [row[1:] for row in INPUTS], ids=[row[0] for row in INPUTS])
def test_inputs_that_no_prediction_can_be_made_of(workspace: Workspace, tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder)
    with pytest.raises(DatasetError, match=words) as error:
        predict(folder, tmp_path / "out", workspace, zero_shot=["liver"])
    assert str(folder) in str(error.value)
    assert not (tmp_path / "out").exists()
