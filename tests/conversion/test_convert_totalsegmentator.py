"""TotalSegmentator folders, v1 and v2, whole and damaged, become valid datasets or clear errors."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from arena_pipeline.cli.convert_totalsegmentator import main
from arena_pipeline.errors import DatasetError, UnknownStructure
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.splits import published_split
from arena_pipeline.workspace import Workspace
from dataset_conversion.flare22 import convert_flare22
from dataset_conversion.merge import merge_masks
from dataset_conversion.totalsegmentator import convert_totalsegmentator
from dataset_conversion.totalsegmentator_raw import RawTotalSegmentator
from tests.conversion.conftest import LEFT, RIGHT, labels_of, report


def test_v1_to_the_standard_layout(v1_root: Path, workspace: Workspace) -> None:
    folder = convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert folder == workspace.raw / "Dataset101_TotalSegmentator"
    raw = RawDataset.open(folder)
    assert (list(raw.training), list(raw.queries)) == (["s0001", "s0002"], ["s0003"])
    assert raw.json.labels == {"background": 0, "spleen": 1, "liver": 2, "heart_myocardium": 3}  # the class file's order
    assert (raw.json.objective, raw.json.numTraining, raw.json.source) == ("binary", 2, "TotalSegmentator v1")
    expected = np.zeros((6, 5, 4), np.uint8)
    expected[LEFT], expected[RIGHT] = 2, 3
    np.testing.assert_array_equal(labels_of(raw.training["s0001"].segmentation), expected)


def test_a_missing_mask_is_not_annotated_and_an_empty_one_is_absent(v1_root: Path, workspace: Workspace) -> None:
    folder = convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    description = RawDataset.open(folder).json
    assert description.annotated == {"s0002": ("liver",)}
    assert report(folder)["voxels"] == {
        "s0001": {"spleen": 0, "liver": 40, "heart_myocardium": 40},
        "s0002": {"liver": 40},
        "s0003": {"spleen": 40, "liver": 40, "heart_myocardium": 0},
    }


def test_cts_are_the_raw_files_and_labels_lie_on_their_grid(v1_root: Path, workspace: Workspace) -> None:
    raw = RawDataset.open(convert_totalsegmentator(v1_root, workspace, 101, workers=1))
    case = raw.training["s0001"]
    assert case.image.read_bytes() == (v1_root / "s0001" / "ct.nii.gz").read_bytes()
    np.testing.assert_array_equal(nibabel.load(case.image).affine, nibabel.load(case.segmentation).affine)
    seen = [SimpleITK.ReadImage(str(path)) for path in (case.image, case.segmentation)]
    assert seen[0].GetOrigin() == pytest.approx(seen[1].GetOrigin())
    assert seen[0].GetDirection() == pytest.approx(seen[1].GetDirection())


def shear(path: Path) -> None:
    image = nibabel.load(path)
    affine = image.affine @ np.array([[1, 0.05, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    changed = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    changed.set_qform(None, code=0)
    nibabel.save(changed, path)


def set_nan_intercept(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[112:120] = np.array([1.0, np.nan], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(gzip.compress(bytes(data)))


def uncompress(path: Path) -> None:
    path.write_bytes(gzip.decompress(path.read_bytes()))


@pytest.mark.parametrize("damage", [shear, set_nan_intercept, uncompress])
def test_a_ct_that_some_reader_refuses_is_written_anew(damage: Callable[[Path], None], v1_root: Path, workspace: Workspace) -> None:
    hu = np.asarray(nibabel.load(v1_root / "s0001" / "ct.nii.gz").dataobj)
    for path in (v1_root / "s0001").rglob("*.nii.gz"):
        damage(path)
    case = RawDataset.open(convert_totalsegmentator(v1_root, workspace, 101, workers=1)).training["s0001"]
    np.testing.assert_array_equal(nibabel.load(case.image).get_fdata(), hu)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case.image))).T, hu)
    assert SimpleITK.ReadImage(str(case.segmentation)).GetSize() == hu.shape


def test_v2_with_a_bom_and_its_own_classes(tmp_path: Path, raw_subject, write_meta, workspace: Workspace) -> None:
    root = tmp_path / "v2"
    raw_subject(root, "s0010", {"heart": LEFT, "aorta": RIGHT})
    raw_subject(root, "s0011", {"aorta": LEFT})
    write_meta(root, {"s0010": "train", "s0011": "test"}, v2=True, bom=True)
    raw = RawDataset.open(convert_totalsegmentator(root, workspace, 103, name="V2", workers=1))
    assert raw.json.labels == {"background": 0, "heart": 1, "aorta": 2}
    assert raw.json.source == "TotalSegmentator v2"
    assert (list(raw.training), list(raw.queries)) == (["s0010"], ["s0011"])


@pytest.mark.parametrize(("name", "version"), [("heart_atrium_left", "v1"), ("atrial_appendage_left", "v2"), ("aorta", "v1")])
def test_the_release_is_told_by_the_masks_where_there_is_no_meta(name: str, version: str, tmp_path: Path, raw_subject) -> None:
    raw_subject(tmp_path / "raw", "s0001", {name: LEFT})
    assert RawTotalSegmentator.open(tmp_path / "raw").version == version


def test_meta_of_one_release_with_masks_of_the_other_is_refused(tmp_path: Path, raw_subject, write_meta, workspace: Workspace) -> None:
    raw_subject(tmp_path / "raw", "s0001", {"heart_atrium_left": LEFT})
    write_meta(tmp_path / "raw", {"s0001": "train"}, v2=True)
    with pytest.raises(DatasetError, match=r"columns of v2, but the masks of 1 subject have names of v1.*can't be mixed"):
        convert_totalsegmentator(tmp_path / "raw", workspace, 101, workers=1)
    assert not workspace.root.exists()


def test_a_subject_of_the_other_release_fails_and_the_others_convert(v1_root: Path, raw_subject, workspace: Workspace) -> None:
    raw_subject(v1_root, "s0004", {"heart": LEFT, "aorta": RIGHT})
    with pytest.raises(DatasetError, match=r"s0004: has masks that TotalSegmentator v1 does not have \(heart\).*--exclude s0004"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert list(RawDataset.open(workspace.raw / "Dataset101_TotalSegmentator").training) == ["s0001", "s0002"]


def test_a_stray_mask_is_ignored_and_reported(
    v1_root: Path, raw_subject, write_nifti, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    write_nifti(v1_root / "s0001" / "segmentations" / "heart.nii.gz", np.ones((6, 5, 4), np.uint8), np.eye(4))
    with caplog.at_level(logging.WARNING):
        folder = convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert "s0001: mask heart is not of TotalSegmentator v1 and is ignored" in caplog.text
    assert report(folder)["ignored"] == {"s0001": ["mask heart: not a structure of TotalSegmentator v1"]}


def test_unknown_structures_are_guessed_and_the_other_release_named(v1_root: Path, workspace: Workspace) -> None:
    meant = (
        r"heart, livr, did you mean liver\? TotalSegmentator v1 has 104 structures, named as the files in .*\(heart: only in v2, this folder is v1\)$"
    )
    with pytest.raises(UnknownStructure, match=meant):
        convert_totalsegmentator(v1_root, workspace, 101, structures=["heart", "livr"], workers=1)
    with pytest.raises(DatasetError, match="face: no subject"):
        convert_totalsegmentator(v1_root, workspace, 101, structures=["face"], workers=1)


def test_training_cases_without_any_chosen_structure_are_left_out(v1_root: Path, workspace: Workspace) -> None:
    folder = convert_totalsegmentator(v1_root, workspace, 101, structures=["spleen"], workers=1)
    assert list(RawDataset.open(folder).training) == ["s0001"]
    assert report(folder)["left_out"] == {"s0002": "none of the chosen structures is annotated"}


def test_overlaps_go_to_the_smaller_structure_and_are_counted() -> None:
    # 10 voxels of a, 4 of b inside a, 2 of c of which one is in b (and a): a keeps 6, b 3, c 2.
    indices = {"a": np.arange(10), "b": np.arange(6, 10), "c": np.array([9, 10])}
    merged, overlaps = merge_masks(indices, {"a": 1, "b": 2, "c": 3}, (12, 1, 1))
    assert merged.ravel().tolist() == [1] * 6 + [2] * 3 + [3] * 2 + [0]
    assert [(o.kept_by, o.taken_from, o.voxels) for o in overlaps] == [("b", "a", 4), ("c", "b", 1)]


def test_overlapping_masks_are_reported(tmp_path: Path, raw_subject, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    raw_subject(tmp_path / "raw", "s0001", {"liver": (slice(0, 4), slice(None), slice(None)), "gallbladder": (slice(3, 5), slice(None), slice(None))})
    with caplog.at_level(logging.WARNING):
        folder = convert_totalsegmentator(tmp_path / "raw", workspace, 101, workers=1)
    assert report(folder)["overlaps"] == {"s0001": [{"kept_by": "gallbladder", "taken_from": "liver", "voxels": 20}]}
    assert "20 voxels in 1 case belong to more than one mask" in caplog.text
    assert "no meta.csv: every subject is taken as a training case" in caplog.text


def test_a_mask_on_another_grid_is_named_and_nothing_of_its_case_stays(v1_root: Path, workspace: Workspace, write_nifti) -> None:
    bad = write_nifti(v1_root / "s0002" / "segmentations" / "spleen.nii.gz", np.zeros((6, 5, 4), np.uint8), (1.5, 1.5, 3.0))
    with pytest.raises(DatasetError, match=r"s0002: label grid differs from the CT: spacing .* in .*spleen\.nii\.gz.*--exclude s0002") as error:
        convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert str(bad) in str(error.value)
    folder = workspace.raw / "Dataset101_TotalSegmentator"
    assert not list(folder.rglob("*s0002*"))
    assert list(RawDataset.open(folder).training) == ["s0001"]
    convert_totalsegmentator(v1_root, workspace, 101, exclude=["s0002"], workers=1)
    assert report(folder)["left_out"] == {"s0002": "excluded on request"}


def test_a_mask_with_two_values_is_refused(v1_root: Path, workspace: Workspace, write_nifti) -> None:
    affine = nibabel.load(v1_root / "s0001" / "ct.nii.gz").affine
    write_nifti(v1_root / "s0001" / "segmentations" / "spleen.nii.gz", np.arange(120, dtype=np.uint8).reshape(6, 5, 4) % 3, affine)
    with pytest.raises(DatasetError, match=r"s0001: .*spleen\.nii\.gz: values 1, 2, expected 0 and one other; export the mask alone"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=1)


def test_a_truncated_ct_fails_by_name_but_a_known_defective_subject_is_left_out(
    v1_root: Path, raw_subject, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    broken = raw_subject(v1_root, "s0864", {"liver": LEFT}) / "ct.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        folder = convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert "s0864: known to be defective (corrupt)" in caplog.text
    assert "cut short or damaged" in report(folder)["left_out"]["s0864"]
    other = v1_root / "s0001" / "ct.nii.gz"
    other.write_bytes(other.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"1 case not in .*s0001.ct\.nii\.gz: cut short or damaged"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=1)


def test_defective_subjects_are_converted_unless_excluded(v1_root: Path, raw_subject, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    raw_subject(v1_root, "s1196", {"heart_myocardium": LEFT})
    with caplog.at_level(logging.WARNING):
        folder = convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    assert "s1196" in RawDataset.open(folder).training
    assert "s1196: known to be defective (heart labelled in the abdomen); converted all the same" in caplog.text
    folder = convert_totalsegmentator(v1_root, workspace, 101, exclude_defective=True, workers=1)
    assert "s1196" not in RawDataset.open(folder).training
    assert not list(folder.rglob("*s1196*"))


def test_the_published_split_per_structure(tmp_path: Path, raw_subject, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    aorta, gluteus = published_split("TotalSegmentator", "aorta"), published_split("TotalSegmentator", "gluteus_maximus_left")
    root = tmp_path / "raw"
    for case in (*aorta.train[:3], aorta.test[1], gluteus.train[0], gluteus.test[0]):
        raw_subject(root, case, {"aorta": LEFT, "gluteus_maximus_left": RIGHT, "face": None})
    raw_subject(root, "s9999", {"aorta": LEFT})
    with caplog.at_level(logging.WARNING):
        folder = convert_totalsegmentator(root, workspace, 101, split="published", workers=1)
    raw = RawDataset.open(folder)
    assert list(raw.json.structures) == ["aorta", "gluteus_maximus_left"]  # face has no published split
    assert raw.json.split["aorta"].train == aorta.train[:3]  # in the file's order, not sorted
    assert raw.json.split["aorta"].test == (aorta.test[1],)
    assert raw.json.split["gluteus_maximus_left"].train == (gluteus.train[0],)
    assert sorted(raw.training) == sorted((*aorta.train[:3], gluteus.train[0]))
    assert sorted(raw.queries) == sorted((aorta.test[1], gluteus.test[0]))
    assert "of the published split's subjects are not here" in caplog.text


def test_a_meta_with_commas_or_an_odd_split_is_explained(v1_root: Path, workspace: Workspace) -> None:
    text = (v1_root / "meta.csv").read_text()
    (v1_root / "meta.csv").write_text(text.replace(";", ","))
    with pytest.raises(DatasetError, match="expected columns image_id and split, separated by ';'"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=1)
    (v1_root / "meta.csv").write_text(text.replace("val", "validation"))
    with pytest.raises(DatasetError, match="split of s0002 is none of train, val, test"):
        convert_totalsegmentator(v1_root, workspace, 101, workers=1)


def test_a_wrong_folder_gives_a_hint(v1_root: Path, workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"perhaps you mean -i .*raw v1"):
        convert_totalsegmentator(v1_root.parent, workspace, 101, workers=1)
    converted = convert_totalsegmentator(v1_root, workspace, 101, workers=0)
    for convert in (convert_totalsegmentator, convert_flare22):
        with pytest.raises(DatasetError, match="already in the standard layout .* nothing needs converting"):
            convert(converted, workspace, 102, workers=0)
    with pytest.raises(DatasetError, match="no such folder"):
        convert_totalsegmentator(tmp_path / "nowhere", workspace, 101, workers=1)


def test_the_command(v1_root: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-i", str(v1_root), "-d", "101", "-n", "Mine", "--structures", "liver", "-w", str(workspace.root), "-np", "2"]
    assert main(arguments) == 0
    assert "next: arena_plan_and_preprocess -d 101" in capsys.readouterr().out
    assert list(RawDataset.open(workspace.raw / "Dataset101_Mine").json.structures) == ["liver"]
    assert main([*arguments[:-6], "--structures", "livr", "-w", str(workspace.root)]) == 2
    assert "unknown structure livr" in capsys.readouterr().err


def test_real_subjects(real_data: Path, workspace: Workspace) -> None:
    folder = convert_totalsegmentator(real_data / "totalsegmentator_v1", workspace, 101, workers=1)
    raw = RawDataset.open(folder)
    assert (list(raw.training), list(raw.queries)) == (["s9001", "s9002"], ["s9003"])
    assert raw.json.annotated == {"s9002": ("aorta", "vertebrae_T12"), "s9003": ("pulmonary_artery",)}
    voxels = report(folder)["voxels"]
    assert sum(count > 0 for count in voxels["s9001"].values()) == 59
    assert voxels["s9001"]["esophagus"] == 0
