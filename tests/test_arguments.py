"""The Python functions take what notebooks have: numpy's numbers, arrays, columns of a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from arena_pipeline.arguments import plain
from arena_pipeline.research.compare.compare import compare
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.ensemble import ensemble
from arena_pipeline.stages.evaluate import evaluate
from arena_pipeline.stages.extract_fingerprint import extract_fingerprint
from arena_pipeline.stages.plan import plan
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.stages.preprocess import preprocess
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
    found = plain(given)
    assert found == expected
    assert type(found) is type(expected)
    if not isinstance(found, Path):
        json.dumps(found)


ENTRANCES = [adapt_dataset, compare, ensemble, evaluate, extract_fingerprint, plan, plan_and_preprocess, predict, preprocess, verify_dataset]


@pytest.mark.parametrize("function", ENTRANCES, ids=lambda function: function.__name__)
def test_every_entrance_converts(function: Callable[..., object]) -> None:
    assert hasattr(function, "__wrapped__")


def test_a_dataset_named_by_an_array(tiny_dataset: Callable[..., Path], workspace: Workspace) -> None:
    tiny_dataset(cases=1)
    (audit,) = verify_dataset(np.array([901]), workspace, workers=np.int64(0))  # type: ignore[arg-type]
    (fingerprint,) = extract_fingerprint(pd.Series([901]), workspace, np.str_("fseft"), workers=np.int64(0))  # type: ignore[arg-type]
    assert audit.usable and fingerprint.n_training == 1
