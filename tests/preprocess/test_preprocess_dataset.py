"""A whole dataset: done once, redone where something changed, failing by name."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from arena_pipeline import container
from arena_pipeline.errors import DatasetError, ImageError, WorkerDied
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.atomic import UNFINISHED, replace_when_done
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.images import read_image
from arena_pipeline.preprocess import dataset
from arena_pipeline.preprocess.case import preprocess_image
from arena_pipeline.preprocess.dataset import preprocess_case, preprocess_dataset, require_unchanged
from arena_pipeline.preprocess.store import StoredCase

SCHEME = Scheme(spacing_mm=(2.0, 2.0, 2.0), window_hu=(-175, 250), patch_size_voxels=(16, 16, 16))


@pytest.fixture
def raw(tiny_dataset: Callable[..., Path]) -> Callable[[], RawDataset]:
    folder = tiny_dataset()
    return lambda: RawDataset.open(folder)


def test_every_case_is_stored_once_and_redone_only_when_needed(
    raw: Callable[[], RawDataset], tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    out = tmp_path / "cases"
    assert preprocess_dataset(raw(), SCHEME, out, 0) == ["case_0", "case_1", "case_2"]
    case = StoredCase.open(out, "case_1")
    volume, grid = preprocess_image(read_image(raw().training["case_1"].image), SCHEME)
    assert np.array_equal(case.image(), volume)
    assert case.grid == grid
    assert case.labels == (1, 2)

    assert preprocess_dataset(raw(), SCHEME, out, 0) == []
    os.utime(raw().training["case_0"].image)  # another time, the same content
    assert preprocess_dataset(raw(), SCHEME, out, 0) == []
    label = raw().training["case_1"].segmentation
    assert label is not None
    segmentation = np.zeros((24, 24, 24), np.uint8)
    segmentation[5:9, 5:9, 5:9] = 2
    write_nifti(label, segmentation)
    (out / "case_2.npz").unlink()
    assert preprocess_dataset(raw(), SCHEME, out, 0) == ["case_1", "case_2"]
    assert StoredCase.open(out, "case_1").labels == (2,)
    assert preprocess_dataset(raw(), SCHEME.model_copy(update={"patch_size_voxels": (32, 32, 32)}), out, 0) == []
    assert len(preprocess_dataset(raw(), SCHEME.model_copy(update={"window_hu": (-200.0, 250.0)}), out, 0)) == 3


def test_a_change_of_equal_size_and_equal_time_is_seen(raw: Callable[[], RawDataset], tmp_path: Path) -> None:
    out, label = tmp_path / "cases", raw().training["case_1"].segmentation
    assert label is not None
    plain = label.with_suffix("")  # uncompressed, so that another voxel is not another size
    for case in raw().training.values():
        nibabel.save(nibabel.load(case.image), case.image.with_suffix(""))
        nibabel.save(nibabel.load(str(case.segmentation)), Path(str(case.segmentation)).with_suffix(""))
    description = raw().json.model_copy(update={"file_ending": ".nii"})
    description.write(raw().folder / "dataset.json")
    preprocess_dataset(raw(), SCHEME, out, 0)
    state, content = plain.stat(), bytearray(plain.read_bytes())
    require_unchanged(raw().folder, out, raw().training, "the command")
    content[content.index(2, 400)] = 1
    plain.write_bytes(content)
    os.utime(plain, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (plain.stat().st_size, plain.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    with pytest.raises(DatasetError, match="changed after preprocessing.*: labelsTr/case_1.nii; run the command"):
        require_unchanged(raw().folder, out, raw().training, "the command")
    assert preprocess_dataset(raw(), SCHEME, out, 0) == ["case_1"]
    require_unchanged(raw().folder, out, raw().training, "the command")


def test_processes_store_what_one_process_stores(raw: Callable[[], RawDataset], tmp_path: Path) -> None:
    assert sorted(preprocess_dataset(raw(), SCHEME, tmp_path / "many", 2)) == ["case_0", "case_1", "case_2"]
    preprocess_dataset(raw(), SCHEME, tmp_path / "one", 0)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "many").iterdir())
    for name in names:
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_chosen_cases_may_be_queries_and_unknown_ones_are_named(raw: Callable[[], RawDataset], tmp_path: Path) -> None:
    assert preprocess_dataset(raw(), SCHEME, tmp_path, 0, ["query_0"]) == ["query_0"]
    assert not StoredCase.exists(tmp_path, "case_0")
    with pytest.raises(DatasetError, match="no case case_7"):
        preprocess_dataset(raw(), SCHEME, tmp_path, 0, ["case_7"])


@pytest.mark.parametrize("workers", [0, 2])
def test_failing_cases_name_themselves_and_the_others_get_done(
    raw: Callable[[], RawDataset], tmp_path: Path, write_nifti: Callable[..., Path], workers: int
) -> None:
    training = raw().training
    write_nifti(training["case_0"].image, np.full((24, 24, 24), -1000, np.int16))
    assert training["case_1"].segmentation is not None
    write_nifti(training["case_1"].segmentation, np.ones((24, 24, 24), np.uint8), (1.5, 1.5, 3.0))
    with pytest.raises(DatasetError) as caught:
        preprocess_dataset(raw(), SCHEME, tmp_path, workers)
    message = str(caught.value)
    assert message.startswith("2 of 3 cases could not be preprocessed: case_0: ")
    assert "nothing to see" in message
    assert "case_1: label grid differs from the CT: spacing (1.5, 1.5, 1.5) vs (1.5, 1.5, 3.0) mm" in message
    assert [StoredCase.exists(tmp_path, f"case_{i}") for i in range(3)] == [False, False, True]


def test_a_truncated_ct_is_an_image_error_and_its_older_result_goes(raw: Callable[[], RawDataset], tmp_path: Path) -> None:
    preprocess_dataset(raw(), SCHEME, tmp_path, 0)
    image = raw().training["case_1"].image
    image.write_bytes(image.read_bytes()[:3000])
    with pytest.raises(ImageError, match=r"^case_1: .*cut short"):
        preprocess_dataset(raw(), SCHEME, tmp_path, 0)
    assert not StoredCase.exists(tmp_path, "case_1")


def test_a_ct_behind_a_link_whose_disk_is_gone(raw: Callable[[], RawDataset], tmp_path: Path) -> None:
    dataset = raw()
    preprocess_dataset(dataset, SCHEME, tmp_path, 0)
    dataset.training["case_1"].image.unlink()
    dataset.training["case_1"].image.symlink_to("/mnt/usb/ct.nii.gz")
    with pytest.raises(ImageError, match=r"^case_1: .*a link to .*ct.nii.gz, which is not there \(plug in the disk"):
        preprocess_dataset(dataset, SCHEME, tmp_path, 0)


def test_labels_that_dataset_json_does_not_name(raw: Callable[[], RawDataset], tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    segmentation = raw().training["case_2"].segmentation
    assert segmentation is not None
    write_nifti(segmentation, np.full((24, 24, 24), 9, np.uint8))
    with pytest.raises(DatasetError, match=r"case_2: labels \[9\] in .*case_2.nii.gz, dataset.json has only 0..2"):
        preprocess_dataset(raw(), SCHEME, tmp_path, 0)


def test_leftovers_of_a_killed_run_are_removed(raw: Callable[[], RawDataset], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".unfinished.case_0.b2nd.x7k2.b2nd").write_bytes(b"half")
    with caplog.at_level(logging.INFO):
        preprocess_dataset(raw(), SCHEME, tmp_path, 0, ["case_0"])
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["case_0.b2nd", "case_0.json", "case_0.npz", "case_0_seg.b2nd"]
    assert "left by an interrupted run" in caplog.text


def test_the_record_can_be_read_by_a_person(raw: Callable[[], RawDataset], tmp_path: Path) -> None:
    preprocess_dataset(raw(), SCHEME, tmp_path, 0, ["case_0"])
    record = json.loads((tmp_path / "case_0.json").read_text())
    assert record["source"]["image"]["name"] == "case_0_0000.nii.gz"
    assert record["source"]["image"]["bytes"] == raw().training["case_0"].image.stat().st_size
    assert record["source"]["scheme"]["window_hu"] == [-175, 250]
    assert record["grid"]["native_shape"] == [24, 24, 24]


def _killed_over_case_1(job: dataset.PreprocessingJob) -> None:
    if job.case.identifier != "case_1":
        preprocess_case(job)
        return
    with replace_when_done(job.folder / "case_1.b2nd") as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_worker_is_told_with_its_case_and_the_others_get_done(
    raw: Callable[[], RawDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_preprocess_named", _killed_over_case_1)
    with pytest.raises(WorkerDied, match=r"^case_1: its worker process died in preprocess \(exit -9, .*memory.*fewer workers"):
        preprocess_dataset(raw(), SCHEME, tmp_path, 2)
    assert [StoredCase.exists(tmp_path, f"case_{i}") for i in range(3)] == [True, False, True]
    assert not [path.name for path in tmp_path.iterdir() if "case_1" in path.name or path.name.startswith(UNFINISHED)]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_where_memory_takes_one_worker_only_that_one_dies_and_not_the_command(
    raw: Callable[[], RawDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (group := tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    for name, number in (("memory.max", 400_000), ("memory.current", 100_000)):
        (group / name).write_text(f"{number}\n")
    monkeypatch.setattr(container, "ROOT", tmp_path)
    monkeypatch.setattr(dataset, "_preprocess_named", _killed_over_case_1)
    out = tmp_path / "cases"
    with pytest.raises(WorkerDied, match=r"^case_1: its worker process died in preprocess \(exit -9, .*run again with other programs closed"):
        preprocess_dataset(raw(), SCHEME, out, 2)
    assert "preprocess: 1 worker(s) instead of 2: each may take" in caplog.text
    assert [StoredCase.exists(out, f"case_{i}") for i in range(3)] == [True, False, True]
