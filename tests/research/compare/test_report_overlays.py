from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.axes import Axes

from arena_pipeline.errors import ImageError
from arena_pipeline.io.images import read_image
from arena_pipeline.research.compare.report.overlays import Overlay, draw_overlay
from arena_pipeline.research.compare.report_data import Example, ReportData


@pytest.fixture
def example(build_report_data) -> Example:
    data: ReportData = build_report_data((("liver", "base"),), ("arena",), (5,), ())
    return data.examples[0]


def _draw(example: Example) -> Overlay:
    return draw_overlay(example, read_image(example.image))


def _outlines(axes: Axes) -> list[tuple[float, float, float, float]]:
    """Left, right, lower and upper end of each outline in mm of the slice, 2 mm a voxel: the reference's, then the prediction's."""
    found = [outline.get_paths()[0].vertices for outline in axes.collections]
    return [(*np.sort(corners[:, 0])[[0, -1]] * 2, *np.sort(corners[:, 1])[[0, -1]] * 2) for corners in found]


def test_outlines_lie_where_the_masks_are_with_the_patients_right_on_the_left(example: Example) -> None:
    axial, coronal = _draw(example).figure.axes
    assert [axes.get_title("left") for axes in (axial, coronal)] == ["axial 15", "coronal 40"]
    (left, right, low, high), prediction = _outlines(axial)
    assert (right - left, high - low) == pytest.approx((40, 20))
    assert prediction == pytest.approx((left + 4, right + 4, low, high))  # rolled along the array's L axis
    left, right, low, high = _outlines(coronal)[0]
    assert (right - left, high - low) == pytest.approx((40, 30))
    assert [text.get_text() for text in axial.texts] == ["R", "L", "A", "P"]


def test_the_crop_keeps_a_margin_and_stays_inside_the_image(example: Example) -> None:
    axial = _draw(example).figure.axes[0]
    (left, *_), (_, right, low, high) = _outlines(axial)
    (x_low, x_high), (y_low, y_high) = np.array([axial.get_xlim(), axial.get_ylim()]) * 2
    # The block begins 20 mm from the image's edge: all of it is shown there, and a margin of 35 mm on the other side or 130 mm in all.
    assert left - x_low == pytest.approx(20) and x_low == -1
    assert x_high - right >= 35
    assert 100 <= y_high - y_low <= 130 and low - y_low >= 35 and y_high - high >= 35


def test_the_picture_shows_the_ct_in_its_window(example: Example) -> None:
    axial = _draw(example).figure.axes[0]
    (image,) = axial.images
    assert image.get_clim() == (-175, 250) and image.get_cmap().name == "gray"
    left, _, low, _ = (round(value / 2) for value in _outlines(axial)[0])
    shown = np.asarray(image.get_array())
    assert (shown[low + 2, left + 2], shown[low + 2, left - 2]) == (50, -20)


def test_volumes_are_those_of_the_whole_case(example: Example) -> None:
    overlay = _draw(example)
    assert overlay.reference_ml == overlay.prediction_ml == pytest.approx(20 * 10 * 15 * 8 / 1000)


def test_a_reference_stored_with_other_axes_is_turned_as_evaluation_does(example: Example) -> None:
    image = nib.load(example.reference)
    turned = example.reference.with_name("turned.nii.gz")
    nib.save(image.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]])), turned)
    drawn = [_draw(one).figure.axes[0] for one in (example, dataclasses.replace(example, reference=turned))]
    assert nib.load(turned).shape != image.shape and _outlines(drawn[1]) == _outlines(drawn[0])


def test_an_empty_prediction_has_no_outline(example: Example) -> None:
    overlay = _draw(dataclasses.replace(example, prediction=_emptied(example.prediction)))
    assert overlay.prediction_ml == 0
    assert [len(axes.collections) for axes in overlay.figure.axes] == [1, 1]


def test_without_a_reference_the_slices_follow_the_prediction(example: Example) -> None:
    overlay = _draw(dataclasses.replace(example, reference=_emptied(example.reference)))
    assert [len(axes.collections) for axes in overlay.figure.axes] == [1, 1]


def test_a_prediction_on_another_grid_is_refused(example: Example) -> None:
    nib.save(nib.Nifti1Image(np.zeros((80, 70, 59), np.uint8), np.diag([-2.0, -2.0, 2.0, 1.0])), example.prediction)
    with pytest.raises(ImageError, match=r"^q6: .*prediction.nii.gz: the segmentation's grid differs from the CT's: shape .*; predict"):
        _draw(example)


def _emptied(path: Path) -> Path:
    image = nib.load(path)
    empty = path.with_name(f"empty_{path.name}")
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty)
    return empty
