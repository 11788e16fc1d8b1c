"""docs/reliability.md: every promise names the tests that hold it, or the benchmark that measures it, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
TEST = re.compile(r"(tests/\S+\.py)::(\w+)")


def test_every_promise_has_a_test_that_exists() -> None:
    lines = (CHECKOUT / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
    promises = [line for line in lines if line.startswith("- ")]
    assert len(promises) > 20
    for promise in promises:
        named = TEST.findall(promise)
        measured = re.search(r"python -m benchmarks\.(\w+)", promise)
        assert named or (measured and (CHECKOUT / "benchmarks" / f"{measured[1]}.py").is_file()), f"no test is named: {promise}"
        for file, name in named:
            assert f"def {name}(" in (CHECKOUT / file).read_text(encoding="utf-8"), f"{file} has no {name}"
