from __future__ import annotations

import pickle
from pathlib import Path

from arena_pipeline.errors import DatasetError


def test_an_error_says_case_file_finding_and_advice() -> None:
    error = DatasetError("expected 3 axes, found 4", case="s0042", file=Path("imagesTr/s0042_0000.nii.gz"), advice="export one volume")
    assert str(error) == "s0042: imagesTr/s0042_0000.nii.gz: expected 3 axes, found 4; export one volume"
    assert error.without_advice == "s0042: imagesTr/s0042_0000.nii.gz: expected 3 axes, found 4"
    assert str(DatasetError("no cases")) == "no cases"


def test_an_error_comes_back_whole_from_another_process() -> None:
    error = DatasetError("expected 3 axes, found 4", case="s0042", file=Path("a.nii.gz"), advice="export one volume")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.found, back.case, back.file, back.advice) == (DatasetError, error.found, error.case, error.file, error.advice)
