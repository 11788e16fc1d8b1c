"""A fingerprint's numbers, each worked out by hand on volumes of a few voxels, and the sentences of its findings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.cli.extract_fingerprint import main
from arena_pipeline.errors import DatasetError, PlansError
from arena_pipeline.fingerprint import Fingerprint, measure_dataset
from arena_pipeline.fingerprint.reading import looks_like_hu
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.dataset import DatasetJson, RawDataset, StructureSplit
from arena_pipeline.workspace import Workspace

PRESET = load_preset("fseft")  # 1.5 mm, [-175, 250] HU, 96^3
LABELS = {"background": 0, "liver": 1, "lung_tumor_like": 2}


@pytest.fixture
def dataset(workspace: Workspace, write_nifti):
    """dataset({"a": (hu array, labels array)}, spacing_mm or affine, annotated={}): a raw dataset 901."""

    def make(cases, grid=(1.5, 1.5, 1.5), annotated=None) -> RawDataset:
        folder = workspace.raw / "Dataset901_Hand"
        for case, (image, segmentation) in cases.items():
            write_nifti(folder / "imagesTr" / f"{case}_0000.nii.gz", image.astype(np.int16), grid)
            write_nifti(folder / "labelsTr" / f"{case}.nii.gz", segmentation.astype(np.uint8), grid)
        DatasetJson(
            channel_names={"0": "CT"}, labels=LABELS, numTraining=len(cases), file_ending=".nii.gz", objective="binary", annotated=annotated or {}
        ).write(folder / "dataset.json")
        return RawDataset.open(folder)

    return make


def case_by_hand() -> tuple[np.ndarray, np.ndarray]:
    """10 x 8 x 6 voxels: air but for a body of 6 x 4 x 2 at 40 HU, in it a liver of two components (8 + 1 voxels) at 100 HU."""
    image = np.full((10, 8, 6), -1000.0)
    image[2:8, 2:6, 2:4] = 40
    segmentation = np.zeros(image.shape)
    segmentation[2:4, 2:4, 2:4] = 1
    segmentation[5, 5, 3] = 1
    image[segmentation == 1] = 100
    return image, segmentation


def test_numbers_by_hand(dataset) -> None:
    fingerprint = measure_dataset(dataset({"a": case_by_hand()}, grid=(1.0, 2.0, 3.0)), PRESET, workers=1)
    facts = fingerprint.cases["a"]
    assert (facts.shape, facts.spacing_mm, facts.field_of_view_mm) == ((10, 8, 6), (1, 2, 3), (10, 16, 18))
    assert (facts.min_hu, facts.max_hu, facts.anisotropy, facts.orientation) == (-1000, 100, 3, "RAS")
    assert facts.clipped_share == pytest.approx((480 - 48) / 480)  # everything but the body
    assert facts.labels_present == (1,)
    assert fingerprint.spacings == ((1, 2, 3),)
    assert fingerprint.shapes_after_crop == ((6, 4, 2),)
    assert fingerprint.median_relative_size_after_cropping == pytest.approx(48 / 480)
    liver = fingerprint.structures["liver"]
    assert (liver.annotated, liver.non_empty, liver.components, liver.touches_border, liver.clipped_share) == (1, 1, {"a": 2}, 0, 0)
    assert liver.median_volume_ml == pytest.approx(9 * 6 / 1000)
    assert fingerprint.structures["lung_tumor_like"].median_volume_ml is None
    intensity = fingerprint.foreground_intensity_properties_per_channel["0"]
    assert (intensity.mean, intensity.std, intensity.percentile_99_5) == (100, 0, 100)


def test_facts_are_along_the_patients_axes_whatever_the_file_does(dataset) -> None:
    # the file's first axis runs to the feet, its second to the left, its third to the back
    affine = np.array([[0.0, -1, 0, 0], [0, 0, -2, 0], [-3, 0, 0, 0], [0, 0, 0, 1]])
    image, segmentation = (array.transpose(2, 0, 1)[::-1, ::-1, ::-1] for array in case_by_hand())
    fingerprint = measure_dataset(dataset({"a": (image, segmentation)}, grid=affine), PRESET, workers=1)
    facts = fingerprint.cases["a"]
    assert (facts.orientation, facts.shape, facts.spacing_mm, facts.oblique) == ("ILP", (10, 8, 6), (1, 2, 3), False)
    assert fingerprint.shapes_after_crop == ((6, 4, 2),)


def test_two_structures_meeting_at_a_corner_are_one_component(dataset) -> None:
    image, segmentation = case_by_hand()
    segmentation[segmentation == 1] = 0
    segmentation[3, 3, 3] = segmentation[4, 4, 4] = 1  # 26-connected
    segmentation[0, 0, 0] = 2
    structures = measure_dataset(dataset({"a": (image, segmentation)}), PRESET, workers=1).structures
    assert structures["liver"].components == {"a": 1}
    assert (structures["liver"].touches_border, structures["lung_tumor_like"].touches_border) == (0, 1)
    assert structures["lung_tumor_like"].clipped_share == 1  # it lies in air


def test_every_case_weighs_the_same_in_the_intensities(dataset) -> None:
    small, large = case_by_hand(), case_by_hand()
    large[1][2:8, 2:6, 2:4] = 1  # 48 voxels of which 9 are at 100 HU: mean 51.25
    fingerprint = measure_dataset(dataset({"large": large, "small": small}), PRESET, workers=1)
    mean = fingerprint.foreground_intensity_properties_per_channel["0"].mean
    assert mean == pytest.approx((51.25 + 100) / 2, abs=0.1)  # not the mean over voxels, 58.95


def test_partial_annotation(dataset) -> None:
    cases = {name: case_by_hand() for name in ("a", "b")}
    fingerprint = measure_dataset(dataset(cases, annotated={"b": ("liver",)}), PRESET, workers=1)
    assert fingerprint.structures["liver"].annotated_cases == ("a", "b")
    assert fingerprint.structures["lung_tumor_like"].annotated_cases == ("a",)
    assert sentences(fingerprint, "warning", "lung_tumor_like: absent from all cases in which it is annotated")


def sentences(fingerprint: Fingerprint, level: str, text: str) -> list[str]:
    return [finding.sentence for finding in fingerprint.findings if finding.level == level and text in finding.sentence]


@pytest.mark.parametrize(
    ("low", "high", "hu"),
    [
        (-1024, 3071, True),
        (-160, 240, True),  # a soft-tissue window
        (-120, 1500, True),  # a crop inside the body: fat, but no air
        (0, 1200, False),  # MR
        (0, 4095, False),  # CT without its offset
        (0, 1, False),
        (-1, 1, False),  # normalised
        (0, 255, False),
        (-1000, 65535, False),
    ],
)
def test_what_looks_like_hounsfield_units(low: float, high: float, hu: bool) -> None:
    assert looks_like_hu(low, high) is hu


def test_intensities_that_are_not_hu_are_a_warning_that_names_the_case(dataset) -> None:
    image, segmentation = case_by_hand()
    fingerprint = measure_dataset(dataset({"a": case_by_hand(), "mr": (image + 1024, segmentation)}), PRESET, workers=1)
    (finding,) = [f for f in fingerprint.findings if f.case]
    assert (finding.level, finding.case) == ("warning", "mr")
    assert "intensities from 24 to 1124 are not Hounsfield units" in finding.sentence
    assert "rescale slope and intercept" in finding.sentence


def test_a_number_of_cases_that_dataset_json_has_otherwise_is_a_warning(dataset) -> None:
    raw = dataset({"a": case_by_hand()})
    wrong = dataclasses.replace(raw, json=raw.json.model_copy(update={"numTraining": 9}))
    (finding,) = sentences(measure_dataset(wrong, PRESET, workers=1), "warning", "numTraining")
    assert "numTraining 9, found 1 case with CT and segmentation;" in finding
    assert not sentences(measure_dataset(raw, PRESET, workers=1), "warning", "numTraining")


def test_a_split_that_names_unknown_cases_is_a_warning(dataset) -> None:
    raw = dataset({"a": case_by_hand()})
    wrong = dataclasses.replace(raw, json=raw.json.model_copy(update={"split": {"*": StructureSplit(train=("a", "zzz"))}}))
    (finding,) = sentences(measure_dataset(wrong, PRESET, workers=1), "warning", "split")
    assert "split of * names zzz under train, not in imagesTr; passed over, so that 1 of its 2 stay: correct the names" in finding


def test_findings_about_grids(dataset) -> None:
    fingerprint = measure_dataset(dataset({"a": case_by_hand()}, grid=(0.8, 0.8, 5.0)), PRESET, workers=1)
    (coarse,) = sentences(fingerprint, "warning", "up-sampled")
    assert "1 of 1 case (a) is up-sampled by more than 2 (most: a, from 0.8 x 0.8 x 5 mm to 1.5 x 1.5 x 1.5 mm, factor 3.3)" in coarse
    (small,) = sentences(fingerprint, "warning", "smaller than the foundation's patch of 144 x 144 x 144 mm")
    assert "8 x 6.4 x 30 mm" in small


def test_oblique_and_sheared_grids_are_told(dataset) -> None:
    turn = np.deg2rad(10)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    assert sentences(measure_dataset(dataset({"a": case_by_hand()}, grid=affine), PRESET, workers=1), "info", "(a) is oblique")
    affine[0, 1] += 0.1
    assert sentences(measure_dataset(dataset({"a": case_by_hand()}, grid=affine), PRESET, workers=1), "warning", "without right angles")


def test_empty_and_airy_cases_are_warnings(dataset) -> None:
    image, segmentation = case_by_hand()
    fingerprint = measure_dataset(dataset({"air": (np.full_like(image, -1000), segmentation), "bare": (image, 0 * segmentation)}), PRESET, workers=1)
    found = {finding.case: finding.sentence for finding in fingerprint.findings if finding.case and "Hounsfield" not in finding.sentence}
    assert "nothing in the volume is above" in found["air"]
    assert "the segmentation is empty" in found["bare"]
    assert fingerprint.shapes_after_crop == ((10, 8, 6), (6, 4, 2))


def test_all_faulty_cases_are_named_at_once(dataset, write_nifti) -> None:
    image, segmentation = case_by_hand()
    raw = dataset(
        {"good": (image, segmentation), "labels": (image, segmentation * 7), "partial": (image, segmentation * 2), "cut": (image, segmentation)}
    )
    cut = raw.training["cut"].image
    cut.write_bytes(cut.read_bytes()[:80])
    write_nifti(raw.training["good"].segmentation, segmentation.astype(np.uint8), (1.5, 1.5, 3.0))
    raw.json.model_copy(update={"annotated": {"partial": ("liver",)}}).write(raw.folder / "dataset.json")
    with pytest.raises(DatasetError, match="4 of 4 training cases can't be used") as error:
        measure_dataset(RawDataset.open(raw.folder), PRESET, workers=1)
    message = str(error.value)
    assert "good: label grid differs from the CT: spacing (1.5, 1.5, 1.5) vs (1.5, 1.5, 3.0) mm" in message
    assert "labels: labels [7] in" in message
    assert "dataset.json has only 0..2; name them under labels in dataset.json" in message
    assert "partial: lung_tumor_like has voxels in" in message
    assert "cut_0000.nii.gz: cut short or damaged" in message


def test_a_fingerprint_survives_its_file_and_a_damaged_one_is_told(dataset, tmp_path: Path) -> None:
    fingerprint = measure_dataset(dataset({"a": case_by_hand()}), PRESET, workers=1)
    path = tmp_path / "dataset_fingerprint.json"
    fingerprint.write(path)
    assert Fingerprint.read(path) == fingerprint
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "extra": 1}))
    with pytest.raises(PlansError, match=r"dataset_fingerprint\.json: extra: .*run arena_extract_fingerprint"):
        Fingerprint.read(path)
    with pytest.raises(PlansError, match="no fingerprint; run arena_extract_fingerprint"):
        Fingerprint.read(tmp_path / "none.json")


def test_the_command_measures_once_until_something_changes(dataset, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    raw = dataset({name: case_by_hand() for name in ("a", "b")})
    command = ["-d", "901", "-foundation", "fseft", "-w", str(workspace.root), "-np", "2"]
    assert main(command) == 0
    assert "Dataset901_Hand: 2 training cases, 2 structures" in capsys.readouterr().out
    path = workspace.fingerprint("Dataset901_Hand")
    first = path.stat().st_mtime_ns
    assert main(command) == 0
    assert path.stat().st_mtime_ns == first
    assert main([*command, "--clean"]) == 0
    second = path.stat().st_mtime_ns
    assert second != first
    raw.json.model_copy(update={"annotated": {"b": ("liver",)}}).write(raw.folder / "dataset.json")
    assert main(command) == 0
    assert Fingerprint.read(path).structures["lung_tumor_like"].annotated == 1


def test_the_command_on_a_dataset_that_is_not_there(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-d", "7", "-foundation", "fseft", "-w", str(workspace.root)]) == 2
    assert "dataset 7: no folder Dataset007_NAME" in capsys.readouterr().err


def test_what_nobody_annotated_is_in_no_measure(dataset) -> None:
    image, segmentation = case_by_hand()
    sparse = segmentation.copy()
    sparse[:, :, 3:] = 3  # half of the liver's slices
    whole = segmentation.copy()
    whole[0, :, :] = 3  # far from it
    raw = dataset({"sparse": (image, sparse), "whole": (image, whole)})
    labels = {**raw.json.labels, "ignore": 3}
    fingerprint = measure_dataset(dataclasses.replace(raw, json=raw.json.model_copy(update={"labels": labels})), PRESET, workers=1)
    liver = fingerprint.structures["liver"]
    assert list(fingerprint.structures) == ["liver", "lung_tumor_like"]
    assert (liver.non_empty, liver.components) == (2, {"whole": 2})
    assert liver.median_volume_ml == pytest.approx(9 * 1.5**3 / 1000)
    assert fingerprint.cases["sparse"].labels_present == (1,)
    assert fingerprint.foreground_intensity_properties_per_channel["0"].min == 100  # no voxel without annotation among them


def test_a_case_whose_structure_vanishes_at_the_networks_spacing_is_told(dataset) -> None:
    image, segmentation = case_by_hand()
    tiny = np.zeros_like(segmentation)
    tiny[4, 4, 3] = 1  # the grid of 1.5 mm has every third of these voxels of 0.5 mm
    fingerprint = measure_dataset(dataset({"a": (image, segmentation), "b": (image, tiny)}, grid=(0.5, 0.5, 0.5)), PRESET, workers=1)
    assert fingerprint.structures["liver"].vanishing_cases == ("b",)
    (finding,) = sentences(fingerprint, "warning", "not a voxel is left")
    assert finding.startswith("liver (b): not a voxel is left at the foundation's 1.5 x 1.5 x 1.5 mm")
