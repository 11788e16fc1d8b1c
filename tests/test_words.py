from __future__ import annotations

import pytest

from arena_pipeline.words import duration


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 00 min"), (11_100, "3 h 05 min")])
def test_a_duration_is_told_in_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text
