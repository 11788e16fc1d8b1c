"""The picture is there, shows the structure's outline, and does not fail on odd grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.predict.preview import PLANES, _cross_sections, _rows, write_preview

GREEN = (0, 255, 0)


def ct(shape: tuple[int, int, int], affine: np.ndarray) -> Image:
    return Image(np.full(shape, -1000, dtype=np.int16), Geometry(shape, affine))


def green(path: Path) -> np.ndarray:
    picture = imread(path)[..., :3]
    return (picture[..., 1] > 0.6) & (picture[..., 0] < 0.3) & (picture[..., 2] < 0.3)


def test_the_outline_of_a_structure_on_the_patients_left_is_right_of_the_middle(tmp_path: Path) -> None:
    image = ct((60, 60, 60), np.diag([1, 1, 1, 1.0]))  # RAS: small x is the patient's left
    segmentation = np.zeros((60, 60, 60), dtype=np.uint8)
    segmentation[5:20, 20:40, 20:40] = 3
    write_preview(tmp_path / "x.png", "x", image, segmentation, {"spleen": (3, GREEN)}, (-175, 250))
    drawn = green(tmp_path / "x.png")
    drawn[int(drawn.shape[0] * 0.88) :] = False  # the legend
    columns = np.flatnonzero(drawn.any(axis=0)) / drawn.shape[1]
    axial = columns[columns < 1 / 3]
    assert axial.min() > 1 / 6


@pytest.mark.parametrize("shape, spacing", [((40, 40, 1), (1, 1, 5)), ((3, 200, 40), (0.5, 0.5, 3)), ((30, 30, 30), (1, 1, 1))])
def test_odd_shapes_and_an_empty_segmentation(tmp_path: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    affine = np.diag([*spacing, 1.0])[[1, 0, 2, 3]]  # x and y exchanged
    write_preview(tmp_path / "x.png", "x", ct(shape, affine), np.zeros(shape, dtype=np.uint8), {"liver": (1, GREEN)}, (-175, 250))
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_the_name_of_a_structure_to_check_is_marked(tmp_path: Path) -> None:
    image, segmentation = ct((30, 30, 30), np.eye(4)), np.zeros((30, 30, 30), dtype=np.uint8)
    segmentation[10:20, 10:20, 10:20] = 1
    amber = {}
    for check in ((), ("liver",), ("liver", "spleen")):
        write_preview(tmp_path / "x.png", "x", image, segmentation, {"liver": (1, GREEN), "spleen": (2, (0, 0, 255))}, (-175, 250), check)
        legend = imread(tmp_path / "x.png")[-40:, :, :3]
        amber[check] = np.flatnonzero((legend[..., 0] > 0.9) & (legend[..., 2] < 0.5)) % legend.shape[1]
    assert amber[()].size == 0
    middle = legend.shape[1] / 2
    assert amber["liver",].size and amber["liver",].max() < middle < amber["liver", "spleen"].max()


def test_the_slice_with_the_largest_cross_section_is_shown() -> None:
    labelled = np.zeros((20, 20, 20), dtype=np.uint8)
    labelled[5:8, 5:8, 3:18] = 1
    labelled[4:10, 4:10, 12] = 1
    ((_, _, z),), unseen = _rows(_cross_sections(labelled), labelled.shape)
    assert z == 12 and not unseen
    assert _rows({}, (10, 20, 31)) == ([(5, 10, 15)], set())


def test_rows_are_added_until_every_structure_is_seen() -> None:
    labelled = np.zeros((40, 40, 40), dtype=np.uint8)
    for label in range(1, 5):
        at = 8 * label
        labelled[at : at + 3, at : at + 3, at : at + 3] = label
    rows, unseen = _rows(_cross_sections(labelled), labelled.shape)
    assert [labelled[row] for row in rows] == [1, 2, 3, 4] and not unseen  # all as large: one after the other, in the middle of each first slice
    many = np.zeros((40, 40, 40), dtype=np.uint8)
    for label in range(1, 10):
        many[4 * label, 4 * label, 4 * label] = label
    rows, unseen = _rows(_cross_sections(many), many.shape)
    assert len(rows) == 6 and len(unseen) == 3


def test_a_slice_is_a_view_with_right_and_anterior_on_the_left() -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    axial, coronal, sagittal = PLANES
    assert axial.cut(volume, 1)[2].tolist() == [volume[1, 2, 1], volume[0, 2, 1]]  # small x is the patient's left
    assert coronal.cut(volume, 1)[3].tolist() == [volume[1, 1, 3], volume[0, 1, 3]]
    assert sagittal.cut(volume, 1)[0].tolist() == [volume[1, 2, 0], volume[1, 1, 0], volume[1, 0, 0]]
    assert all(np.shares_memory(plane.cut(volume, 0), volume) for plane in PLANES)
