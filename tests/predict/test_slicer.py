from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.io.damage import damage
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.io.itk import segment_names
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.slicer import write_slicer

slicerio = pytest.importorskip("slicerio")

LABELS = LabelMap.of({"liver": 1, "kidney_left": 3, "my_structure": 4}, {"foundation": "arena_mini"})
OBLIQUE = np.array([[-0.8, 0.0, 0.0, 12.0], [0.0, 1.2, -1.6, -7.0], [0.0, 0.9, 2.1333333, 3.0], [0.0, 0.0, 0.0, 1.0]])


def test_slicers_own_reader_finds_names_colours_codes_and_places(tmp_path: Path) -> None:
    array = np.zeros((12, 9, 5), np.uint8)
    array[1:5, 2:4, 0:2], array[7:11, 5:8, 1:4] = 1, 3
    write_slicer(tmp_path / "a.seg.nrrd", array, Geometry(array.shape, OBLIQUE), LABELS)
    read = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    assert np.array_equal(read["voxels"], array)
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ read["ijkToLPS"], OBLIQUE, atol=1e-5)
    assert [(segment["name"], segment["labelValue"]) for segment in read["segments"]] == [("liver", 1), ("kidney_left", 3), ("my_structure", 4)]
    liver, kidney, own = read["segments"]
    assert np.allclose(np.array(liver["color"]) * 255, LABELS.colours_rgb["liver"], atol=0.01)
    assert liver["terminology"]["type"] == ["SCT", "10200004", "Liver"]
    assert kidney["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert own["terminology"]["type"][0] == "99ARENA"
    assert liver["extent"] == [1, 4, 2, 3, 0, 1]
    assert segment_names(tmp_path / "a.seg.nrrd") == {"liver": 1, "kidney_left": 3, "my_structure": 4}  # as a label of a dataset
    assert np.array_equal(read_segmentation(tmp_path / "a.seg.nrrd").array, array)
    assert damage(tmp_path / "a.seg.nrrd") is None
    (tmp_path / "a.seg.nrrd").write_bytes((tmp_path / "a.seg.nrrd").read_bytes()[:-40])
    assert damage(tmp_path / "a.seg.nrrd") is not None
