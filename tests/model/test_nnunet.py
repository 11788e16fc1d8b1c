"""Models that nnunetv2 planned, trained and ran itself (tests/fixtures/make_nnunet.py): read, prepared for and computed to its numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations.nnunet_folder import NnunetModel, read_nnunet_folder
from arena_pipeline.io.images import read_image
from arena_pipeline.model.nnunet_checkpoint import read_nnunet_checkpoint
from arena_pipeline.preprocess.case import preprocess_image

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nnunet"
KINDS = ("plain", "residual")
TRAINED = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def model_folder(kind: str, root: Path, plans: str = "plans.json", name: str = TRAINED) -> Path:
    """The model as nnU-Net lays it out."""
    target = root / "Dataset901_Tiny" / name
    shutil.copytree(FIXTURES / kind, target)
    shutil.copy(FIXTURES / kind / plans, target / "plans.json")
    return target


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def network_of(model: NnunetModel) -> torch.nn.Module:
    network = model.preset.architecture.build()
    network.load_state_dict(read_nnunet_checkpoint(model).tensors)
    return network


@pytest.mark.parametrize("plans", ["plans.json", "plans_old_format.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_nnunet(kind: str, plans: str, tmp_path: Path) -> None:
    expected = np.load(FIXTURES / kind / "expected.npz")
    network = network_of(read_nnunet_folder(model_folder(kind, tmp_path, plans)))
    with torch.inference_mode():
        logits = network(torch.from_numpy(expected["patch"])[None, None])[0].numpy()
    assert np.abs(logits - expected["logits"]).max() < 1e-5 * max(1, np.abs(expected["logits"]).max())


@pytest.mark.parametrize("kind", KINDS)
def test_preprocessed_array_is_that_of_nnunet(kind: str, tmp_path: Path) -> None:
    """Isotropic and anisotropic, with a border of zeros that is cut off, of an image that is not stored as RAS."""
    expected = np.load(FIXTURES / kind / "expected.npz")
    low, high = expected["range"]
    scheme = read_nnunet_folder(model_folder(kind, tmp_path)).preset.scheme
    volume, grid = preprocess_image(read_image(FIXTURES / kind / "case.nii.gz"), scheme)
    assert volume.shape == expected["preprocessed"].shape == grid.cropped_shape
    difference = np.abs(volume - (low + expected["preprocessed"].astype(np.float64) / 65535 * (high - low)))
    assert difference.max() < 1e-3 * (high - low)
