"""Bad raw datasets through arena_verify_dataset: every row of tests.stages.bad_datasets is told as it says."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from arena_pipeline.cli.verify_dataset import main
from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.fingerprint.audit import DatasetAudit
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.images import read_image, read_segmentation
from arena_pipeline.preprocess.dataset import preprocess_dataset
from arena_pipeline.stages.extract_fingerprint import extract_fingerprint
from arena_pipeline.stages.verify_dataset import verify_dataset
from arena_pipeline.workspace import Workspace
from tests.stages.bad_datasets import IMAGE, LABEL, NAME, ROWS, SHAPE, SIZE, Row, at, cut, patch, save, with_value, write


@pytest.fixture
def folder(tiny_dataset: Callable[..., Path]) -> Path:
    """One training case and one query: a dataset in which nothing is found."""
    return tiny_dataset(cases=1, size=SIZE)


def verify(workspace: Workspace, fix: bool = False) -> DatasetAudit:
    (audit,) = verify_dataset([901], workspace, workers=0, fix=fix)
    return audit


def state(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_table_is_long_and_a_good_dataset_has_no_findings(workspace: Workspace, folder: Path) -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) > 60
    audit = verify(workspace)
    assert (audit.usable, audit.checked, audit.findings) == (True, 2, ())
    assert [(case.identifier, case.part, case.shape, case.labels_present) for case in audit.cases] == [
        ("case_0", "Tr", SHAPE, (1, 2)),
        ("query_0", "Ts", SHAPE, (1, 2)),
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_wrong_is_told(workspace: Workspace, folder: Path, row: Row) -> None:
    row.change(folder)
    before = state(folder)
    audit = verify(workspace)
    assert state(folder) == before
    assert DatasetAudit.read(workspace.audit(NAME)) == audit
    assert audit.usable == (row.level != "error")
    if row.level is None:
        assert audit.findings == ()
        assert preprocess_dataset(RawDataset.open(folder), load_preset("arena_mini").scheme, workspace.cases(NAME, "arena_mini"), workers=0)
        return
    (finding,) = [entry for entry in audit.findings if entry.level == row.level and re.search(row.words, entry.sentence)]
    assert row.file in str(folder / (finding.file or "")) + finding.sentence
    if row.level == "error" and "no image in it" not in finding.sentence and "nothing else" not in finding.sentence:
        with pytest.raises(ArenaError, match=row.words):  # the pipeline says the same
            extract_fingerprint([901], workspace, foundation="arena_mini", workers=0)


def test_a_promise_of_10_to_the_12_voxels_takes_no_memory(folder: Path) -> None:
    patch(IMAGE, 40, "<4h", 3, 10_000, 10_000, 10_000)(folder)
    tracemalloc.start()
    with pytest.raises(ArenaError, match="promises 2,000,000,000,352 bytes"):
        read_image(folder / IMAGE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def test_fixing_writes_corrected_copies_and_reading_mends_the_same(workspace: Workspace, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(LABEL, with_value(2), at((2, 3, 0.005)))(folder)
    before = state(folder)
    assert main(["-d", "901", "-w", str(workspace.root), "-np", "0", "--fix"]) == 0
    printed = capsys.readouterr().out
    assert "fixed: case_0: stored as fractions" in printed and "  usable\n" in printed
    corrected = workspace.corrected(NAME) / LABEL
    assert [path for path in workspace.corrected(NAME).rglob("*") if path.is_file()] == [corrected]
    copy_read = nib.load(corrected)
    assert copy_read.get_data_dtype() == np.uint8
    assert np.array_equal(copy_read.affine, nib.load(folder / IMAGE).affine)
    assert np.array_equal(np.asanyarray(copy_read.dataobj), read_segmentation(folder / LABEL).array)
    assert state(folder) == before
    with pytest.raises(ArenaError, match="no audit; run arena_verify_dataset"):
        DatasetAudit.read(workspace.root / "none.json")


def test_the_command_ends_with_1_for_what_is_not_usable_and_2_for_what_is_not_there(
    workspace: Workspace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(IMAGE)(folder)
    assert main(["-d", "901", "-w", str(workspace.root), "-np", "0"]) == 1
    printed = capsys.readouterr().out
    assert "Dataset901_Tiny: 2 cases checked" in printed and "not usable as it is" in printed and str(workspace.audit(NAME)) in printed
    assert main(["-d", "902", "-w", str(workspace.root)]) == 2
    for number in range(30):
        write(f"labelsTr/alone_{number}.nii.gz", b"")(folder)
    main(["-d", "901", "-w", str(workspace.root), "-np", "0"])
    assert capsys.readouterr().out.count("without an image") == 30  # no error is left out


def test_integrity_is_required_before_other_work_and_found_in_processes_of_their_own(
    workspace: Workspace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from arena_pipeline.cli.extract_fingerprint import main as extract

    command = ["-d", "901", "-foundation", "arena_mini", "-w", str(workspace.root), "-np", "2", "--verify_dataset_integrity"]
    assert extract(command) == 0
    save("labelsTs/query_0.nii.gz", with_value(0.5))(folder)
    assert extract([*command[:-3], "-np", "0", command[-1]]) == 2
    assert "Dataset901_Tiny is not usable as it is: " in capsys.readouterr().err


def test_several_faults_of_the_layout_are_told_together(folder: Path) -> None:
    (folder / LABEL).unlink()
    (folder / "labelsTr" / "alone.nii.gz").touch()
    with pytest.raises(DatasetError, match=r"Dataset901_Tiny, 2 faults: case_0: no segmentation .*alone.nii.gz without an image"):
        RawDataset.open(folder)
