"""dataset.json and the raw layout: what is wrong is told with the key, what was found, and the mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arena_pipeline.errors import DatasetError
from arena_pipeline.io.dataset import DatasetJson, RawDataset

GOOD: dict[str, Any] = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 3, "file_ending": ".nii.gz"}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    "content, words",
    [
        (without("file_ending") | {"fileEnding": ".nii.gz"}, "file_ending: missing key, is fileEnding meant to be it"),
        (GOOD | {"objective": "binery"}, "objective: Input should be 'binary' or 'multiclass', found 'binery'"),
        (GOOD | {"objectve": "binary"}, "unknown key objectve, did you mean objective"),
        (GOOD | {"labels": {"background": 0, "liver": 2}}, r"dataset.json: labels: expected consecutive integers 0..1, found \[0, 2\]"),
        (GOOD | {"labels": {"background": 0, "liver": [1, 2]}}, "labels: liver: regions of nnU-Net"),
        (GOOD | {"labels": {"background": 0, "../liver": 1}}, "'../liver' can't name a structure's folder"),
        (GOOD | {"split": {"livre": {"train": ["a"]}}}, "split: livre is neither"),
        ([GOOD], "expected an object, {...}, found list"),
    ],
)
def test_a_faulty_dataset_json_is_told_in_words(tmp_path: Path, content: object, words: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DatasetError, match=words) as caught:
        DatasetJson.read(tmp_path / "dataset.json")
    assert "mend it as in the README's example" in str(caught.value)


def test_keys_of_others_are_kept(tmp_path: Path) -> None:
    extra = {"description": "x", "license": "CC0", "overwrite_image_reader_writer": "SimpleITKIO", "release": "1.0"}
    (tmp_path / "dataset.json").write_text(json.dumps(GOOD | extra), encoding="utf-8")
    assert DatasetJson.read(tmp_path / "dataset.json").model_extra == extra


def test_images_of_another_name_are_named(tiny_dataset: Callable[..., Path]) -> None:
    folder = tiny_dataset(cases=1)
    image = folder / "imagesTr" / "case_0_0000.nii.gz"
    image.rename(folder / "imagesTr" / "case_0.nii.gz")
    with pytest.raises(DatasetError, match=r"case_0.nii.gz without an image; expected .*imagesTr.case_0_0000.nii.gz"):
        RawDataset.open(folder)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps(content | {"file_ending": ".nrrd"}), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"imagesTr: no CASE_0000.nrrd .*found case_0.nii.gz"):
        RawDataset.open(folder)


def test_a_segmentation_under_slicers_ending_is_told_once_with_the_name_it_needs(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(GOOD | {"file_ending": ".nrrd"}), encoding="utf-8")
    for name in ("imagesTr/a_0000.nrrd", "labelsTr/a.seg.nrrd"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (fault,) = RawDataset.survey(tmp_path)[1]
    assert str(fault).endswith("a.nrrd; it is called a.seg.nrrd, rename it; every image in imagesTr needs one")
