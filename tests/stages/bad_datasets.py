"""The ways in which a raw dataset can be wrong, a row each: how to make it so, and what is to be said of it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

NAME = "Dataset901_Tiny"
IMAGE, LABEL = "imagesTr/case_0_0000.nii.gz", "labelsTr/case_0.nii.gz"
SIZE = 16
SHAPE = (SIZE, SIZE, SIZE)
GRID = np.diag([1.5, 1.5, 1.5, 1.0])
Break = Callable[[Path], object]


class Row(NamedTuple):
    """`level`: of the finding; None: nothing is found. `words`: a pattern in its sentence. `file`: that is named."""

    name: str
    change: Break
    level: str | None
    words: str = ""
    file: str = IMAGE


def write(file: str, content: bytes) -> Break:
    return lambda folder: (folder / file).write_bytes(content)


def cut(file: str) -> Break:
    return lambda folder: os.truncate(folder / file, (folder / file).stat().st_size // 2)


def patch(file: str, place: int, kind: str, *values: float) -> Break:
    """New values at a place of the header."""

    def change(folder: Path) -> None:
        content = bytearray(gzip.decompress((folder / file).read_bytes()))
        struct.pack_into(kind, content, place, *values)
        (folder / file).write_bytes(gzip.compress(content, 1))

    return change


def save(file: str, make: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = GRID) -> Break:
    """The array of the file changed, on the grid given."""

    def change(folder: Path) -> None:
        array = np.asanyarray(nib.load(folder / file).dataobj)
        nib.save(nib.Nifti1Image(make(array), affine), folder / file)

    return change


def both(make: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = GRID) -> Break:
    """Image and label alike."""
    return lambda folder: (save(IMAGE, make, affine)(folder), save(LABEL, make, affine)(folder))


def at(*changes: tuple[int, int, float]) -> np.ndarray:
    affine = GRID.copy()
    for row, column, value in changes:
        affine[row, column] = value
    return affine


def two_forms(folder: Path) -> None:
    """sform and qform 50 mm apart."""
    for file in (IMAGE, LABEL):
        image = nib.load(folder / file)
        image.set_sform(GRID, code=1)
        image.set_qform(at((0, 3, 50)), code=1)
        nib.save(image, folder / file)


def move(file: str, to: str) -> Break:
    return lambda folder: (folder / file).rename(folder / to)


def copy(file: str, to: str) -> Break:
    return lambda folder: shutil.copy(folder / file, folder / to)


def rename_case(name: str | bytes) -> Break:
    encoded = name.encode() if isinstance(name, str) else name

    def change(folder: Path) -> None:
        os.rename(folder / IMAGE, os.path.join(os.fsencode(folder), b"imagesTr", encoded + b"_0000.nii.gz"))
        os.rename(folder / LABEL, os.path.join(os.fsencode(folder), b"labelsTr", encoded + b".nii.gz"))

    return change


def hidden_case(folder: Path) -> None:
    copy(IMAGE, "imagesTr/.._0000.nii.gz")(folder)


def loop(file: str) -> Break:
    return lambda folder: ((folder / file).unlink(), (folder / file).symlink_to(folder / file))


def in_place_of(file: str, make: Callable[[Path], object]) -> Break:
    return lambda folder: ((folder / file).unlink(), make(folder / file))


def dangle(path: Path) -> None:
    path.symlink_to("/mnt/usb/ct.nii.gz")


def pipe(folder: Path) -> None:
    (folder / IMAGE).unlink()
    os.mkfifo(folder / IMAGE)


def described(**keys: Any) -> Break:
    """Keys of dataset.json changed; None removes one."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "dataset.json").read_text()) | keys
        (folder / "dataset.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def split(structure: str, train: list[str], test: list[str] | None = None) -> Break:
    return described(split={structure: {"train": train, "test": test or []}})


def noise(low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.random.default_rng(0).uniform(low, high, array.shape).astype(np.float32)


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def make(array: np.ndarray) -> np.ndarray:
        changed = array.astype(np.float32)
        changed[1, 2, 3] = value
        return changed

    return make


def colour(array: np.ndarray) -> np.ndarray:
    return np.zeros(array.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


def many_labels(array: np.ndarray) -> np.ndarray:
    return (np.arange(array.size) % 301).reshape(array.shape).astype(np.int16)


def only_liver(folder: Path) -> None:
    described(annotated={"case_0": ["liver"]})(folder)


JSON = "dataset.json"
NUMBERS = {"background": 0, "liver": 1, "spleen": 2}
TURNED = {"0": "background", "1": "spleen"}
ROWS = [
    # files that are not what they should be
    Row("truncated gzip", cut(IMAGE), "error", "cut short or damaged .*copy or download it again"),
    Row("truncated gzip of a label", cut(LABEL), "error", "cut short or damaged .*copy or download it again", LABEL),
    Row("zero bytes", write(IMAGE, b""), "error", "an empty file; copy or download it again"),
    Row("text", write(IMAGE, b"to be sent by Monday"), "error", "not a NIfTI file but something else, it starts with b'to b'; export it"),
    Row("web page", write(IMAGE, b"<html><body>404"), "error", "not a NIfTI file but a web page"),
    Row("git lfs", write(LABEL, b"version https://git-lfs.github.com/spec/v1"), "error", r"run: git lfs pull", LABEL),
    Row("a JPEG", write(IMAGE, b"\xff\xd8\xff\xe0rest"), "error", "not a NIfTI file but a JPEG picture; export it"),
    Row("a zip archive", write(IMAGE, b"PK\3\4rest"), "error", r"not a NIfTI file but a zip archive \(unpack it\)"),
    Row("a folder", in_place_of(IMAGE, Path.mkdir), "error", "a folder where a file was expected"),
    Row("a dangling link", in_place_of(IMAGE, dangle), "error", r"a link to /mnt/usb/ct.nii.gz, which is not there \(plug in the disk, or copy"),
    Row("a dangling link of a label", in_place_of(LABEL, dangle), "error", "no segmentation .*a link to .*ct.nii.gz, which is not there", LABEL),
    Row("10^12 voxels", patch(IMAGE, 40, "<4h", 3, 10_000, 10_000, 10_000), "error", r"promises 2,000,000,000,352 bytes, more than the file of"),
    Row("half a pair", patch(IMAGE, 344, "4s", b"ni1\0"), "error", "a header without its voxels .*convert it to one .nii.gz"),
    Row("colour", save(IMAGE, colour), "error", "colour or complex.*export the CT in Hounsfield units"),
    Row("complex", save(IMAGE, lambda array: array.astype(np.complex64)), "error", "colour or complex"),
    Row("unknown type", patch(IMAGE, 70, "<h", 4711), "error", "the NIfTI header is invalid"),
    Row("voxels from nowhere", patch(IMAGE, 108, "<f", np.inf), "error", "header is invalid .voxels from byte inf.; export it again"),
    Row("a pipe", pipe, "error", "a pipe or a device, expected a file"),
    Row("a symlink loop", loop(IMAGE), "error", "can't be read .*check the link"),
    Row("a symlink loop of a label", loop(LABEL), "error", "no segmentation .*it is a link that leads nowhere", LABEL),
    # shapes
    Row("2D", both(lambda array: array[0]), "error", r"expected one 3D volume, found shape \(16, 16\); export a single CT series"),
    Row("4D", both(lambda array: np.stack([array, array], 3)), "error", r"expected one 3D volume, found shape \(16, 16, 16, 2\)"),
    Row("one slice", both(lambda array: array[..., 5:6]), "warning", r"a single slice \(16 x 16 x 1 voxels\); structures in 3D need a volume"),
    # values
    Row("NaN", save(IMAGE, with_value(np.nan)), "error", r"1 voxel is NaN or infinite; replace them \(air is -1024 HU\)"),
    Row("infinity", save(IMAGE, with_value(-np.inf)), "error", "1 voxel is NaN or infinite"),
    Row("too large for a float", patch(IMAGE, 112, "<2f", 3e38, 0), "error", "voxels? (is|are) NaN or infinite"),
    Row("wrong slope", patch(IMAGE, 112, "<2f", 0.001, 0), "warning", r"not Hounsfield units \(scaled to a small range\?\)"),
    Row("slope NaN", patch(IMAGE, 112, "<2f", np.nan, np.nan), "warning", "slope is nan; the values are taken as they are stored"),
    Row("constant", save(IMAGE, lambda array: array * 0 + 7), "error", "every voxel is 7: there is no image in it; export the CT again"),
    Row("empty", save(IMAGE, lambda array: array * 0 - 1000), "error", "every voxel is -1000: there is no image in it"),
    Row("air", save(IMAGE, noise(-1010, -950)), "error", "air and nothing else"),
    Row("MR", save(IMAGE, noise(0, 1200)), "warning", r"not Hounsfield units \(an MR image, or a CT without its offset\?\)"),
    Row("a picture", save(IMAGE, noise(0, 255)), "warning", "an 8-bit picture"),
    # grids
    Row("sform and qform at odds", two_forms, "warning", "sform and qform place voxels up to 50.0 mm apart; the sform is used"),
    Row("not orthonormal", both(np.array, at((0, 1, 0.3))), "warning", "the axes do not stand at right angles; they are taken as if they did"),
    Row("two voxel sizes", patch(IMAGE, 80, "<3f", 1, 1, 1), "warning", "voxels of 1.5 x 1.5 x 1.5 mm by the sform, of 1 x 1 x 1 mm by pixdim"),
    Row("no sform", patch(IMAGE, 280, "<12f", *[0.0] * 12), "error", "spans no volume"),
    Row("left-handed", both(np.array, at((0, 0, -1.5))), "info", "stored left-handed, .*read right"),
    Row("no spacing", patch(IMAGE, 80, "<3f", 0, 1.5, 1.5), "error", r"the voxels have no volume .*correct the header's voxel size"),
    Row("spacing NaN", patch(IMAGE, 80, "<3f", 1.5, np.nan, 1.5), "error", "the voxels have no volume"),
    Row("flat", patch(IMAGE, 280, "<4f", 0, 1.5, 0, 0), "error", "affine spans no volume"),
    Row("in metres", both(np.array, np.diag([7e-4, 7e-4, 7e-4, 1])), "error", r"voxels of 0.0007 x 0.0007 x 0.0007 mm are no scan of a person"),
    Row("in micrometres", both(np.array, np.diag([700, 700, 700, 1])), "error", "16 x 16 x 16 voxels of 700 x 700 x 700 mm are no scan of a person"),
    Row("unit of length", patch(IMAGE, 123, "<B", 3), "warning", "unit of length is the micrometre; its numbers are taken as millimetres"),
    # labels
    Row("another grid", save(LABEL, np.array, np.diag([1.5, 1.5, 3, 1])), "error", r"spacing \(1.5, 1.5, 1.5\) vs \(1.5, 1.5, 3.0\) mm", LABEL),
    Row("another shape", save(LABEL, lambda array: array[1:]), "error", r"shape \(16, 16, 16\) vs \(15, 16, 16\).*re-export it", LABEL),
    Row("flipped", save(LABEL, np.array, at((0, 0, -1.5))), "error", "label grid differs from the CT: direction RAS .* vs LAS", LABEL),
    Row("turned", save(LABEL, lambda array: array[::-1], at((0, 0, -1.5), (0, 3, 22.5))), "fixed", "axes run LAS where .* RAS, over the same", LABEL),
    Row("moved by a voxel", save(LABEL, np.array, at((2, 3, 1.5))), "error", r"origin .* vs \(0.0, 0.0, 1.5\) mm .*\(the CT's comes first", LABEL),
    Row("off by rounding", save(LABEL, np.array, at((2, 3, 0.005))), "fixed", "up to 0.0050 mm off the CT's, by rounding", LABEL),
    Row("off by more", save(LABEL, np.array, at((2, 3, 0.05))), "warning", "up to 0.05 mm off the CT's, less than a tenth of a voxel", LABEL),
    Row("whole numbers as float", save(LABEL, with_value(2)), "fixed", "stored as fractions, all of them whole numbers; read as uint8", LABEL),
    Row("fractions", save(LABEL, with_value(0.5)), "error", r"values that are not whole numbers \(0.5\); .*export it without interpolation", LABEL),
    Row("label NaN", save(LABEL, with_value(np.nan)), "error", "a segmentation holds whole numbers", LABEL),
    Row("negative", save(LABEL, lambda a: a.astype(np.int16) - 1), "error", "values from -1 to 1; a segmentation holds whole numbers from 0", LABEL),
    Row("300 labels", save(LABEL, many_labels), "error", r"labels \[3, 4, .* and 290 more in .*dataset.json has only 0..2", LABEL),
    Row("unknown label", save(LABEL, with_value(7)), "error", r"case_0: labels \[7\] in .*name them under labels in dataset.json", LABEL),
    Row("empty label", save(LABEL, lambda array: array * 0), "warning", "the segmentation is empty: it can't be a support case; annotate it", LABEL),
    Row("not annotated, but there", only_liver, "error", "spleen has voxels in .*not annotated there; add it to annotated.case_0", LABEL),
    # the layout
    Row("label missing", lambda folder: (folder / LABEL).unlink(), "error", "case_0: no segmentation .*every image in imagesTr needs one", LABEL),
    Row("label in the wrong folder", move(LABEL, "labelsTs/case_0.nii.gz"), "error", "no segmentation .*it is in labelsTs, move it", LABEL),
    Row("image in the wrong folder", move(IMAGE, "labelsTr/case_0_0000.nii.gz"), "error", "without an image; expected .*it is in labelsTr, move it"),
    Row("image named without channel", move(IMAGE, "imagesTr/case_0.nii.gz"), "error", "case_0.nii.gz without an image; expected"),
    Row("one CT twice", copy("imagesTs/query_0_0000.nii.gz", IMAGE), "warning", "imagesTr/case_0, imagesTs/query_0: the same CT voxel by voxel", ""),
    Row("one case twice", copy(IMAGE, "imagesTs/case_0_0000.nii.gz"), "warning", "case_0: in imagesTr and in imagesTs; .*take it out of one", ""),
    Row("two files of one case", copy(IMAGE, "imagesTr/case_0_0000.nii"), "warning", r"case_0_0000.nii not used.*: a second copy of case_0;", ""),
    Row("a second channel", copy(IMAGE, "imagesTr/case_0_0001.nii.gz"), "warning", "imagesTr: case_0_0001.nii.gz not used", ""),
    Row("spaces", rename_case("case  0 (copy)"), None),
    Row("unicode", rename_case("Fall Ä 患者"), None),
    Row("dots inside", rename_case("case..0"), None),
    Row("..", hidden_case, "warning", r"imagesTr: .._0000.nii.gz not used, expected .*no dot in front", ""),
    Row("a query without its CT", copy(LABEL, "labelsTs/q1.nii.gz"), "warning", "labelsTs: q1.nii.gz without a CT in imagesTs: no query; add", ""),
    Row("what macOS leaves", write("imagesTr/._case_0_0000.nii.gz", b"\0\5\x16\7"), None),
    Row("a line break", rename_case("case\n0"), "error", "can't be named 'case.n0', empty, with line breaks or not in UTF-8; rename", ""),
    Row("not UTF-8", rename_case(b"caf\xe9"), "error", "can't be named 'caf.udce9', empty, with line breaks or not in UTF-8; rename", ""),
    # dataset.json
    Row("a gap", described(labels=NUMBERS | {"spleen": 3}), "error", r"consecutive integers 0..2, found \[0, 1, 3\]; mend it", JSON),
    Row("a duplicate id", described(labels=NUMBERS | {"spleen": 1}), "error", "labels: liver, spleen share the integer 1; give each its own", JSON),
    Row("a key twice", write(JSON, b'{"labels": {"liver": 1, "liver": 2}}'), "error", "not a readable JSON .*key 'liver' is there twice", JSON),
    Row("a typo", described(objective=None, objectve="binary"), "error", "unknown key objectve, did you mean objective", JSON),
    Row("a typo of a needed key", described(labels=None, label=NUMBERS), "error", "labels: missing key, is label meant to be it", JSON),
    Row("the wrong channel", described(channel_names={"0": "MRI"}), "error", "expected one channel, {'0': 'CT'}, found {'0': 'MRI'}; only CTs", JSON),
    Row("two channels", described(channel_names={"0": "CT", "1": "PET"}), "error", "expected one channel", JSON),
    Row("not JSON", write(JSON, b"labels: liver"), "error", "not a readable JSON file .*mend it as in the README's example", JSON),
    Row("no dataset.json", lambda folder: (folder / JSON).unlink(), "error", "no such file; a dataset folder needs a dataset.json", JSON),
    Row("a bottomless JSON", write(JSON, b"[" * 100_000), "error", "not a readable JSON file .*recursion", JSON),
    Row("half a character", write(JSON, b'{"\\ud800": 1}'), "error", "not a readable JSON file .*surrogates not allowed", JSON),
    Row("a long number", write(JSON, b"9" * 10_000), "error", "not a readable JSON file", JSON),
    Row("an unknown ending", described(file_ending="nii.gz"), "error", "file_ending: expected one of .nii.gz, .*found 'nii.gz'", JSON),
    Row("another ending", described(file_ending=".mha"), "error", r"imagesTr: no CASE_0000.mha .*found case_0_0000.nii.gz", ""),
    Row("a wrong count", described(numTraining=50), "warning", "says numTraining 50, found 1 case with CT and segmentation;", JSON),
    Row("an unknown case in the split", split("liver", ["case_0", "zz"]), "warning", "names zz under train, not in .*, so that 1 of its 2 stay", ""),
    Row("a query that is not there", split("*", [], ["query_0", "q9"]), "warning", r"split of \* names q9 under test, in neither", ""),
    Row("labels turned round", described(labels=TURNED), "error", 'labels: .*write {"background": 0, "spleen": 1}; mend', JSON),
    Row("regions", described(labels=NUMBERS | {"spleen": [1, 2]}), "error", "labels: spleen: regions of nnU-Net .* not supported; give every", JSON),
    Row("UTF-16", write(JSON, '{"labels": {}}'.encode("utf-16")), "error", "not in UTF-8; save it as UTF-8", JSON),
    Row("an unknown annotated case", described(annotated={"case_9": ["liver"]}), "warning", "annotated has case_9, in neither", JSON),
    Row("a structure that no case shows", described(labels=NUMBERS | {"heart": 3}), "warning", "heart: no training case shows it", ""),
]  # fmt: skip
