"""arena_review: from the stroke of a pen, or a program's upload, to a training case."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import pytest

from arena_pipeline.errors import DatasetError
from arena_pipeline.fingerprint.audit import audit_dataset
from arena_pipeline.io.dataset import DatasetJson, RawDataset
from arena_pipeline.stages.review import review
from arena_pipeline.view.server import ReviewServer
from arena_pipeline.workspace import Workspace
from tests.view.browser import Browser
from tests.view.conftest import SHAPE, TURNED


@pytest.fixture
def dataset(tiny_dataset: Callable[..., Path]) -> Path:
    return tiny_dataset(cases=2)


@pytest.fixture
def server(predicted: Path, dataset: Path, workspace: Workspace) -> Iterator[ReviewServer]:
    with review(predicted, 901, workspace) as opened:
        thread = threading.Thread(target=opened.serve_forever)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def _ask(server: ReviewServer, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """`path` below the token, or an absolute one; a name of a header has _ for -."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    place = path if path.startswith("/") else urlsplit(server.address).path + path
    connection.request(method, place, body or None, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read()


def _upload(array: np.ndarray, affine: np.ndarray) -> bytes:
    return gzip.compress(nib.Nifti1Image(array, affine).to_bytes(), 1)


def _send(server: ReviewServer, body: bytes, question: str = "structure=liver&structure=spleen", case: str = "a") -> tuple[int, dict[str, str]]:
    status, answer = _ask(server, f"{case}/labels?{question}", "POST", body, Content_Type="application/octet-stream")
    return status, json.loads(answer or b"{}")


def _labels(server: ReviewServer, case: str = "a") -> nib.Nifti1Image:
    """What the page gets, in RAS."""
    assert _ask(server, f"{case}/")[0] == 200
    return nib.Nifti1Image.from_bytes(gzip.decompress(_ask(server, f"{case}/labels")[1]))


def test_a_stroke_of_the_pen_is_saved_as_it_was_drawn(browser: Browser, server: ReviewServer, dataset: Path, predicted: Path) -> None:
    browser.console.clear()
    browser.requests.clear()
    browser.open(server.address + "a/")
    before = np.asarray(nib.as_closest_canonical(nib.load(predicted / "a.nii.gz")).dataobj)
    browser.run(
        "setView('Axial'); choose(facts.structures[1]); element('size').value = 1; element('size').oninput(); goTo([14, 6, 9]); setTool('Pen')"
    )
    places = browser.run("""(() => {
      const [left, top, width, height] = nv.screenSlices[0].leftTopWidthHeight, box = nv.gl.canvas.getBoundingClientRect();
      const scale = nv.gl.canvas.width / box.width;
      return [[14, 4], [15, 6], [16, 8], [16, 9]].map(([x, y]) =>
        [box.left + (left + width * (1 - (x + 0.5) / facts.shape[0])) / scale, box.top + (top + height * (1 - (y + 0.5) / facts.shape[1])) / scale]);
    })()""")
    browser.drag(*places)
    drawn = np.array(browser.run("[...nv.drawBitmap]"), np.uint8).reshape(before.shape, order="F")
    assert [drawn[x, y, 9] for x, y in ((14, 4), (15, 6), (16, 8))] == [2, 2, 2] and 5 <= np.count_nonzero(drawn != before) < 12
    assert browser.run("[element('ml_2').textContent !== 'none', element('use_2').checked, element('save').textContent]") == [
        True,
        True,
        "Save the correction",
    ]
    browser.run("save()")
    assert browser.run("element('saved').textContent").startswith("The correction is a training case of Dataset901_Tiny now")
    assert "arena_adapt -d 901" in browser.run("element('command').textContent")
    saved = nib.load(dataset / "labelsTr" / "a.nii.gz")
    assert np.array_equal(np.asarray(nib.as_closest_canonical(saved).dataobj), drawn) and np.allclose(saved.affine, TURNED)
    assert (dataset / "imagesTr" / "a_0000.nii.gz").read_bytes() == (predicted.parent / "in" / "a_0000.nii.gz").read_bytes()
    assert browser.console == []
    assert {address.split("?")[0] for address in browser.requests if not address.startswith("data:")} == {
        server.address + f"a/{name}" for name in ("", "ct", "labels")
    }
    browser.open(server.address + "a/")
    assert browser.run("[...nv.drawBitmap].filter((value) => value === 2).length") == np.count_nonzero(drawn == 2)
    assert browser.run("element('saved').textContent").startswith("Saved on ")


def test_what_is_accepted_is_a_training_case_with_its_origin(server: ReviewServer, dataset: Path) -> None:
    shown = _labels(server)
    status, answer = _send(server, _upload(np.asarray(shown.dataobj), shown.affine), "structure=liver&changed=false")
    assert status == 200 and answer["message"].startswith("Accepted as it is, and a training case of Dataset901_Tiny now (a)")
    raw = RawDataset.open(dataset)
    assert set(raw.training) == {"a", "case_0", "case_1"} and raw.json.numTraining == 3 and raw.json.annotated == {"a": ("liver",)}
    entry = (raw.json.model_extra or {})["corrections"]["a"]
    assert entry["made_by"] == "Dataset901_Tiny/arena_mini/arena_3shots, arena_mini" and entry["changed_by_hand"] is False
    assert audit_dataset(dataset, 0).usable
    assert "-shots 3 --structures liver" in answer["command"] and "-foundation arena_mini" in answer["command"]


def test_a_second_correction_keeps_the_first(server: ReviewServer, dataset: Path) -> None:
    shown = _labels(server)
    array = np.asarray(shown.dataobj).copy()
    assert _send(server, _upload(array, shown.affine), "structure=liver")[0] == 200
    first = (dataset / "labelsTr" / "a.nii.gz").read_bytes()
    array[1, 1, 1] = 2
    status, answer = _send(server, _upload(array, shown.affine), "structure=liver&structure=spleen&changed=true")
    (older,) = (dataset / "replaced").glob("a_*.nii.gz")
    assert status == 200 and older.name in answer["message"] and older.read_bytes() == first
    assert DatasetJson.read(sorted((dataset / "replaced").glob("dataset_*.json"))[1]).annotated == {"a": ("liver",)}
    assert DatasetJson.read(dataset / "dataset.json").annotated == {}
    assert np.array_equal(np.asarray(_labels(server).dataobj), array)


def test_an_annotation_whose_axes_run_another_way_is_turned_to_its_ct(server: ReviewServer, dataset: Path) -> None:
    shown = _labels(server)
    array = np.asarray(shown.dataobj).copy()
    array[1, 1, 1] = 2
    assert _send(server, _upload(array, shown.affine))[0] == 200
    file = dataset / "labelsTr" / "a.nii.gz"
    nib.save(nib.as_closest_canonical(nib.load(file)), file)
    assert nib.load(file).shape != SHAPE
    assert np.array_equal(np.asarray(_labels(server).dataobj), array)


def test_another_ct_of_that_name_is_not_overwritten(predicted: Path, dataset: Path, workspace: Workspace, server: ReviewServer) -> None:
    shown = _labels(server)
    there = dataset / "imagesTr" / "a_0000.nii.gz"
    there.write_bytes((dataset / "imagesTr" / "case_0_0000.nii.gz").read_bytes())
    before = (dataset / "dataset.json").read_bytes()
    status, answer = _send(server, _upload(np.asarray(shown.dataobj), shown.affine))
    assert status == 400 and "another CT has this name in the dataset" in answer["message"]
    assert (dataset / "dataset.json").read_bytes() == before and not (dataset / "labelsTr" / "a.nii.gz").exists()


@pytest.mark.parametrize(
    ("change", "question", "words"),
    [
        (lambda array, affine: (array[:-1], affine), "structure=liver", "on another grid: shape"),
        (lambda array, affine: (array, affine + np.eye(4) * 3), "structure=liver", "on another grid"),
        (lambda array, affine: (array.astype(np.int16), affine), "structure=liver", "one byte per voxel"),
        (lambda array, affine: (array + 3, affine), "structure=liver", "labels [3, 4], which the dataset does not have"),
        (lambda array, affine: (array, affine), "structure=kidney", "unknown structure kidney"),
        (lambda array, affine: (array, affine), "", "no structure is ticked"),
    ],
)
def test_what_is_no_correction_changes_nothing(
    server: ReviewServer, dataset: Path, change: Callable[..., tuple[np.ndarray, np.ndarray]], question: str, words: str
) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    shown = _labels(server)
    status, answer = _send(server, _upload(*change(np.asarray(shown.dataobj), shown.affine)), question)
    assert (status, words in answer["message"]) == (400, True), answer
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


def test_garbage_and_too_much_are_refused(server: ReviewServer) -> None:
    assert _send(server, b"no NIfTI")[0] == 400
    bomb = nib.Nifti1Image(np.zeros((400, 400, 400), np.uint8), np.eye(4)).to_bytes()
    assert _send(server, gzip.compress(bomb, 9))[0] == 400
    assert _ask(server, "a/labels?structure=liver", "POST", b"", Content_Type="text/plain")[0] == 413
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    connection.putrequest("POST", urlsplit(server.address).path + "a/labels")
    for name, value in (("Content-Length", "99999999"), ("Content-Type", "application/octet-stream")):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413  # answered before anything was sent


def test_only_a_page_of_this_server_is_answered(server: ReviewServer, predicted: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    own = urlsplit(server.address).path
    assert _ask(server, own)[0] == 200 and b"b c" in _ask(server, own)[1]
    assert [_ask(server, path)[0] for path in ("/", "/a/", own[:-2] + "/", "/" + "x" * 43 + "/")] == [403] * 4
    assert _ask(server, own, Host="evil.example")[0] == 403
    assert _ask(server, own, Origin="http://evil.example")[0] == 403
    outside = (
        "../in/a_0000.nii.gz",
        "..%2Fin%2Fa_0000.nii.gz",
        "a/../../labels.json",
        "a/%2e%2e/labels.json",
        "labels.json",
        "a/labels.json",
        "c/",
        "a",
    )
    assert [_ask(server, path)[0] for path in outside] == [404] * len(outside)


def test_the_dataset_must_be_there(predicted: Path, workspace: Workspace) -> None:
    with pytest.raises(DatasetError, match="no folder Dataset901_NAME"), review(predicted, 901, workspace):
        pass


def test_the_port_must_be_one(predicted: Path, dataset: Path, workspace: Workspace) -> None:
    with (
        pytest.raises(DatasetError, match="port 99999 can't be used .ports have numbers from 0 to 65535"),
        review(predicted, 901, workspace, port=99999),
    ):
        pass


def test_the_shape_of_the_upload_is_that_of_the_page(server: ReviewServer) -> None:
    assert _labels(server).shape == (SHAPE[0], SHAPE[2], SHAPE[1])
