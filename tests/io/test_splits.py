"""Support sets equal the published rule, literally."""

from __future__ import annotations

import random

import pytest

from arena_pipeline.errors import SupportSetError, UnknownStructure
from arena_pipeline.io.facts import load_fact
from arena_pipeline.io.splits import draw_support_set, leave_out, published_split, published_structures


def literal_rule(train_ids: list[str], shots: int, fold: int) -> tuple[str, ...]:
    """The published lines, as they stand in the method's description."""
    random.seed(fold)
    return tuple(random.sample(train_ids, min(shots + 1, 30))[:-1])


@pytest.mark.parametrize("structure", published_structures())
@pytest.mark.parametrize("shots", [1, 5, 10, 16])
def test_every_published_support_set_is_the_rule_of_the_paper(structure: str, shots: int) -> None:
    train = published_split("TotalSegmentator", structure).train
    assert [draw_support_set(train, shots, fold) for fold in range(3)] == [literal_rule(list(train), shots, fold) for fold in range(3)]


def test_flare_support_set_worked_out_once() -> None:
    # python3 -c "import random; random.seed(0); print(random.sample(range(1, 51), 6)[:-1])" gives 25, 49, 27, 3, 17
    support = draw_support_set(published_split("FLARE22").train, shots=5, fold=0)
    assert support == ("FLARE22_Tr_0025", "FLARE22_Tr_0049", "FLARE22_Tr_0027", "FLARE22_Tr_0003", "FLARE22_Tr_0017")


def test_the_global_random_state_is_untouched() -> None:
    random.seed(7)
    expected = random.random()
    random.seed(7)
    draw_support_set([f"case_{i}" for i in range(20)], 5, 0)
    assert random.random() == expected


def test_the_order_of_the_list_matters() -> None:
    cases = [f"case_{i:02}" for i in range(20)]
    assert draw_support_set(cases, 5, 0) != draw_support_set(cases[::-1], 5, 0)


def test_29_shots_of_a_long_list_are_the_most_the_rule_gives() -> None:
    cases = [f"case_{i:02}" for i in range(41)]
    assert draw_support_set(cases, 29, 1) == literal_rule(cases, 29, 1)
    with pytest.raises(SupportSetError, match=r"30 shots.*1 to 29"):
        draw_support_set(cases, 30, 1)


def test_with_exactly_k_cases_all_of_them_are_the_support_set() -> None:
    assert draw_support_set(["a", "b", "c"], 3, 0) == draw_support_set(["a", "b", "c"], 3, 2) == ("a", "b", "c")


def test_one_shot_of_two_cases() -> None:
    assert draw_support_set(["a", "b"], 1, 0) == literal_rule(["a", "b"], 1, 0)


def test_too_few_cases_names_them_and_the_mend() -> None:
    with pytest.raises(SupportSetError, match=r"5 shots.*only 2 usable training cases \(a, b\); annotate 3 more or ask for at most 2"):
        draw_support_set(["a", "b"], 5, 0)
    with pytest.raises(SupportSetError, match=r"only 0 usable training cases \(none\); annotate 5 more$"):
        draw_support_set([], 5, 0)


@pytest.mark.parametrize("shots", [0, -1])
def test_no_shots_is_an_error(shots: int) -> None:
    with pytest.raises(SupportSetError, match="choose"):
        draw_support_set(["a", "b"], shots, 0)


def test_folds_count_from_0() -> None:
    with pytest.raises(SupportSetError, match="fold -1 asked for; folds are numbered 0, 1, 2"):
        draw_support_set(["a", "b", "c"], 2, -1)


def test_the_pancreas_has_a_case_twice_as_published(caplog: pytest.LogCaptureFixture) -> None:
    support = draw_support_set(published_split("TotalSegmentator", "pancreas").train, 5, 2)
    assert support == ("s0930", "s0930", "s0765", "s0370", "s0190")
    assert "the support set of fold 2 has a case twice" in caplog.text


def test_published_splits_keep_the_order_and_sizes_of_their_file() -> None:
    aorta = published_split("TotalSegmentator", "aorta")
    assert aorta.test == ("s0004", "s0502", "s0227", "s0785", "s0801")
    assert aorta.train[:3] == ("s0241", "s0739", "s0765")
    flare = published_split("FLARE22")
    assert (len(flare.train), len(flare.test)) == (50, 22)


def test_no_published_case_is_both_drawn_from_and_a_query() -> None:
    splits = [published_split("TotalSegmentator", structure) for structure in published_structures()]
    assert not {case for split in splits for case in split.train} & {case for split in splits for case in split.test}


def test_a_structure_without_published_split_lists_those_with_one() -> None:
    with pytest.raises(UnknownStructure, match="face; there is one for: aorta, duodenum"):
        published_split("TotalSegmentator", "face")


def test_the_facts_hang_together() -> None:
    v1 = load_fact("totalsegmentator_classes")["v1"]
    assert len(v1) == 104
    assert len(load_fact("totalsegmentator_classes")["v2"]) == 117
    assert set(published_structures()) <= set(v1)
    assert set(load_fact("structures")["paper_tasks"]["base"]) <= set(load_fact("structures")["flare22_labels"])


def test_folds_that_leave_scans_out_leave_each_out_once() -> None:
    assert [leave_out(("a", "b", "c"), fold, 3) for fold in range(3)] == [("b", "c"), ("a", "c"), ("a", "b")]
    assert leave_out(("a", "b", "a", "c"), 0, 3) == ("b", "c")  # twice in the list: it leaves as a whole
    ten = [str(number) for number in range(10)]
    gone = [set(ten) - set(leave_out(ten, fold, 5)) for fold in range(5)]
    assert gone[1] == {"1", "6"} and sorted(case for fold in gone for case in fold) == ten
    with pytest.raises(SupportSetError, match="fold 5 asked for, but each of the 5 folds"):
        leave_out(ten, 5, 5)
