"""The published figures, read back."""

from __future__ import annotations

import pytest

from arena_pipeline.io.splits import published_split
from arena_pipeline.research.compare.published import is_published_query_set, published_dice, published_source

HEART = ["heart_myocardium", "heart_atrium_left", "heart_atrium_right", "heart_ventricle_left", "heart_ventricle_right"]


def test_figures_as_printed_in_the_paper() -> None:
    assert published_dice("binary", 5, "arena", ["heart_myocardium"]) == pytest.approx(0.4832)
    assert published_dice("binary", 10, "arena", HEART) == pytest.approx(0.7781)
    assert published_dice("binary", 10, "lora", reversed(HEART)) == pytest.approx(0.6666)  # type: ignore[arg-type]
    assert published_dice("binary", 5, "zero_shot", ["liver"]) == published_dice("binary", 10, "zero_shot", ["liver"]) == pytest.approx(0.9304)
    organs = ["spleen", "kidney_left", "gallbladder", "esophagus", "liver", "pancreas", "stomach", "duodenum", "aorta"]
    assert published_dice("binary", 0, "zero_shot", organs) == pytest.approx(0.7208)
    assert "2507.15793" in published_source()


def test_averages_are_those_of_their_structures() -> None:
    """What we print as an average is the mean of the figures printed beside it, to the rounding of the paper."""
    for method in ("arena", "lora", "fft"):
        figures = [published_dice("binary", 10, method, [structure]) for structure in HEART]
        assert sum(figures) / len(figures) == pytest.approx(published_dice("binary", 10, method, HEART), abs=1e-4)  # type: ignore[arg-type]


def test_nothing_where_nothing_was_published() -> None:
    assert published_dice("binary", 5, "arena", HEART[:4]) is None  # an average over others
    assert published_dice("binary", 3, "arena", ["liver"]) is None
    assert published_dice("binary", 5, "arena_gradient", ["liver"]) is None
    assert published_dice("binary", 5, "arena", ["lung"]) is None
    assert published_dice("multiclass", 5, "bitfit", ["liver"]) is None
    assert published_dice("multiclass", 5, "arena", ["liver"]) != published_dice("binary", 5, "arena", ["liver"])


def test_only_the_published_queries_make_figures_comparable() -> None:
    aorta, flare = published_split("TotalSegmentator", "aorta").test, published_split("FLARE22").test
    assert is_published_query_set("binary", "aorta", aorta)
    assert not is_published_query_set("binary", "aorta", aorta[1:])
    assert not is_published_query_set("binary", "lung", aorta)
    assert is_published_query_set("multiclass", "liver", flare)
    assert not is_published_query_set("multiclass", "liver", [*flare, "one more"])
