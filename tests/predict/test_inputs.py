"""Which files are cases, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arena_pipeline.errors import DatasetError
from arena_pipeline.predict.inputs import find_inputs, output_files, take_part


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_a_folder_with_and_without_the_channel_suffix(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "b_0000.nii.gz", "a.nii", "c.mha", "notes.txt", ".hidden.nii.gz", "s_2024_1.nii.gz")
    found = find_inputs(folder)
    assert list(found) == ["a", "b", "c", "s_2024_1"]
    assert found["b"].name == "b_0000.nii.gz"


def test_dicom_beside_image_files_is_not_left_out_in_silence(tmp_path: Path, write_ct_series: Any, caplog: pytest.LogCaptureFixture) -> None:
    folder = touch(tmp_path / "in", "a.nii.gz", "notes.txt")
    assert list(find_inputs(folder)) == ["a"] and not caplog.records
    write_ct_series(folder / "series", np.zeros((4, 3, 2), np.int16))
    assert list(find_inputs(folder)) == ["a"]
    assert "the DICOM files in it are not; to segment those too, move them" in caplog.text


def test_a_copy_for_slicer_beside_a_segmentation_is_no_case(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.nii.gz", "a.seg.nrrd", "b.seg.nrrd")
    assert list(find_inputs(folder)) == ["a", "b.seg"]


def test_one_file(tmp_path: Path) -> None:
    file = touch(tmp_path, "scan_0000.nii.gz", "other.nii.gz") / "scan_0000.nii.gz"
    assert find_inputs(file) == {"scan": file}


@pytest.mark.parametrize(
    "names, message",
    [
        (("x.nii.gz", "x_0000.nii.gz"), "x: two images of one case"),
        (("x.nii", "x.nii.gz"), "x: two images of one case"),
        (("x_0000.nii.gz", "x_0001.nii.gz"), "x: x_0001.nii.gz beside x_0000.nii.gz in .* looks like a second channel"),
        (("readme.txt",), "no image in this folder.*found readme.txt"),
    ],
)
def test_what_a_folder_may_not_hold(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        find_inputs(touch(tmp_path / "in", *names))


def test_nothing_there_and_no_image(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        find_inputs(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="not an image this reads"):
        find_inputs(touch(tmp_path, "report.pdf") / "report.pdf")


def test_a_segmentation_never_overwrites_its_image(tmp_path: Path) -> None:
    inputs = find_inputs(touch(tmp_path / "in", "x.nii.gz"))
    with pytest.raises(DatasetError, match="x: the segmentation would overwrite the image"):
        output_files(list(inputs), tmp_path / "in", inputs)
    assert output_files(list(inputs), tmp_path / "out", inputs) == {"x": tmp_path / "out" / "x.nii.gz"}


def test_the_output_folder_is_a_folder_and_not_the_inputs(tmp_path: Path) -> None:
    inputs = find_inputs(touch(tmp_path / "in", "x_0000.nii.gz"))
    with pytest.raises(DatasetError, match="in: the CTs lie there.*choose another output folder"):
        output_files(list(inputs), tmp_path / "in", inputs)
    with pytest.raises(DatasetError, match="x_0000.nii.gz: a file; -o takes a folder"):
        output_files(list(inputs), tmp_path / "in" / "x_0000.nii.gz", inputs)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the names of files are in UTF-8 whatever the locale")
@pytest.mark.parametrize(
    ("name", "advice"), [("Fall Ä".encode(), "set PYTHONUTF8=1, or a UTF-8 locale"), (b"caf\xe9", "rename the file")], ids=["UTF-8", "Latin-1"]
)
def test_a_good_name_in_a_locale_without_utf8_is_not_to_be_changed(name: bytes, advice: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(name + b".nii.gz")).touch()
    program = "from arena_pipeline.cli.predict import main; raise SystemExit(main(['-i', 'in', '-o', 'out']))"
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, **odd}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: 'in/") and done.stderr.endswith(f"; {advice}\n")


def test_parts_are_disjoint_and_complete(tmp_path: Path) -> None:
    cases = find_inputs(touch(tmp_path / "in", *(f"c{i}.nii.gz" for i in range(7))))
    parts = [take_part(cases, part, 3) for part in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert {case for part in parts for case in part} == set(cases)
    with pytest.raises(DatasetError, match="part 3 of 3"):
        take_part(cases, 3, 3)


def test_a_part_without_a_case_is_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    cases = find_inputs(touch(tmp_path / "in", "a.nii.gz", "b.nii.gz"))
    assert take_part(cases, 1, 3) and not caplog.messages
    assert take_part(cases, 2, 3) == {}
    assert caplog.messages == ["part 2 of 3 has none of the 2 CTs: fewer cases than parts"]
