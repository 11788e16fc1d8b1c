from __future__ import annotations

import pytest

from arena_pipeline.words import duration, names_to_choose


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 00 min"), (11_100, "3 h 05 min")])
def test_a_duration_is_told_in_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_names_that_are_unknown_get_the_nearest_one_and_no_wall_of_others() -> None:
    known = ["liver", *(f"rib_{number}" for number in range(103))]
    advice = names_to_choose(["livver", "zebra"], known, "this dataset has")
    assert advice == f"did you mean liver? this dataset has: {', '.join(known[:10])} and 94 more"
    assert names_to_choose(["zebra"], ["liver"], "there are") == "there are: liver"
