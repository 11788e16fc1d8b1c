"""arena_evaluate --protocol published: from saved masks, or approximated where that is asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.images import read_image, read_segmentation
from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation
from arena_pipeline.preprocess.masks import masks_file, write_masks
from arena_pipeline.stages.evaluate import evaluate
from tests.stages.scored_folders import WriteNifti, describe


def bilobed() -> tuple[np.ndarray, np.ndarray]:
    """A CT whose body fills the middle, and a liver of 8^3 voxels with a crumb of 2^3 voxels apart from it."""
    liver = np.zeros((32, 32, 24), np.uint8)
    liver[6:14, 6:14, 6:14] = liver[20:22, 20:22, 18:20] = 1
    ct = np.full(liver.shape, -1000, np.int16)
    ct[2:30, 2:30, 2:22] = 40
    return ct, liver


@pytest.fixture
def published(tmp_path: Path, write_nifti: WriteNifti) -> tuple[Path, Path, Path]:
    """Reference, predictions and CT of one case, a; the prediction is the reference."""
    ct, liver = bilobed()
    reference, prediction = tmp_path / "Dataset901_Tiny" / "labelsTs", tmp_path / "out"
    describe(reference)
    write_nifti(reference / "a.nii.gz", liver, (1.5, 1.5, 1.5))
    write_nifti(prediction / "a.nii.gz", liver, (1.5, 1.5, 1.5))
    return reference, prediction, write_nifti(tmp_path / "ct.nii.gz", ct, (1.5, 1.5, 1.5))


def test_published_protocol_from_saved_masks(published: tuple[Path, Path, Path]) -> None:
    """FSEFT's grid is this CT's. P has 512 + 8 voxels, G is reduced to 512: Dice = 2 512 / (520 + 512 + 1); without the reduction 1040/1041."""
    reference, prediction, ct = published
    _, grid = preprocess_image(read_image(ct), load_preset("fseft").scheme)
    mask = preprocess_segmentation(read_segmentation(reference / "a.nii.gz").array, grid) == 1
    write_masks(masks_file(prediction, "a"), {"liver": mask, "spleen": mask & False}, grid)
    result = evaluate(reference, prediction, protocol="published", workers=1)
    assert result.summary_file == prediction / "summary_published.json"
    assert result.csv_file == prediction / "metrics_published.csv"
    assert [(s.status, s.metrics["Dice"]) for s in result.scores] == [("scored", 1024 / 1033), ("absent", pytest.approx(math.nan, nan_ok=True))]
    assert result.scores[0].metrics["TN"] == 28 * 28 * 20 - 520  # of the crop
    assert "APPROXIMATE" not in result.protocol
    describe(reference, objective="multiclass")
    assert evaluate(reference, prediction, protocol="published", workers=1).scores[0].metrics["Dice"] == 1040 / 1041


def test_published_protocol_is_never_approximated_unasked(published: tuple[Path, Path, Path]) -> None:
    reference, prediction, _ = published
    with pytest.raises(DatasetError, match=r"a: no .*preprocessed.a\.npz .*--save_preprocessed"):
        evaluate(reference, prediction, protocol="published")
    with pytest.raises(DatasetError, match="-foundation"):
        evaluate(reference, prediction, protocol="published", approximate=True)
    result = evaluate(reference, prediction, protocol="published", approximate=True, foundation="fseft", workers=1)
    assert result.scores[0].metrics["Dice"] == 1024 / 1033
    assert "APPROXIMATE" in json.loads(result.summary_file.read_text())["protocol"]


def test_masks_of_another_volume(published: tuple[Path, Path, Path], write_nifti: WriteNifti) -> None:
    reference, prediction, ct = published
    _, grid = preprocess_image(read_image(ct), load_preset("fseft").scheme)
    masks = {"liver": np.zeros(grid.cropped_shape, bool), "spleen": np.zeros(grid.cropped_shape, bool)}
    write_masks(masks_file(prediction, "a"), masks, grid)
    write_nifti(reference / "a.nii.gz", bilobed()[1], (1.5, 1.5, 3.0))
    with pytest.raises(DatasetError, match=r"a: .* was made for a volume of .*\(1.5, 1.5, 1.5\).*\(1.5, 1.5, 3.0\)"):
        evaluate(reference, prediction, protocol="published")
    masks_file(prediction, "a").write_bytes(b"PK nothing")
    with pytest.raises(ArenaError, match="not a readable file of preprocessed masks"):
        evaluate(reference, prediction, protocol="published")
