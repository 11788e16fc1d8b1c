"""make_plans: laws that hold for every dataset and foundation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from arena_pipeline.errors import PlansError, UnknownStructure
from arena_pipeline.fingerprint import CaseFacts, Fingerprint, StructureFacts
from arena_pipeline.foundations import load_preset, preset_names
from arena_pipeline.io.dataset import DatasetJson, Objective, StructureSplit
from arena_pipeline.planning import InferencePlan, Machine, Plans, make_plans
from arena_pipeline.planning.fitting import fit_adaptation, fit_windows
from arena_pipeline.planning.tasks import partly_annotated, without_scans
from arena_pipeline.settings import AdaptationSettings

GIB = 2**30
LAPTOP = Machine(memory_bytes=16 * GIB, device_memory_bytes=None, cores=4)
LABELS = {"background": 0, "liver": 1, "spleen": 2, "heart_myocardium": 3}


def dataset(objective: Objective | None = "binary", labels: dict[str, int] = LABELS, **extra: object) -> DatasetJson:
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz", **extra}
    return DatasetJson.model_validate(content if objective is None else {**content, "objective": objective})


def structure(non_empty: dict[str, int], annotated: Sequence[str]) -> StructureFacts:
    """`non_empty`: case -> number of connected components."""
    return StructureFacts(
        annotated=len(annotated),
        non_empty=len(non_empty),
        non_empty_cases=tuple(non_empty),
        annotated_cases=tuple(annotated),
        median_volume_ml=100.0 if non_empty else None,
        components=non_empty,
        touches_border=0,
    )


def fingerprint(structures: dict[str, StructureFacts], cases: Sequence[str] = ("a", "b", "c"), shape: int = 100) -> Fingerprint:
    case = CaseFacts(
        shape=(shape, shape, shape),
        spacing_mm=(1.5, 1.5, 1.5),
        orientation="RAS",
        oblique=False,
        anisotropy=1.0,
        min_hu=-1000.0,
        max_hu=1500.0,
        clipped_share=0.5,
        field_of_view_mm=(150.0, 150.0, 150.0),
        looks_like_hu=True,
        labels_present=(1,),
    )
    return Fingerprint(
        spacings=((1.5, 1.5, 1.5),) * len(cases),
        shapes_after_crop=((shape, shape, shape),) * len(cases),
        foreground_intensity_properties_per_channel={},
        median_relative_size_after_cropping=1.0,
        dataset_name="Dataset101_Test",
        n_training=len(cases),
        structures=structures,
        cases=dict.fromkeys(cases, case),
        findings=(),
        foundation="fseft",
    )


def everywhere(labels: dict[str, int] = LABELS, cases: Sequence[str] = ("a", "b", "c")) -> Fingerprint:
    """Every structure annotated in every case, in one piece."""
    return fingerprint({name: structure(dict.fromkeys(cases, 1), cases) for name, label in labels.items() if label}, cases)


def plans(foundation: str = "fseft", facts: Fingerprint | None = None, described: DatasetJson | None = None, machine: Machine = LAPTOP) -> Plans:
    return make_plans(facts or everywhere(), load_preset(foundation), "0" * 64, described or dataset(), machine)


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


@pytest.mark.parametrize(
    ("device_gib", "micro_batch"),
    # 200 bytes x 48 x 96^3 = 7.91 GiB per patch; 16 bytes x 62.2 million parameters = 0.93 GiB; 80 % of the memory:
    # 80 GiB hold 7 patches, 48 hold 4 (two passes of 3), 24 hold 2, 12 hold 1, 8 hold none
    # with activations computed again 135 bytes, 5.34 GiB: 8 hold 1, 4 hold none
    [(139, None), (80, None), (48, 3), (24, 2), (12, 1), (8, 1), (4, 1)],
)
def test_micro_batch_by_the_memory_of_the_device(device_gib: int, micro_batch: int | None) -> None:
    machine, preset = Machine(memory_bytes=64 * GIB, device_memory_bytes=device_gib * GIB, cores=8), load_preset("fseft")
    settings, why = fit_adaptation(preset.adaptation, preset, machine)
    assert settings.micro_batch == micro_batch
    assert settings.recompute_activations == (device_gib <= 8)
    assert ("even so" in why) == (device_gib == 4)
    made = plans(machine=machine)
    assert made.adaptation == preset.adaptation, "plans made on a small machine do not cripple a large one"
    assert why in made.reasons["adaptation.micro_batch"]
    fixed = preset.adaptation.model_copy(update={"micro_batch": 5})
    assert fit_adaptation(fixed, preset, machine) == (fixed, "5 patches at once, as planned")


@pytest.mark.parametrize(
    ("device_gib", "windows"),
    # 96^3 voxels: 70 bytes x 48 + 8 bytes x 10 outputs = 2.83 GiB a window; 4 bytes x 62.2 million weights = 0.23 GiB; 80 % of the memory
    [(24, 4), (12, 3), (4, 1), (1, 1), (None, 2)],
)
def test_windows_at_once_by_the_memory_of_the_device(device_gib: int | None, windows: int) -> None:
    preset, machine = load_preset("fseft"), Machine(64 * GIB, None if device_gib is None else device_gib * GIB, cores=8)
    made = plans(machine=machine)
    assert made.inference.window_batch is made.workers.preprocess is made.workers.export is None, "nor does it slow a large one down"
    assert fit_windows(made.inference, preset, machine, 10)[0] == windows
    assert fit_windows(InferencePlan(window_batch=7), preset, machine, 10) == (7, "as planned")


def test_a_gpu_that_computes_in_16_bits_takes_more_patches_unless_told_not_to() -> None:
    """FSEFT at 96^3: 7.9 GiB a patch in float32, 0.65 of it in 16 bits; four fifths of 16 GiB take one or two beside the weights."""
    preset, machine = load_preset("fseft"), Machine(64 * GIB, 16 * GIB, cores=8, half="bf16")
    made = [fit_adaptation(AdaptationSettings(precision=name), preset, machine)[0].micro_batch for name in ("auto", "bf16", "fp32")]
    assert made == [2, 2, 1]
    assert plans(machine=machine).reasons["adaptation.precision"].endswith("on the machine that planned: bf16")


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
