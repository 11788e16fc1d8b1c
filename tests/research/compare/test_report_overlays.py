from __future__ import annotations

import base64
import dataclasses
import io
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

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


def _box(path: str) -> tuple[float, float, float, float]:
    """Left, right, top and bottom end of an outline, in mm."""
    numbers = np.array(re.findall(r"-?\d+\.\d", path), dtype=float).reshape(-1, 2)
    return (*np.sort(numbers[:, 0])[[0, -1]], *np.sort(numbers[:, 1])[[0, -1]])


def test_outlines_are_in_mm_with_the_patients_right_on_the_left(example: Example) -> None:
    overlay = _draw(example)
    axial, coronal = overlay.slices
    assert axial.title.startswith("axial, slice ") and axial.title.endswith(" of 60")
    assert coronal.title.endswith(" of 70")
    left, right, top, bottom = _box(axial.reference)
    assert (right - left, bottom - top) == pytest.approx((40, 20))
    assert _box(axial.prediction) == pytest.approx((left + 4, right + 4, top, bottom))  # rolled along the array's L axis
    left, right, top, bottom = _box(coronal.reference)
    assert (right - left, bottom - top) == pytest.approx((40, 30))
    assert axial.letters == ("R", "L", "A", "P")


def test_the_crop_keeps_a_margin_and_stays_inside_the_image(example: Example) -> None:
    axial = _draw(example).slices[0]
    left, right, top, bottom = _box(axial.reference + axial.prediction)
    # The block begins 20 mm from the image's edge: all of it is shown there, and a margin of 35 mm on the other side or 130 mm in all.
    assert left == pytest.approx(20)
    assert axial.width_mm - right >= 35
    assert 100 <= axial.height_mm <= 130 and top >= 35 and axial.height_mm - bottom >= 35


def test_the_picture_shows_the_ct_in_its_window(example: Example) -> None:
    axial = _draw(example).slices[0]
    header, _, content = axial.png.partition(",")
    assert header == "data:image/png;base64"
    grey = np.asarray(Picture.open(io.BytesIO(base64.b64decode(content))).convert("L"))
    assert grey.shape == (round(axial.height_mm / 2), round(axial.width_mm / 2))
    left, _, top, _ = (round(value / 2) for value in _box(axial.reference))
    # -20 and 50 HU in a window of -175 to 250, in 48 levels.
    assert grey[top + 2, left + 2] == pytest.approx(255 * 225 / 425, abs=4)
    assert grey[top + 2, left - 2] == pytest.approx(255 * 155 / 425, abs=4)


def test_volumes_are_those_of_the_whole_case(example: Example) -> None:
    overlay = _draw(example)
    assert overlay.reference_ml == overlay.prediction_ml == pytest.approx(20 * 10 * 15 * 8 / 1000)


def test_a_reference_stored_with_other_axes_is_turned_as_evaluation_does(example: Example) -> None:
    image = nib.load(example.reference)
    turned = image.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nib.save(turned, example.reference.with_name("turned.nii.gz"))
    assert turned.shape != image.shape
    assert _draw(dataclasses.replace(example, reference=example.reference.with_name("turned.nii.gz"))).slices == _draw(example).slices


def test_an_empty_prediction_has_no_outline(example: Example) -> None:
    overlay = _draw(dataclasses.replace(example, prediction=_emptied(example.prediction)))
    assert overlay.prediction_ml == 0
    assert all(slice_.reference and not slice_.prediction for slice_ in overlay.slices)


def test_without_a_reference_the_slices_follow_the_prediction(example: Example) -> None:
    overlay = _draw(dataclasses.replace(example, reference=_emptied(example.reference)))
    assert all(slice_.prediction and not slice_.reference for slice_ in overlay.slices)


def test_a_prediction_on_another_grid_is_refused(example: Example) -> None:
    nib.save(nib.Nifti1Image(np.zeros((80, 70, 59), np.uint8), np.diag([-2.0, -2.0, 2.0, 1.0])), example.prediction)
    with pytest.raises(ImageError, match=r"q6: the segmentation's grid differs from the CT's: shape .* predict the case again"):
        _draw(example)


def _emptied(path: Path) -> Path:
    image = nib.load(path)
    empty = path.with_name(f"empty_{path.name}")
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty)
    return empty
