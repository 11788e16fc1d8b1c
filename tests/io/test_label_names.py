"""Names and numbers of structures in dataset.json: what can't work somewhere is refused before work."""

from __future__ import annotations

import pytest

from arena_pipeline.io.dataset import StructureSplit
from arena_pipeline.io.label_names import check_labels, check_structure_names, refuse_other_forms


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["liver", "Liver"], "liver, Liver differ only in upper and lower case"),
        (["stra\u00dfe", "STRASSE"], "differ only in upper and lower case"),
        (["a" * 151], "has 151 bytes, a name may have 150"),
        (["\u809d" * 51], "has 153 bytes"),
        (["liver:left"], "'liver:left' can't be a folder in Windows"),
        (["liver."], "can't be a folder in Windows"),
        (["liver "], "can't be a folder in Windows"),
        (["CON"], "can't be a folder in Windows"),
        (["aux.left"], "can't be a folder in Windows"),
        (["a/b"], "can't name a structure's folder"),
    ],
)
def test_names_that_are_no_folder_everywhere_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_structure_names(names)


def test_usual_names_are_taken() -> None:
    check_structure_names(["liver", "Left kidney", "vertebra_L5", "console", "a.b", "\u809d\u81d3", "a" * 150])


def test_regions_come_with_how_to_write_them() -> None:
    with pytest.raises(ValueError, match="whole, core: regions of nnU-Net .* give every structure one integer: ") as caught:
        refuse_other_forms({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3})
    assert 'write {"background": 0, "whole": 1, "core": 2, "enhancing": 3}' in str(caught.value)
    with pytest.raises(ValueError, match="give every structure one integer$"):
        refuse_other_forms({"background": 0, "liver": [1, 2]})  # nobody knows what 1 and 2 are


def test_the_ignore_label_is_the_highest() -> None:
    check_labels({"background": 0, "liver": 1, "ignore": 2})
    with pytest.raises(ValueError, match="ignore is 1; nnU-Net's label of voxels without annotation has the highest integer, 2"):
        check_labels({"background": 0, "liver": 2, "ignore": 1})


def test_a_case_in_both_parts_of_a_split_is_refused() -> None:
    assert StructureSplit(train=("a", "a", "b"), test=("c",)).train == ("a", "a", "b")
    with pytest.raises(ValueError, match="b under train and under test: a case adapted on can't be a query"):
        StructureSplit(train=("a", "b"), test=("b", "c"))
