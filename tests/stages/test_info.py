from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from arena_pipeline.cli import info as command
from arena_pipeline.foundations import load_preset, preset_names
from arena_pipeline.model.attempts import Attempt, write_failed_attempts
from arena_pipeline.planning import InferencePlan, Plans, TaskPlan, WorkersPlan
from arena_pipeline.stages.info import info
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.verify_dataset import verify_dataset
from arena_pipeline.workspace import Workspace, fold_folder

NAME = "Dataset901_Tiny"


def _plan(workspace: Workspace, foundation: str = "arena_mini", max_shots: tuple[int, int] = (3, 2)) -> Plans:
    """Plans of the tiny dataset: liver on three cases, spleen on two of them."""
    preset = load_preset(foundation)
    cases = ("case_0", "case_1", "case_2")
    tasks = tuple(
        TaskPlan(
            name=name,
            structures={name: label},
            kind="base",
            train_decoder=False,
            head="pretrained",
            keep_largest={name: True},
            candidates=cases[: max(shots, 1)],
            max_shots=shots,
        )
        for name, label, shots in (("liver", 1, max_shots[0]), ("spleen", 2, max_shots[1]))
    )
    plans = Plans(
        dataset_name=NAME,
        foundation=foundation,
        foundation_sha256="0" * 64,
        objective="binary",
        labels={"background": 0, "liver": 1, "spleen": 2},
        scheme=preset.scheme,
        tasks=tasks,
        adaptation=preset.adaptation,
        inference=InferencePlan(window_batch=1),
        workers=WorkersPlan(preprocess=1, export=1),
        reasons={},
    )
    plans.write(workspace.plans(NAME, foundation))
    return plans


def _store(workspace: Workspace, *cases: str, foundation: str = "arena_mini") -> None:
    folder = workspace.cases(NAME, foundation)
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        (folder / f"{case}.json").write_text("{}")


def _adapter(workspace: Workspace, task: str, fold: int, whole: bool = True) -> Path:
    folder = fold_folder(workspace.model(NAME, "arena_mini", "arena", 2), task, fold)
    folder.mkdir(parents=True)
    if whole:
        (folder / "adapter.json").write_text(json.dumps({}))
    return folder.parent.parent


def test_an_empty_workspace_lists_every_foundation_and_how_to_install_it(default_workspace: Workspace) -> None:
    report = info(default_workspace)
    assert not report.exists and not default_workspace.root.exists()
    assert [foundation.name for foundation in report.foundations] == preset_names()
    packaged = {f.name for f in report.foundations if f.weights == "shipped with the package"}
    assert packaged == {"arena_mini"} and report.default_foundation == "arena_mini"
    for foundation in report.foundations:
        file = load_preset(foundation.name).weights.expected_file
        assert foundation.next_command == (None if foundation.name in packaged else f"arena_install_foundation {foundation.name} {file}")
        assert foundation.licence


def test_an_installed_foundation_is_seen_and_becomes_the_default(default_workspace: Workspace) -> None:
    other = max((load_preset(name) for name in preset_names()), key=lambda preset: preset.preference)
    folder = default_workspace.installed_foundation(other.name)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"x")
    report = info(default_workspace)
    assert report.default_foundation == other.name
    assert next(f for f in report.foundations if f.name == other.name).weights == "installed"


def test_a_raw_dataset_needs_planning(default_workspace: Workspace, tiny_dataset: Callable[..., Path]) -> None:
    tiny_dataset()
    (dataset,) = info(default_workspace).datasets
    assert (dataset.name, dataset.training, dataset.queries, dataset.structures) == (NAME, 3, 1, ("liver", "spleen"))
    assert dataset.next_command == "arena_plan_and_preprocess -d 901"


def test_a_broken_dataset_is_reported_and_hides_no_other(default_workspace: Workspace, tiny_dataset: Callable[..., Path]) -> None:
    (tiny_dataset(dataset_id=902) / "dataset.json").write_text("{")
    tiny_dataset(dataset_id=901)
    good, broken = info(default_workspace).datasets
    assert good.problem is None
    assert broken.problem is not None and "dataset.json" in broken.problem and broken.next_command is None


def test_a_dataset_from_dicom_waits_for_names(default_workspace: Workspace) -> None:
    folder = default_workspace.raw_dataset("Dataset103_DICOM")
    folder.mkdir(parents=True)
    (folder / "roi_names.csv").write_text("name,structure,cases,suggestions\nLUNG_L,?,1,\n", encoding="utf-8")
    (state,) = info(default_workspace).datasets
    assert "waits for" in state.problem and "roi_names.csv" in state.problem


def test_missing_cases_are_counted_and_then_adaptation_is_next(default_workspace: Workspace, tiny_dataset: Callable[..., Path]) -> None:
    tiny_dataset()
    _plan(default_workspace)
    _store(default_workspace, "case_0", "query_0")
    (prepared,) = info(default_workspace).datasets[0].prepared
    assert (prepared.cases_stored, prepared.cases_needed, prepared.tasks) == (1, 3, 2)
    assert prepared.next_command == "arena_plan_and_preprocess -d 901"
    _store(default_workspace, "case_1", "case_2")
    (prepared,) = info(default_workspace).datasets[0].prepared
    # Five shots are usual, but no structure has more than three cases.
    assert prepared.next_command == "arena_adapt -d 901 -shots 3"


def test_the_foundation_is_named_where_another_would_be_taken(default_workspace: Workspace, tiny_dataset: Callable[..., Path]) -> None:
    tiny_dataset()
    _plan(default_workspace, foundation="fseft")
    _store(default_workspace, "case_0", "case_1", "case_2", foundation="fseft")
    _plan(default_workspace)
    _store(default_workspace, "case_0", "case_1", "case_2")
    mini, fseft = info(default_workspace).datasets[0].prepared
    # arena_adapt takes the most preferred foundation that has plans.
    assert fseft.next_command == "arena_adapt -d 901 -shots 3"
    assert mini.next_command == "arena_adapt -d 901 -foundation arena_mini -shots 3"


def test_no_structure_to_adapt_on_is_a_problem(default_workspace: Workspace, tiny_dataset: Callable[..., Path]) -> None:
    tiny_dataset()
    _plan(default_workspace, max_shots=(0, 0))
    (prepared,) = info(default_workspace).datasets[0].prepared
    assert prepared.problem is not None and prepared.next_command is None


def test_plans_with_an_unknown_key_are_reported(default_workspace: Workspace, tiny_dataset: Callable[..., Path]) -> None:
    tiny_dataset()
    _plan(default_workspace)
    path = default_workspace.plans(NAME, "arena_mini")
    path.write_text(json.dumps({**json.loads(path.read_text()), "batchsize": 2}))
    (prepared,) = info(default_workspace).datasets[0].prepared
    assert prepared.problem is not None and "batchsize" in prepared.problem


def test_an_adapted_model_is_ready_to_predict(default_workspace: Workspace) -> None:
    for task, fold in (("liver", 1), ("liver", 0), ("spleen", 0)):
        folder = _adapter(default_workspace, task, fold)
    (model,) = info(default_workspace).models
    assert (model.dataset, model.foundation, model.method, model.shots) == (NAME, "arena_mini", "arena", 2)
    assert model.folds == {"liver": (0, 1), "spleen": (0,)} and model.unfinished == {}
    assert shlex.split(model.next_command) == ["arena_predict", "-i", "in/", "-o", "out/", "-m", str(folder)]


def test_an_adapted_dataset_has_one_next_step(
    default_workspace: Workspace, tiny_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_dataset()
    _plan(default_workspace)
    _store(default_workspace, "case_0", "case_1", "case_2")
    folder = _adapter(default_workspace, "liver", 0)
    (prepared,) = info(default_workspace).datasets[0].prepared
    assert prepared.next_command is None and prepared.problem is None  # "arena_predict", which the model says
    monkeypatch.setattr("arena_pipeline.stages.info.is_installed", {folder}.__contains__)
    (prepared,) = info(default_workspace).datasets[0].prepared
    assert prepared.next_command == "arena_adapt -d 901 -shots 3"  # somebody else's model is no adaptation of this dataset


def test_a_fold_that_was_begun_only_is_adapted_again(default_workspace: Workspace) -> None:
    _adapter(default_workspace, "liver", 0)
    _adapter(default_workspace, "spleen", 2, whole=False)
    (model,) = info(default_workspace).models
    assert model.unfinished == {"spleen": (2,)}
    assert model.next_command == "arena_adapt -d 901 -foundation arena_mini -shots 2 -f 2 --structures spleen"
    (model.folder / "spleen" / "fold_2" / "checkpoint.pt").touch()
    assert info(default_workspace).models[0].next_command == f"{model.next_command} --continue"


def test_a_fold_that_failed_is_told_with_its_reason(default_workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    rates = {"learning_rate": 1, "decoder_learning_rate": 1, "new_head_learning_rate": None}
    attempt = Attempt(seed=(2,), **rates, epochs=9, final_loss=1, support_dice={}, fault="Dice 0")
    model = _adapter(default_workspace, "spleen", 2, whole=False)
    write_failed_attempts(model / "spleen" / "fold_2", {}, (attempt, attempt))
    (state,) = info(default_workspace).models
    assert (state.failed, state.unfinished, state.missing) == ({"spleen": {2: "Dice 0"}}, {}, {"spleen": (0, 1)})
    assert state.next_command == "arena_adapt -d 901 -foundation arena_mini -shots 2 -f 2 --structures spleen --overwrite"
    _adapter(default_workspace, "spleen", 0)
    assert info(default_workspace).models[0].next_command.startswith("arena_predict")
    assert command.main(["-w", str(default_workspace.root)]) == 0
    told = capsys.readouterr().out
    assert "failed, left out of every average: spleen, fold 2: Dice 0\n" in told and "--overwrite tries again" in told


def test_what_changed_after_preprocessing_is_to_be_preprocessed_again(workspace: Workspace, tiny_dataset: Callable[..., Path]) -> None:
    raw = tiny_dataset(cases=1)
    plan_and_preprocess([901], workspace, "arena_mini", device="cpu", workers=0, fingerprint_workers=0)
    assert info(workspace).datasets[0].prepared[0].problem is None
    label = raw / "labelsTr" / "case_0.nii.gz"
    label.write_bytes(label.read_bytes() + b"\0")
    (prepared,) = info(workspace).datasets[0].prepared
    assert prepared.problem == "changed after preprocessing, to be preprocessed again: labelsTr/case_0.nii.gz"
    assert prepared.next_command is not None and prepared.next_command.startswith("arena_plan_and_preprocess -d 901")


def test_a_workspace_elsewhere_is_named_in_every_command(workspace: Workspace, tiny_dataset: Callable[..., Path]) -> None:
    tiny_dataset()
    (dataset,) = info(workspace).datasets
    assert dataset.next_command is not None
    assert shlex.split(dataset.next_command) == ["arena_plan_and_preprocess", "-d", "901", "-w", str(workspace.root)]


def test_the_command_prints_all_of_it(workspace: Workspace, tiny_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    tiny_dataset()
    _plan(workspace)
    _adapter(workspace, "liver", 0)
    assert command.main(["-w", str(workspace.root)]) == 0
    text = capsys.readouterr().out
    parts = ["arena_mini (used when none is named)", NAME, "3 annotated cases, 1 query;", "0 of 3 cases", "adapted: liver, fold 0"]
    for part in [str(workspace.root), *parts]:
        assert part in text
    assert command.main(["-w", str(workspace.root.parent / "nothing here")]) == 0
    assert "not there yet" in capsys.readouterr().out
    assert command.main(["-w", str(workspace.raw_dataset(NAME) / "dataset.json")]) == 2
    assert "this workspace is a file; name a folder with -w" in capsys.readouterr().err
    assert command.main(["-o", str(workspace.root / "no out")]) == 2
    assert "no out: no such folder; give the -o of an arena_predict" in capsys.readouterr().err


def test_short_trials_missing_folds_and_failed_verification_are_told(
    workspace: Workspace, tiny_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tiny_dataset()
    (raw / "labelsTr" / "case_0.nii.gz").write_bytes(b"damaged")
    verify_dataset([901], workspace, workers=0)
    model = workspace.model(NAME, "arena_mini", "arena", 3)
    for fold, epochs in ((0, 2), (1, 20)):
        folder = fold_folder(model, "liver", fold)
        folder.mkdir(parents=True)
        (folder / "adapter.json").write_text(json.dumps({"epochs": epochs}))
    assert command.main(["-w", str(workspace.root)]) == 0
    told = capsys.readouterr().out
    assert "adapted: liver, folds 0, 1 (2 to 20 epochs)" in told
    assert "not adapted: liver, fold 2" in told
    assert "verification failed with 1 error, the first: " in told and "labelsTr/case_0.nii.gz: not a NIfTI file" in told
