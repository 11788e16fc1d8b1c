"""The Python functions take what notebooks have: numpy's numbers, arrays, columns of a table."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from arena_pipeline import cli
from arena_pipeline.arguments import python_value
from arena_pipeline.stages.extract_fingerprint import extract_fingerprint
from arena_pipeline.stages.verify_dataset import verify_dataset
from arena_pipeline.workspace import Workspace


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("liver"), "liver"),
        (np.arange(2), [0, 1]),
        (np.array(["liver"]), ["liver"]),
        (pd.Series([101, 102]), [101, 102]),
        ([np.int64(0), "a"], [0, "a"]),
        ((np.int8(1),), (1,)),
        ({"rank": np.int64(4)}, {"rank": 4}),
        (Path("a"), Path("a")),
        (None, None),
    ],
)
def test_numpys_and_pandas_values_become_pythons(given: object, expected: object) -> None:
    found = python_value(given)
    assert found == expected
    assert type(found) is type(expected)
    if not isinstance(found, Path):
        json.dumps(found)


COMMANDS = Path(cli.__file__).parent
CALLED = ("stages.", "research.compare.compare", "research.cross_validate.cross_validate", "research.phantoms.make", "research.pretrain.pretrain")


def entrances() -> Iterator[tuple[str, str]]:
    """(module, function) of all that the commands call and that takes more than a workspace."""
    for path in sorted(COMMANDS.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(tuple(f"arena_pipeline.{part}" for part in CALLED)):
                yield from ((str(node.module), name.name) for name in node.names if name.name.islower() and name.name != "info")


@pytest.mark.parametrize(("module", "function"), sorted(set(entrances())))
def test_every_entrance_converts(module: str, function: str) -> None:
    assert hasattr(getattr(importlib.import_module(module), function), "__wrapped__")


def test_a_dataset_named_by_an_array(tiny_dataset: Callable[..., Path], workspace: Workspace) -> None:
    tiny_dataset(cases=1)
    (audit,) = verify_dataset(np.array([901]), workspace, workers=np.int64(0))  # type: ignore[arg-type]
    (fingerprint,) = extract_fingerprint(pd.Series([901]), workspace, np.str_("fseft"), workers=np.int64(0))  # type: ignore[arg-type]
    assert audit.usable and fingerprint.n_training == 1
