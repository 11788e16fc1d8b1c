"""Files that are damaged, or no CT or segmentation: each is named with what to do."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.errors import ImageError
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import (
    read_geometry,
    read_image,
    read_segmentation,
    write_image,
)
from tests.io.volumes import SHAPE, affine_of, save, volume

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
