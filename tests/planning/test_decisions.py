"""make_plans: laws that hold for every dataset and foundation."""

from __future__ import annotations

from pathlib import Path

import pytest

from arena_pipeline.errors import PlansError, UnknownStructure
from arena_pipeline.foundations import load_preset, preset_names
from arena_pipeline.io.dataset import Objective, StructureSplit
from arena_pipeline.planning import Plans, make_plans
from arena_pipeline.planning.tasks import partly_annotated, without_scans
from tests.planning.facts import LABELS, LAPTOP, dataset, everywhere, fingerprint, plans, structure


@pytest.mark.parametrize(
    ("foundation", "name", "kind", "train_decoder", "head"),
    [
        ("fseft", "liver", "base", False, "pretrained"),
        ("fseft", "heart_myocardium", "novel", True, "new"),
        ("arena_mini", "spleen", "base", True, "pretrained"),
        ("arena_mini", "heart_myocardium", "novel", True, "new"),
        ("monai_btcv", "liver", "base", False, "pretrained"),
        ("suprem_swinunetr", "liver", "base", False, "new"),
        ("clip_driven_swinunetr", "heart_myocardium", "novel", True, "new"),
        ("ssl_swinvit", "liver", "novel", True, "new"),
    ],
)
def test_base_or_novel(foundation: str, name: str, kind: str, train_decoder: bool, head: str) -> None:
    task = plans(foundation).task(name)
    assert (task.kind, task.train_decoder, task.head) == (kind, train_decoder, head)
    assert (task.activation, task.out_channels) == ("sigmoid", 1)


@pytest.mark.parametrize("name", ["liver", "spleen", "heart_myocardium"])
def test_without_a_pretrained_decoder_it_is_always_trained(name: str) -> None:
    preset = load_preset("fseft").model_copy(update={"pretrained_parts": "encoder"})
    assert make_plans(everywhere(), preset, "", dataset(), LAPTOP).task(name).train_decoder


def test_a_multiclass_task_is_base_only_if_all_its_structures_are() -> None:
    base = {"background": 0, "liver": 1, "spleen": 2}
    of_base = plans(facts=everywhere(base), described=dataset("multiclass", base))
    (task,) = of_base.tasks
    assert (task.name, task.kind, task.train_decoder, task.head) == ("multiclass", "base", False, "pretrained")
    assert (task.activation, task.out_channels) == ("softmax", 3)
    assert "background is new" in of_base.reasons["tasks.multiclass.head"]
    mixed = plans(described=dataset("multiclass"))
    (task,) = mixed.tasks
    assert (task.kind, task.train_decoder, task.head) == ("novel", True, "new")
    assert "heart_myocardium is not among" in mixed.reasons["tasks.multiclass.kind"]


def test_an_nnunet_dataset_without_an_objective_is_one_multiclass_task() -> None:
    described = dataset(None)
    assert [task.name for task in plans(described=described).tasks] == ["multiclass"]
    binary = make_plans(everywhere(), load_preset("fseft"), "", described, LAPTOP, objective="binary")
    assert [task.name for task in binary.tasks] == ["liver", "spleen", "heart_myocardium"]
    assert "asked for" in binary.reasons["objective"]


def test_the_largest_component_is_kept_only_if_every_candidate_has_one() -> None:
    cases = ("a", "b", "c", "held_out")
    facts = fingerprint(
        {
            "liver": structure({"a": 1, "b": 1, "c": 1, "held_out": 4}, cases),  # the query does not count
            "spleen": structure({"a": 1, "b": 2, "c": 1, "held_out": 1}, cases),
            "heart_myocardium": structure({"held_out": 1}, cases),  # in no candidate
        },
        cases,
    )
    described = dataset(split={"*": StructureSplit(train=("a", "b", "c"), test=("held_out",))})
    made = plans(facts=facts, described=described)
    assert [made.task(name).keep_largest for name in ("liver", "spleen", "heart_myocardium")] == [
        {"liver": True},
        {"spleen": False},
        {"heart_myocardium": False},
    ]
    assert "b (2)" in made.reasons["tasks.spleen.keep_largest.spleen"]


def test_candidates_follow_the_order_of_the_split() -> None:
    described = dataset(split={"liver": StructureSplit(train=("c", "a", "b")), "*": StructureSplit(train=("b", "c"), test=("a",))})
    made = plans(described=described)
    assert made.task("liver").candidates == ("c", "a", "b")
    assert made.task("spleen").candidates == ("b", "c")


def test_a_case_that_the_split_lists_twice_stays_so_since_the_draw_depends_on_it() -> None:
    made = plans(described=dataset(split={"*": StructureSplit(train=("c", "a", "c"))}))
    assert made.task("liver").candidates == ("c", "a", "c")
    assert "listed twice" in made.reasons["tasks.liver.candidates"]


def test_candidates_are_sorted_without_a_split_and_never_held_out() -> None:
    cases = ("s2", "s1", "s10")
    assert plans(facts=everywhere(cases=cases)).task("liver").candidates == ("s1", "s10", "s2")
    others = dataset(split={"spleen": StructureSplit(train=("s1",), test=("s10",))})
    assert plans(facts=everywhere(cases=cases), described=others).task("liver").candidates == ("s1", "s2")


def test_candidates_are_there_annotated_and_not_empty_and_the_reason_names_the_others() -> None:
    liver = structure({"a": 1, "b": 1}, ("a", "b", "c"))
    facts = fingerprint({"liver": liver, "spleen": structure({}, ("a",)), "heart_myocardium": structure({"a": 1}, ("a", "b"))})
    described = dataset(split={"*": StructureSplit(train=("c", "gone", "b", "a"))})
    made = plans(facts=facts, described=described)
    assert made.task("liver").candidates == ("b", "a")
    reason = made.reasons["tasks.liver.candidates"]
    assert "not in imagesTr: gone" in reason
    assert "empty: c" in reason
    assert "support sets differ" in reason
    spleen = made.task("spleen")
    assert (spleen.candidates, spleen.max_shots) == ((), 0)
    assert "annotate spleen" in made.reasons["tasks.spleen.max_shots"]
    assert "not annotated: c, b" in made.reasons["tasks.spleen.candidates"]


def test_a_multiclass_candidate_is_annotated_in_every_structure_and_shows_at_least_one() -> None:
    facts = fingerprint(
        {
            "liver": structure({"a": 1, "b": 1}, ("a", "b", "c")),
            "spleen": structure({"a": 1}, ("a", "b", "c")),
            "heart_myocardium": structure({"a": 1}, ("a", "b")),
        }
    )
    assert plans(facts=facts, described=dataset("multiclass")).task("multiclass").candidates == ("a", "b")


@pytest.mark.parametrize(("count", "shots"), [(1, 1), (5, 5), (29, 29), (30, 29), (41, 29)])
def test_shots_possible(count: int, shots: int) -> None:
    cases = [f"s{number:04d}" for number in range(count)]
    assert plans(facts=everywhere(cases=cases)).task("liver").max_shots == shots


@pytest.mark.parametrize("foundation", preset_names())
@pytest.mark.parametrize("objective", ["binary", "multiclass"])
def test_every_decision_has_a_reason(foundation: str, objective: Objective) -> None:
    made = plans(foundation, described=dataset(objective))
    decided = {"foundation", "objective", "labels", "scheme", "adaptation", "adaptation.micro_batch", "folds_of_all", "inference.overlap"}
    decided |= {"inference.window_batch", "inference.threshold", "workers", "adaptation.precision", "inference.precision"}
    for task in made.tasks:
        decided |= {f"tasks.{task.name}.{field}" for field in ("kind", "train_decoder", "head", "candidates", "max_shots")}
        decided |= {f"tasks.{task.name}.keep_largest.{name}" for name in task.structures}
    assert set(made.reasons) == decided
    assert all(reason.strip() for reason in made.reasons.values())


def test_a_fingerprint_of_other_structures_is_refused() -> None:
    with pytest.raises(PlansError, match="run arena_extract_fingerprint again"):
        plans(facts=everywhere({"background": 0, "liver": 1}))


def test_plans_survive_the_file(tmp_path: Path) -> None:
    made = plans(described=dataset("multiclass"))
    made.write(tmp_path / "plans.json")
    assert Plans.read(tmp_path / "plans.json") == made


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(UnknownStructure, match=r"unknown task livr.*liver, spleen, heart_myocardium"):
        plans().task("livr")


def test_a_case_whose_structure_vanishes_at_the_networks_spacing_is_no_candidate_of_it_and_others_go_on() -> None:
    spleen = structure({"a": 1, "b": 1}, ("a", "b", "c")).model_copy(update={"vanishing_cases": ("a",)})
    facts = fingerprint({**everywhere().structures, "spleen": spleen})
    made = plans(facts=facts)
    assert (made.task("spleen").candidates, made.task("liver").candidates) == (("b",), ("a", "b", "c"))
    assert "no voxel left at the foundation's spacing: a" in made.reasons["tasks.spleen.candidates"]
    assert plans(facts=facts, described=dataset("multiclass")).task("multiclass").candidates == ("a", "b", "c")


def test_cases_that_a_multiclass_task_leaves_out_are_told() -> None:
    facts = fingerprint({**everywhere().structures, "spleen": structure({"a": 1}, ("a", "b"))})
    (finding,) = partly_annotated(plans(facts=facts, described=dataset("multiclass")), facts)
    assert finding.level == "warning"
    assert finding.sentence.startswith("multiclass: 1 of 3 training cases are left out (c), since spleen is not annotated in all of them")
    assert partly_annotated(plans(facts=facts), facts) == []


def test_unlabelled_voxels_are_no_structure() -> None:
    described = dataset("multiclass", labels={**LABELS, "ignore": len(LABELS)})
    made = plans(described=described)
    assert made.labels == LABELS
    assert "ignore" not in made.task("multiclass").structures


def test_a_scan_left_out_has_no_say_in_its_own_post_processing() -> None:
    """Scan b alone has its liver in two pieces."""
    facts = everywhere()
    facts = facts.model_copy(update={"structures": facts.structures | {"liver": structure({"a": 1, "b": 2, "c": 1}, ("a", "b", "c"))}})
    liver, spleen = (plans(facts=facts).task(name) for name in ("liver", "spleen"))
    assert (liver.keep_largest, spleen.keep_largest) == ({"liver": False}, {"spleen": True})
    assert [without_scans(liver, [scan], facts).keep_largest["liver"] for scan in "abc"] == [False, True, False]
    assert without_scans(spleen, ["b"], facts) == spleen
    edited = liver.model_copy(update={"keep_largest": {"liver": True}})
    assert without_scans(edited, ["a"], facts) == edited
