from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from arena_pipeline.errors import ArenaError
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.stages.view import view
from arena_pipeline.view.facts import steps_note
from arena_pipeline.view.volumes import ShownGrid
from arena_pipeline.workspace import Workspace
from tests.view.browser import Browser
from tests.view.conftest import SHAPE, TURNED

# The colours at voxels (x, y) of the axial slice that is shown, as a radiologist sees it: the patient's right on the left, the front at the top.
COLOURS = """((voxels) => {
  nv.drawScene();
  const { width: wide, height: high } = nv.gl.canvas, pixels = new Uint8Array(4 * wide * high);
  nv.gl.readPixels(0, 0, wide, high, nv.gl.RGBA, nv.gl.UNSIGNED_BYTE, pixels); // from the bottom
  const [left, top, width, height] = nv.screenSlices[0].leftTopWidthHeight, [nx, ny] = facts.shape;
  return voxels.map(([x, y]) => {
    const across = Math.floor(left + width * (1 - (x + 0.5) / nx)), down = Math.floor(top + height * (1 - (y + 0.5) / ny));
    return [...pixels.subarray(4 * (across + wide * (high - 1 - down))).subarray(0, 3)];
  });
})"""


def _as_ras(file: Path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(file)).dataobj)


def _open_axial(browser: Browser, page: Path) -> None:
    browser.console.clear()
    browser.requests.clear()
    browser.open(page.as_uri())
    browser.run("nv.setInterpolation(true); setView('Axial'); nv.setCrosshairWidth(0)")


def test_the_page_shows_the_slice_and_its_structures(browser: Browser, predicted: Path, workspace: Workspace) -> None:
    written = view(predicted, workspace)
    _open_axial(browser, written.pages["a.html"])
    hu, labels = _as_ras(predicted.parent / "in" / "a_0000.nii.gz"), _as_ras(predicted / "a.nii.gz")
    voxels = [(x, y) for x in range(hu.shape[0]) for y in range(hu.shape[1])]
    browser.run("goTo([3, 2, 9]); showAll(false)")
    shown = np.array(browser.run(f"{COLOURS}({[list(voxel) for voxel in voxels]})"))
    expected = np.array([(hu[x, y, 9] + 160) / 400 * 255 for x, y in voxels])
    assert np.abs(shown - expected[:, None]).max() < 2
    browser.run("showAll(true); element('fill').value = 100; setFill()")
    painted = np.array(browser.run(f"nv.drawRimOpacity = -1, {COLOURS}({[list(voxel) for voxel in voxels]})"))
    liver = np.array([labels[x, y, 9] == 1 for x, y in voxels])
    assert liver.any() and (np.abs(painted - (255, 60, 45)).max(axis=1) < 2).tolist() == liver.tolist()
    assert browser.console == []
    assert [address for address in browser.requests if not address.startswith(("file:", "data:"))] == []


def test_what_the_page_says_is_true(browser: Browser, predicted: Path, workspace: Workspace) -> None:
    written = view(predicted, workspace)
    _open_axial(browser, written.pages["b c.html"])
    ml = 4 * 4 * 3 * 2 * 3 * 1.5 / 1000
    assert browser.run("element('ml_2').textContent") == f"{ml:.2g} ml"
    hu, labels = _as_ras(predicted.parent / "in" / "b c_0000.nii.gz"), _as_ras(predicted / "b c.nii.gz")
    browser.run("choose(facts.structures[1])")
    x, y, z = browser.run("voxel()")
    assert labels[x, y, z] == 2
    assert browser.run("element('place').textContent") == f"Slice {z + 1} of {SHAPE[1]}, {hu[x, y, z]} HU, spleen"
    assert browser.run("element('doubt').click(), [element('disagreement').hidden, nv.volumes[1].opacity]") == [False, 0.7]
    browser.key("ArrowUp")
    browser.key("3")
    assert browser.run("[voxel()[2], nv.volumes[0].cal_max]") == [z + 1, 1300]
    assert browser.run("[element('all').href, element('previous').href].map((one) => one.split('/').pop())") == ["index.html", "a.html"]
    browser.resize(390, 844)
    try:
        assert browser.run("document.documentElement.scrollWidth") <= 390
    finally:
        browser.resize(900, 620)
    assert browser.console == []


def test_a_request_to_elsewhere_is_refused_by_the_page_itself(browser: Browser, predicted: Path, workspace: Workspace) -> None:
    _open_axial(browser, view(predicted, workspace, cases=["a"]).pages["a.html"])
    assert browser.run("fetch('http://127.0.0.1:9/').then(() => 'went', () => 'refused')") == "refused"
    assert browser.run(
        "new Promise((done) => { const one = new Image(); one.onerror = () => done('refused'); one.src = 'http://127.0.0.1:9/x.png'; })"
    )
    assert all("Content Security Policy" in line for line in browser.console) and len(browser.console) >= 2


def test_the_list_of_cases_begins_with_what_to_look_at(predicted: Path, workspace: Workspace) -> None:
    text = view(predicted, workspace).index.read_text(encoding="utf-8")
    assert re.findall(r'<a href="(.*?)">', text) == ["a.html", "b%20c.html"]
    assert "spleen: not found" in text and "2 cases, 1 with something to look at" in text and "<script" not in text


def test_a_ct_that_went_elsewhere_is_named(predicted: Path, workspace: Workspace) -> None:
    there = predicted.parent / "in"
    there.rename(there.with_name("moved"))
    with pytest.raises(ArenaError, match="is not there any more; name the CTs' folder with -i"):
        view(predicted, workspace)
    assert set(view(predicted, workspace, images=there.with_name("moved"), cases=["a"]).pages) == {"a.html"}


def test_what_is_not_there_is_said_once(predicted: Path, workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ArenaError, match=r"nowhere: no such file or folder; name the folder that arena_predict -o wrote"):
        view(tmp_path / "nowhere", workspace)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArenaError, match="no image in this folder"):
        view(predicted, workspace, images=tmp_path / "empty")
    assert "left out" not in caplog.text  # it is the error


def test_a_ct_alone_and_a_raw_dataset(tiny_dataset: Callable[..., Path], workspace: Workspace) -> None:
    raw = tiny_dataset(cases=1)
    (page,) = view(raw / "imagesTr" / "case_0_0000.nii.gz", workspace, output_folder=workspace.root / "one").pages.values()
    assert '"structures":[]' in page.read_text(encoding="utf-8")
    assert set(view(None, workspace).pages) == {"case_0.html", "query_0.html"}


def test_a_folder_of_one_dicom_series_is_a_ct_alone(
    predicted: Path, tmp_path: Path, write_ct_series: Callable[..., object], workspace: Workspace
) -> None:
    hu = np.arange(8 * 7 * 6, dtype=np.int16).reshape(8, 7, 6)
    write_ct_series(tmp_path / "scans" / "ct", hu)
    written = view(tmp_path / "scans" / "ct", workspace)
    (page,) = written.pages.values()
    assert page.parent == tmp_path / "scans" / "view" and '"structures":[]' in page.read_text(encoding="utf-8")
    write_ct_series(tmp_path / "scans" / "other", hu + 1, study="1.2.3.4")
    with pytest.raises(ArenaError, match="2 CT series .*put each into a folder of its own"):
        view(tmp_path / "scans", workspace)
    write_ct_series(predicted / "ct", hu)
    assert set(view(predicted, workspace).pages) == {"a.html", "b c.html"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArenaError, match="no segmentation CASE.nii.gz and no CT slices; name the folder"):
        view(tmp_path / "empty", workspace)


def test_a_segmentation_whose_axes_run_another_way_is_turned_to_its_ct(predicted: Path, workspace: Workspace) -> None:
    file = predicted / "a.nii.gz"
    expected = view(predicted, workspace, cases=["a"]).pages["a.html"].read_bytes()
    nib.save(nib.as_closest_canonical(nib.load(file)), file)
    assert nib.load(file).shape != SHAPE
    assert view(predicted, workspace, cases=["a"]).pages["a.html"].read_bytes() == expected


def test_a_large_scan_is_thinned_and_said() -> None:
    whole = ShownGrid.of(Geometry(SHAPE, TURNED))
    grid = ShownGrid.of(Geometry(SHAPE, TURNED), most_bytes=SHAPE[0] * SHAPE[1] * SHAPE[2])
    assert whole.is_whole and whole.shape == (20, 12, 18) and steps_note(whole) is None
    assert grid.steps == (1, 1, 2) and grid.shape == (20, 12, 9)
    world = nib.affines.apply_affine(TURNED, np.moveaxis(np.indices(SHAPE), 0, -1))
    shown = np.stack([grid.cut(world[..., axis]) for axis in range(3)], axis=-1)
    assert np.allclose(shown, nib.affines.apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1)))
    assert "every 2nd voxel" in str(steps_note(grid))
