"""The raw datasets that phantoms are written as, read back from disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.cli.make_phantoms import FIELDS_OF_VIEW
from arena_pipeline.cli.make_phantoms import main as command
from arena_pipeline.errors import DatasetError
from arena_pipeline.io.images import read_image, read_segmentation
from arena_pipeline.research.phantoms import FieldOfView, make_phantom
from arena_pipeline.research.phantoms.field_of_view import RANGES
from arena_pipeline.research.phantoms.layouts import ORIENTATIONS, PhantomCase, draw_spacing, reoriented, totalsegmentator_structures
from arena_pipeline.research.phantoms.make_phantoms import make_phantoms

COARSE = (8.0, 8.0, 8.0)


def test_totalsegmentator_layout(tmp_path: Path) -> None:
    images = make_phantoms(tmp_path, 3, "totalsegmentator", test=1, spacing_mm=COARSE, field_of_view="torso")
    assert images == [tmp_path / name / "ct.nii.gz" for name in ("s0001", "s0002", "s0003")]
    image = read_image(images[0])
    masks = sorted(path.name for path in (tmp_path / "s0001" / "segmentations").iterdir())
    assert len(masks) == 16 and "liver.nii.gz" in masks and "bone.nii.gz" not in masks
    liver = read_segmentation(tmp_path / "s0001" / "segmentations" / "liver.nii.gz")
    assert np.allclose(liver.geometry.affine, image.geometry.affine, atol=1e-4)
    assert np.array_equal(np.unique(liver.array), [0, 1])
    assert 20 < np.median(image.array[liver.array == 1]) < 150


def test_meta_has_bom_semicolons_and_the_split(tmp_path: Path) -> None:
    make_phantoms(tmp_path, 3, "totalsegmentator", test=1, spacing_mm=COARSE)
    raw = (tmp_path / "meta.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfimage_id;age;gender;institute;study_type;split\n")
    splits = [line.split(";")[-1] for line in raw.decode("utf-8-sig").splitlines()[1:]]
    assert splits[2] == "test" and set(splits[:2]) <= {"train", "val"}


def test_flare_layout_and_ids(tmp_path: Path) -> None:
    train, query = make_phantoms(tmp_path, 2, "flare22", test=1, spacing_mm=COARSE, field_of_view="abdomen_pelvis")
    assert train == tmp_path / "FLARE22Train" / "images" / "FLARE22_Tr_0001_0000.nii.gz"
    assert query == tmp_path / "FLARE22Tuning" / "images" / "FLARETs_0002_0000.nii.gz"
    labels = read_segmentation(tmp_path / "FLARE22Train" / "labels" / "FLARE22_Tr_0001.nii.gz").array
    assert set(np.unique(labels)) <= {0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13}
    counts = np.bincount(labels.ravel(), minlength=14)
    assert counts[1] == counts[1:].max()  # 1 is the liver, the largest of them


def test_case_does_not_depend_on_how_many_are_made(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "many", 3, "totalsegmentator", spacing_mm=COARSE, seed=4)
    make_phantoms(tmp_path / "one", 1, "totalsegmentator", spacing_mm=COARSE, seed=4, start=3)
    one, other = (read_image(tmp_path / folder / "s0003" / "ct.nii.gz") for folder in ("many", "one"))
    assert np.array_equal(one.array, other.array) and np.array_equal(one.geometry.affine, other.geometry.affine)


def test_finished_cases_are_kept(tmp_path: Path) -> None:
    (first,) = make_phantoms(tmp_path, 1, "totalsegmentator", spacing_mm=COARSE)
    before = first.stat().st_mtime_ns
    assert len(make_phantoms(tmp_path, 2, "totalsegmentator", spacing_mm=COARSE)) == 2
    assert first.stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    make_phantoms(tmp_path, 1, "totalsegmentator", spacing_mm=COARSE)
    with pytest.raises(DatasetError, match=r"seed 0 \(now 1\)"):
        make_phantoms(tmp_path, 1, "totalsegmentator", spacing_mm=COARSE, seed=1)


def test_a_folder_of_the_version_before_sizes_can_be_added_to(tmp_path: Path) -> None:
    make_phantoms(tmp_path, 1, "totalsegmentator", spacing_mm=COARSE)
    record = tmp_path / "phantoms.json"
    record.write_text(json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key != "size"}))
    assert len(make_phantoms(tmp_path, 2, "totalsegmentator", spacing_mm=COARSE)) == 2
    with pytest.raises(DatasetError, match=r"size 1.0 \(now 0.6\)"):
        make_phantoms(tmp_path, 3, "totalsegmentator", spacing_mm=COARSE, size=0.6)


def test_masks_can_be_left_out(tmp_path: Path) -> None:
    make_phantoms(tmp_path, 1, "totalsegmentator", spacing_mm=COARSE, unannotated_share=0.5)
    assert 2 <= len(list((tmp_path / "s0001" / "segmentations").iterdir())) <= 14


@pytest.mark.parametrize("axis_codes", ORIENTATIONS)
def test_reorientation_moves_no_voxel_in_the_patient(axis_codes: str) -> None:
    phantom = make_phantom(np.random.default_rng(0), COARSE, FieldOfView.named("abdomen"))
    turned = reoriented(phantom, axis_codes, np.eye(3))
    assert turned.image.geometry.orientation == axis_codes
    for before, after in ((phantom, turned), (turned, phantom)):
        voxel = np.argwhere(before.segmentation == before.structures["gallbladder"])[0]
        where = np.linalg.inv(after.image.geometry.affine) @ before.image.geometry.affine @ [*voxel, 1]
        there = tuple(np.rint(where[:3]).astype(int))
        assert after.segmentation[there] == after.structures["gallbladder"]
        assert after.image.array[there] == before.image.array[tuple(voxel)]


def test_spacing_varies_as_scanners_do() -> None:
    drawn = np.array([draw_spacing(np.random.default_rng(i), "flare22") for i in range(200)])
    assert drawn[:, :2].min() >= 0.7 and drawn[:, :2].max() <= 1.0
    assert set(np.unique(drawn[:, 2])) == {1.5, 2.0, 2.5, 3.0, 5.0}


def test_totalsegmentator_names_only() -> None:
    names = totalsegmentator_structures({"liver": 6, "lung_right": 12, "bone": 14, "esophagus": 5})
    assert names == ["liver", "esophagus"]


def test_identifiers(tmp_path: Path) -> None:
    assert PhantomCase(tmp_path, "flare22", 12, 0).identifier == "FLARE22_Tr_0012"
    assert PhantomCase(tmp_path, "flare22", 12, 0, test=True).identifier == "FLARETs_0012"
    assert PhantomCase(tmp_path, "totalsegmentator", 12, 0).identifier == "s0012"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-o", str(tmp_path), "-n", "1", "--layout", "flare22", "--spacing", "8", "8", "8", "--seed", "2"]
    assert command(arguments) == 0
    assert capsys.readouterr().out == f"1 phantoms in {tmp_path}\n"
    assert command([*arguments, "--test", "5"]) == 2
    assert "cannot make 1 phantoms from number 1, 5 of them queries" in capsys.readouterr().err
    assert command([*arguments, "--size", "0.6"]) == 2 and "size 1.0 (now 0.6)" in capsys.readouterr().err
    assert command([*arguments, "--size", "6"]) == 2 and "bodies of size 6" in capsys.readouterr().err


def test_command_offers_every_field_of_view() -> None:
    assert set(FIELDS_OF_VIEW) == set(RANGES)
