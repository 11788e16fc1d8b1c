"""Images in and out: what is read is what is there, what is written lies where the CT lies for every reader, bad files are named."""

from __future__ import annotations

import gzip
import itertools
import logging
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import (
    check_same_grid,
    labels_present,
    read_geometry,
    read_image,
    read_segmentation,
    write_image,
    write_segmentation,
)

SHAPE = (5, 6, 7)
SPACING = (0.8, 0.9, 2.5)


def rotation(degrees_z: float, degrees_x: float) -> np.ndarray:
    a, b = np.deg2rad([degrees_z, degrees_x])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def affine_of(direction: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = direction @ np.diag(SPACING)
    affine[:3, 3] = (-17.5, 33.25, 120)
    return affine


def signed_permutations() -> list[np.ndarray]:
    """The 48 ways in which three axes can lie along the patient's."""
    matrices = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrices.append(np.eye(3)[:, order] * signs)
    return matrices


def volume() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) - 100


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def sitk_grid(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    return np.array([*image.GetSize(), *image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()])


ORIENTATIONS = [*signed_permutations(), rotation(20, 0), rotation(-15, 40) @ np.diag([-1, -1, 1])]


def named(direction: np.ndarray) -> str:
    return "".join(nib.aff2axcodes(affine_of(direction))) + ("" if np.abs(direction).max() == 1 else "-oblique")


@pytest.mark.parametrize("direction", ORIENTATIONS, ids=named)
def test_a_segmentation_lies_where_its_ct_lies_for_nibabel_and_for_simpleitk(tmp_path: Path, direction: np.ndarray) -> None:
    ct = save(tmp_path / "ct.nii.gz", volume(), affine_of(direction))
    image = read_image(ct)
    mask = (image.array > 0).astype(np.int64) * 3
    out = tmp_path / "out.nii.gz"
    write_segmentation(out, mask, image.geometry)

    assert np.array_equal(image.array, volume())
    assert image.array.dtype == np.int16
    written = nib.load(out)
    assert np.array_equal(written.affine, nib.load(ct).affine)
    assert np.array_equal(np.asanyarray(written.dataobj), mask)
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(sitk_grid(out), sitk_grid(ct))
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out))).transpose(2, 1, 0), mask)
    assert np.array_equal(read_segmentation(out).array, mask)


@pytest.mark.parametrize("codes", [(1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (4, 3)])
def test_sform_qform_codes_and_units_are_the_cts(tmp_path: Path, codes: tuple[int, int]) -> None:
    image = nib.Nifti1Image(volume(), affine_of(rotation(10, 5)))
    image.set_sform(image.affine, code=codes[0])
    image.set_qform(image.affine, code=codes[1])
    image.header.set_xyzt_units("mm")
    image.header["cal_max"], image.header["descrip"] = 400, b"name of a patient"
    nib.save(image, tmp_path / "ct.nii")
    geometry = read_geometry(tmp_path / "ct.nii")
    write_segmentation(tmp_path / "out.nii", np.zeros(SHAPE, int), geometry)
    header = nib.load(tmp_path / "out.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == codes
    assert header.get_xyzt_units()[0] == "mm"
    assert float(header["cal_max"]) == 0
    assert header["descrip"].tobytes().strip(b"\0") == b""
    assert np.array_equal(sitk_grid(tmp_path / "out.nii"), sitk_grid(tmp_path / "ct.nii"))


def sheared() -> np.ndarray:
    affine = affine_of(np.eye(3))
    affine[0, 1] = 0.2
    return affine


def test_a_sheared_ct_that_simpleitk_refuses_gives_segmentations_that_it_opens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(volume(), None)
    image.header["pixdim"][1:4] = np.linalg.norm(sheared()[:3, :3], axis=0)
    image.set_sform(sheared(), code=1)
    nib.save(image, tmp_path / "ct.nii.gz")
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "ct.nii.gz"))

    read = read_image(tmp_path / "ct.nii.gz")
    assert "right angles" in caplog.text
    write_segmentation(tmp_path / "out.nii.gz", np.ones(SHAPE, int), read.geometry)
    assert np.allclose(nib.load(tmp_path / "out.nii.gz").affine, sheared(), atol=1e-6)  # nibabel sees the CT's own affine
    opened = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    direction = np.reshape(opened.GetDirection(), (3, 3))
    assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-6)
    assert np.allclose(opened.GetSpacing(), read.geometry.spacing_mm, atol=1e-5)
    assert np.allclose(opened.GetOrigin(), (17.5, -33.25, 120), atol=1e-4)


def test_a_sheared_ct_with_a_qform_stays_as_it_is_for_both_readers(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume(), sheared())
    image.set_qform(sheared(), code=1, strip_shears=True)
    nib.save(image, tmp_path / "ct.nii.gz")
    write_segmentation(tmp_path / "out.nii.gz", np.ones(SHAPE, int), read_geometry(tmp_path / "ct.nii.gz"))
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").affine, nib.load(tmp_path / "ct.nii.gz").affine)
    assert np.array_equal(sitk_grid(tmp_path / "out.nii.gz"), sitk_grid(tmp_path / "ct.nii.gz"))


def test_where_sform_and_qform_disagree_the_sform_counts_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(volume(), affine_of(np.eye(3)))
    image.set_sform(affine_of(np.eye(3)), code=1)
    moved = affine_of(np.eye(3))
    moved[0, 3] += 50
    image.set_qform(moved, code=1)
    nib.save(image, tmp_path / "ct.nii.gz")
    with caplog.at_level(logging.WARNING):
        read = read_image(tmp_path / "ct.nii.gz")
    assert np.allclose(read.geometry.affine, affine_of(np.eye(3)))
    assert "50.0 mm apart" in caplog.text


def test_without_sform_and_qform_nibabels_rule_holds_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(volume(), None)
    nib.save(image, tmp_path / "ct.nii")
    assert read_image(tmp_path / "ct.nii").geometry.orientation == "LAS"
    assert "neither sform nor qform" in caplog.text


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected", "dtype"),
    [
        (np.uint16(1064), 1, -1024, 40, np.int16),
        (np.int16(100), 0.5, -10, 40, np.float32),
        (np.int16(40), 0, 0, 40, np.int16),
        (np.int16(40), 1, np.nan, 40, np.int16),  # as in TotalSegmentator; nibabel itself refuses it
        (np.int32(40), 1, 0, 40, np.int16),
        (np.int32(70_000), 1, 0, 70_000, np.float32),
        (np.float64(40.5), 1, 0, 40.5, np.float32),
    ],
)
def test_slope_and_intercept_are_applied_and_whole_numbers_stay_int16(
    tmp_path: Path, stored: np.generic, slope: float, intercept: float, expected: float, dtype: type
) -> None:
    nib.save(nib.Nifti1Image(np.full(SHAPE, stored), np.eye(4), dtype=stored.dtype), tmp_path / "ct.nii")
    content = bytearray((tmp_path / "ct.nii").read_bytes())
    content[112:120] = struct.pack("<2f", slope, intercept)
    (tmp_path / "ct.nii").write_bytes(content)
    array = read_image(tmp_path / "ct.nii").array
    assert array.dtype == dtype
    assert (array == expected).all()


def test_big_endian_and_4d_of_one_volume_and_a_gz_without_gzip(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    nib.Nifti1Image(volume()[..., None], affine_of(np.eye(3)), header).to_filename(tmp_path / "ct.nii")
    image = read_image(tmp_path / "ct.nii")
    assert np.array_equal(image.array, volume())
    assert image.array.dtype.isnative
    (tmp_path / "misnamed.nii.gz").write_bytes((tmp_path / "ct.nii").read_bytes())
    assert np.array_equal(read_image(tmp_path / "misnamed.nii.gz").array, volume())
    write_segmentation(tmp_path / "out.nii.gz", np.ones(SHAPE, int), image.geometry)
    assert nib.load(tmp_path / "out.nii.gz").shape == SHAPE


PATCHES = {  # place in the NIfTI header, new content
    "promises too much": (40, struct.pack("<8h", 3, 30_000, 30_000, 30_000, 1, 1, 1, 1)),
    "no spacing": (76, struct.pack("<8f", 1, 0, 1, 1, 0, 0, 0, 0)),
    "flat affine": (280, struct.pack("<4f", 0, 1, 0, 0)),  # the first row, now the same direction as the second
    "unknown type": (70, struct.pack("<h", 4711)),
}


def damaged(tmp_path: Path, what: str) -> Path:
    path = save(tmp_path / "s0042.nii.gz", np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20)).astype(np.int16), np.eye(4))
    content, plain = path.read_bytes(), bytearray(gzip.decompress(path.read_bytes()))
    whole_files = {
        "truncated gzip": content[: len(content) // 2],
        "wrong codes": content[:100] + b"\xff" * 100 + content[200:],
        "flipped bit": content[:-6] + bytes([content[-6] ^ 1]) + content[-5:],
        "empty": b"",
        "half a header": gzip.compress(bytes(plain[:200])),
        "web page": b"<!DOCTYPE html><html>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\n",
    }
    if what == "short plain":
        path = tmp_path / "s0042.nii"
        path.write_bytes(plain[:-10])
    elif what in PATCHES:
        place, new = PATCHES[what]
        plain[place : place + len(new)] = new
        path.write_bytes(gzip.compress(plain))
    else:
        path.write_bytes(whole_files[what])
    return path


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("truncated gzip", "damaged"),
        ("wrong codes", "damaged"),
        ("flipped bit", "CRC"),
        ("empty", "empty file"),
        ("half a header", "header"),
        ("web page", "web page"),
        ("lfs", "git lfs pull"),
        ("promises too much", "more than the file"),
        ("short plain", "more than the file"),
        ("no spacing", "no volume"),
        ("flat affine", "spans no volume"),
        ("unknown type", "header is invalid"),
    ],
)
def test_a_damaged_file_is_named_with_the_mend(tmp_path: Path, what: str, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read_image(damaged(tmp_path, what))
    assert "s0042.nii" in str(caught.value)
    assert any(word in str(caught.value) for word in ("again", "export", "git lfs"))


@pytest.mark.parametrize("shape", [(8, 9), (4, 4, 4, 3), (4, 4, 4, 1, 3)])
def test_only_one_3d_volume_is_a_ct(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save(tmp_path / "ct.nii.gz", np.zeros(shape, np.int16), np.eye(4))
    for read in (read_image, read_geometry, read_segmentation):
        with pytest.raises(ImageError, match="one 3D volume"):
            read(tmp_path / "ct.nii.gz")


def test_colour_nan_and_missing_are_refused(tmp_path: Path) -> None:
    colour = np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    save(tmp_path / "rgb.nii.gz", colour, np.eye(4))
    with pytest.raises(ImageError, match="colour"):
        read_image(tmp_path / "rgb.nii.gz")
    array = np.zeros((4, 4, 4), np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    save(tmp_path / "nan.nii.gz", array, np.eye(4))
    with pytest.raises(ImageError, match="2 voxels are NaN"):
        read_image(tmp_path / "nan.nii.gz")
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "absent.nii.gz")
    with pytest.raises(ImageError, match="unknown kind of image"):
        read_image(tmp_path / "ct.png")


def test_labels_may_be_stored_as_float_but_not_be_fractions(tmp_path: Path) -> None:
    labels = np.arange(210).reshape(SHAPE) % 3
    read = read_segmentation(save(tmp_path / "float.nii.gz", labels.astype(np.float32), np.eye(4)))
    assert read.array.dtype == np.uint8
    assert np.array_equal(read.array, labels)
    assert read_segmentation(save(tmp_path / "wide.nii.gz", (labels * 300).astype(np.int32), np.eye(4))).array.dtype == np.uint16
    for bad in (labels * 0.5, labels - 1.0, labels * 70_000.0, np.where(labels, np.nan, 0)):
        with pytest.raises(ImageError, match="segmentation holds"):
            read_segmentation(save(tmp_path / "bad.nii.gz", bad.astype(np.float32), np.eye(4)))


def test_label_names_travel_in_the_file_and_unnamed_labels_are_refused(tmp_path: Path) -> None:
    geometry = Geometry(SHAPE, affine_of(np.eye(3)))
    labels = np.zeros(SHAPE, np.uint8)
    labels[0] = 2
    write_segmentation(tmp_path / "out.nii.gz", labels, geometry, {"liver": 1, "spleen": 2})
    assert b'"spleen": 2' in nib.load(tmp_path / "out.nii.gz").header.extensions[0].get_content()
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii.gz"))).transpose(2, 1, 0), labels)
    with pytest.raises(ImageError, match=r"labels \[2\] have no name"):
        write_segmentation(tmp_path / "other.nii.gz", labels, geometry, {"liver": 1})
    with pytest.raises(ImageError, match="does not fit"):
        write_segmentation(tmp_path / "other.nii.gz", labels[1:], geometry)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.nii.gz"]
    assert labels_present(labels) == [0, 2]


def test_equal_segmentations_are_equal_files(tmp_path: Path) -> None:
    geometry = Geometry(SHAPE, affine_of(np.eye(3)))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_segmentation(tmp_path / name, np.ones(SHAPE, np.uint8), geometry)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii", ".nii.gz"])
@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, -1, 1]), rotation(20, 10)], ids=["RAS", "LPS", "oblique"])
def test_other_formats_mean_the_same_place(tmp_path: Path, ending: str, direction: np.ndarray) -> None:
    path = tmp_path / f"ct{ending}"
    write_image(path, Image(volume(), Geometry(SHAPE, affine_of(direction))))
    read = read_image(path)
    assert np.array_equal(read.array, volume())
    assert np.allclose(read.geometry.affine, affine_of(direction), atol=1e-4)
    assert np.allclose(read_geometry(path).affine, read.geometry.affine)
    write_segmentation(path, (volume() > 0).astype(int), read.geometry)
    assert np.array_equal(read_segmentation(path).array, volume() > 0)


@pytest.mark.parametrize("number", [b"-3", b"73", b"", b"x", b"99999999999"])
def test_a_number_of_dimensions_that_would_end_the_process_is_refused(tmp_path: Path, number: bytes) -> None:
    path = tmp_path / "ct.mha"
    write_image(path, Image(volume(), Geometry(SHAPE, affine_of(np.eye(3)))))
    path.write_bytes(path.read_bytes().replace(b"NDims = 3", b"NDims = " + number))
    for read in (read_image, read_geometry, read_segmentation):
        with pytest.raises(ImageError, match=r"ct.mha: not a MetaImage file, or a damaged one: no line NDims = 3 in its header; export it again"):
            read(path)


def test_a_volume_larger_than_the_memory_is_refused_before_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "ct.mha"
    write_image(path, Image(volume(), Geometry(SHAPE, np.diag([1e-2, 1e-2, 1e-2, 1]))))
    path.write_bytes(path.read_bytes().replace(b"DimSize = 5 6 7", b"DimSize = 90000 90000 90000"))
    with pytest.raises(ImageError, match="1,357,868.3 GiB of voxels, this machine has .* GiB of memory"):
        read_image(path)


def test_another_grid_is_named_with_what_differs() -> None:
    ct = Geometry(SHAPE, affine_of(np.eye(3)))
    nearly = ct.affine.copy()
    nearly[0, 3] += 0.05
    check_same_grid("s0042", ct, Geometry(SHAPE, nearly), "labelsTr/s0042.nii.gz")
    thicker = ct.affine @ np.diag([1, 1, 2, 1])
    with pytest.raises(DatasetError) as caught:
        check_same_grid("s0042", ct, Geometry(SHAPE, thicker), "labelsTr/s0042.nii.gz")
    assert str(caught.value) == (
        "s0042: label grid differs from the CT: spacing (0.8, 0.9, 2.5) vs (0.8, 0.9, 5.0) mm in labelsTr/s0042.nii.gz "
        "(the CT's comes first); re-export it on the CT's grid"
    )
    moved = ct.affine.copy()
    moved[2, 3] += 3
    turned = affine_of(rotation(9, 0))
    for label, words in ((Geometry((5, 6, 8), ct.affine), "shape"), (Geometry(SHAPE, moved), "origin"), (Geometry(SHAPE, turned), "direction")):
        with pytest.raises(DatasetError, match=words):
            check_same_grid("s0042", ct, label, "labelsTr/s0042.nii.gz")


def test_the_real_cts_read_as_hounsfield_units(real_data: Path) -> None:
    image = read_image(real_data / "totalsegmentator_v1" / "s9002" / "ct.nii.gz")
    assert image.array.dtype == np.int16
    assert image.array.shape == (120, 126, 164)
    assert image.geometry.orientation == "LPS"
    assert (int(image.array.min()), int(image.array.max())) == (-1078, 3343)
