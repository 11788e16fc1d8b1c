"""sform, qform and pixdim of a NIfTI header that contradict each other: which one counts, and that it is said."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from arena_pipeline.errors import ImageError
from arena_pipeline.io.images import read_geometry, read_image, write_segmentation

SHAPE = (5, 6, 7)
SIZES = (0.865759, 0.865759, 0.796)
NAN = [np.nan] * 4


def write(path: Path, **fields: object) -> Path:
    """A CT whose qform, pixdim and sform all say SIZES, but for the header's fields given."""
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([*SIZES, 1]))
    image.set_qform(image.affine, code=1)
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("rows", [{"srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4}, {"srow_x": NAN}], ids=["zeros", "NaN"])
def test_an_sform_without_a_volume_gives_way_to_a_good_qform(tmp_path: Path, rows: dict[str, list[float]], caplog: pytest.LogCaptureFixture) -> None:
    read = read_image(write(tmp_path / "ct.nii", **rows))
    assert read.geometry.spacing_mm == pytest.approx(SIZES)
    assert "the sform spans no volume (zeros or NaN); the qform is used instead" in caplog.text
    write_segmentation(tmp_path / "out.nii", np.zeros(SHAPE, int), read.geometry)
    assert nib.load(tmp_path / "out.nii").header.get_zooms() == pytest.approx(SIZES)
    assert sitk.ReadImage(str(tmp_path / "out.nii")).GetSpacing() == pytest.approx(SIZES)
    with pytest.raises(ImageError, match="spans no volume"):
        read_geometry(write(tmp_path / "ct.nii", qform_code=0, **rows))


@pytest.mark.parametrize("qform_code", [0, 1])
def test_voxel_sizes_at_odds_are_both_named(tmp_path: Path, qform_code: int, caplog: pytest.LogCaptureFixture) -> None:
    units = {"srow_x": [1, 0, 0, -55], "srow_y": [0, 1, 0, -55], "srow_z": [0, 0, 1, -37]}
    assert read_image(write(tmp_path / "ct.nii", qform_code=qform_code, **units)).geometry.spacing_mm == (1, 1, 1)
    (warning,) = caplog.messages
    assert "voxels of 1 x 1 x 1 mm by the sform, of 0.8658 x 0.8658 x 0.796 mm by pixdim; the sform is used" in warning


def test_voxel_sizes_that_differ_by_rounding_are_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_image(write(tmp_path / "ct.nii", srow_x=[0.866, 0, 0, 0]))
    assert not caplog.messages
