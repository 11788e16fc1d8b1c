"""Full and read-only disks, real ones: small file systems in memory, where the tests may mount them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from arena_pipeline.adapt import report
from arena_pipeline.adapt.loop import Epoch
from arena_pipeline.errors import ArenaError, NoSpace
from arena_pipeline.evaluate.cases import EvaluationCase
from arena_pipeline.evaluate.journal import ScoreJournal
from arena_pipeline.evaluate.scoring import Scoring
from arena_pipeline.io.atomic import remove_unfinished, replace_when_done, write_text
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import write_image
from arena_pipeline.io.lock import locked
from arena_pipeline.io.space import full_disk_as_no_space, require_space, require_writable
from arena_pipeline.research.pretrain.loop import Pretraining, step_log
from arena_pipeline.research.pretrain.settings import PretrainSettings
from arena_pipeline.share.archive import open_archive, write_archive

MakeDisk = Callable[..., Path]


def test_a_full_disk_is_told_in_bytes_and_leaves_the_older_file_alone(small_disk: MakeDisk) -> None:
    disk = small_disk("256k")
    write_text(disk / "plans.json", "old")
    with pytest.raises(NoSpace, match=r"plans.json: no space is left on the disk: [\d,]+ bytes of this file were written, [\d,]+ bytes are free"):
        write_text(disk / "plans.json", "x" * 1_000_000)
    assert [path.name for path in disk.iterdir()] == ["plans.json"]
    assert (disk / "plans.json").read_text() == "old"


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])
def test_every_image_format_tells_a_full_disk(small_disk: MakeDisk, rng: np.random.Generator, ending: str) -> None:
    disk = small_disk("256k")
    volume = rng.integers(-1000, 1000, (80, 80, 80)).astype(np.int16)
    with pytest.raises(NoSpace, match="no space is left"):
        write_image(disk / f"case{ending}", Image(volume, Geometry(volume.shape, np.eye(4), None)))
    assert not list(disk.iterdir())


def test_other_faults_are_passed_on_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replace_when_done(tmp_path / "a.txt"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_limit_on_the_size_of_files_is_told_too(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limits on file sizes")
    assert resource
    program = (
        "import resource, sys; from pathlib import Path; from arena_pipeline.io.atomic import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); write_text(Path(sys.argv[1]), 'x' * 100_000)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.txt")], capture_output=True, text=True, check=False)
    assert "NoSpace" in ended.stderr and "a.txt: no space is left" in ended.stderr
    assert not list(tmp_path.iterdir())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more than so many bytes into any file, as a full disk would: without the file's name in the error."""
    resource = pytest.importorskip("resource", reason="this system has no limits on file sizes")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def adaptation_log(folder: Path) -> None:
    with report.training_log(folder / "log.csv") as add:
        for number in range(10_000):
            add(Epoch(number, 0.5, 0.1, {}))


def pretraining_log(folder: Path) -> None:
    write = step_log(folder / "log.csv", Pretraining(nn.Linear(1, 1), PretrainSettings(steps=1)))
    for number in range(10_000):
        write([number])


def journal(folder: Path) -> None:
    scoring = Scoring(labels={}, reference_labels={}, prediction_labels={}, protocol="native", scheme=None, largest_component=False)
    journal = ScoreJournal(folder / "summary.json", scoring)
    for number in range(1000):
        journal.add(EvaluationCase(f"c{number}", folder / "r.nii.gz", folder / "p.nii.gz", (), ()), [])


def extraction(folder: Path) -> None:
    with open_archive(folder / "a.zip") as archive:
        archive.extract("large", folder / "large")


@pytest.mark.parametrize(
    ("write", "name"),
    [(adaptation_log, "log.csv"), (pretraining_log, "log.csv"), (journal, ".summary.unfinished.jsonl"), (extraction, "large")],
)
def test_a_full_disk_is_told_of_files_that_are_added_to(write: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    with write_archive(tmp_path / "a.zip") as archive:
        archive.add("large", bytes(100_000))
    with pytest.raises(NoSpace, match=rf"{name}: no space is left on the disk, [\d,]+ bytes are free; free space"), files_of_at_most(20_000):
        write(tmp_path)
    with pytest.raises(OSError, match="of another kind"), full_disk_as_no_space(tmp_path / name):
        raise OSError("of another kind")


def test_a_disk_too_small_is_told_before_the_work(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there yet", 1000, "nothing")
    with pytest.raises(NoSpace, match=r"there yet: predicting 7 cases needs about 1,000,000,000,010,485,760 bytes, [\d,]+ bytes are free"):
        require_space(tmp_path / "not" / "there yet", 10**18, "predicting 7 cases")
    assert not list(tmp_path.iterdir())


def test_a_read_only_disk_is_told_before_the_work(small_disk: MakeDisk) -> None:
    disk = small_disk("256k", read_only=True)
    for refuse in (require_writable, lambda folder: locked(folder).__enter__()):
        with pytest.raises(NoSpace, match=r"out: can't be written \(Read-only file system in .*the disk is mounted read-only: choose another folder"):
            refuse(disk / "out")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(NoSpace, match=r"out is a file"):
        require_writable(tmp_path / "out" / "deeper")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from arena_pipeline.io.atomic import replace_when_done\n"
        "writing = [replace_when_done(Path(sys.argv[1]) / name) for name in sys.argv[2:]]\n"
        "for file in writing: file.__enter__()\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), "case_0.nii.gz", "case_1.nii.gz", "case_10.nii.gz"], check=False)
    (tmp_path / "case_1.nii.gz").write_text("whole")
    (tmp_path / ".hidden.nii.gz").write_text("not ours")
    assert len(list(tmp_path.iterdir())) == 5
    (removed,) = remove_unfinished(tmp_path, ["case_1.nii.gz"])
    assert removed.name.startswith(".unfinished.case_1.nii.gz.")
    assert len(remove_unfinished(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.nii.gz", "case_1.nii.gz"]


def test_long_names_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    one, other = (f"{'the same beginning of more than forty characters'}_{number}.txt" for number in (1, 2))
    writing = replace_when_done(tmp_path / one)
    writing.__enter__()
    assert remove_unfinished(tmp_path, [other]) == []
    assert len(remove_unfinished(tmp_path, [one])) == 1
    assert not writing.__exit__(ArenaError, ArenaError("ends the block"), None)
    assert not list(tmp_path.iterdir())
