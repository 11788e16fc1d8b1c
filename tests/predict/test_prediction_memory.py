"""What a prediction says it takes, against numbers worked out by hand; and that it refuses what can't fit."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from arena_pipeline import container
from arena_pipeline.errors import ArenaError
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import read_geometry
from arena_pipeline.machine import Machine
from arena_pipeline.model.out_of_memory import FittingBatch
from arena_pipeline.predict import predictors
from arena_pipeline.predict.case import CaseSettings, PredictionTask
from arena_pipeline.predict.memory import case_parts, memory_in_words, require_memory
from arena_pipeline.predict.windows import Network, Windows, probability_slabs
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace
from tests.toy import mean_over_networks, predict_image

CPU = torch.device("cpu")


def test_parts_worked_out_by_hand(write_nifti: Callable[..., Path], tmp_path: Path) -> None:
    # 40 x 40 x 80 voxels of 1 mm at 2 mm: round(39 / 2 + 1) = 20, and round(79 / 2 + 1) = 40, in (x, y, z) 20 x 20 x 40 = 16,000 voxels.
    geometry = read_geometry(write_nifti(tmp_path / "a.nii.gz", np.zeros((40, 40, 80), np.int16), (1.0, 1.0, 1.0)))
    parts = case_parts(geometry, (2.0, 2.0, 2.0), (20, 20, 20), 15, False)
    assert parts == {
        "CT": 2 * 128_000,
        "preprocessed": 4 * 16_000,
        "probabilities of 15 channels": 4 * 15 * 16_000,
        "windows or export": max(3 * 4 * 15 * 16_000 // 2, 6 * 128_000),  # windows are half as deep as the volume
    }
    assert case_parts(geometry, (2.0, 2.0, 2.0), (20, 20, 20), 15, True)["windows or export"] == max(3 * 4 * 15 * 8_000, 8 * 128_000)
    # With one channel, cleaning the segmentation takes more than predicting it.
    assert case_parts(geometry, (8.0, 8.0, 8.0), (20, 20, 20), 1, False) == {"reading, components": 128_000 * (2 + 1 + 10)}
    assert memory_in_words({"CT": 2**29, "probabilities": 2**31}) == "2.5 GiB of memory beside the network (CT 512 MiB, probabilities 2.0 GiB)"


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(ArenaError, match=r"takes 931322.6 GiB of memory .*GiB of memory and .* of swap are free; close other programs"):
        require_memory({"probabilities": 10**15})
    require_memory({"probabilities": 1})


def test_a_volume_that_cannot_fit_is_refused_before_the_network_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (group := tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    for name, number in (("memory.max", 2_000_000), ("memory.current", 1_999_000)):
        (group / name).write_text(f"{number}\n")
    monkeypatch.setattr(container, "ROOT", tmp_path)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=0))
    scheme = Scheme(spacing_mm=(2, 2, 2), window_hu=(-175, 250), patch_size_voxels=(16, 16, 16))
    image = Image(np.zeros((20, 20, 20), np.int16), Geometry((20, 20, 20), np.diag([2.0, 2.0, 2.0, 1.0])))
    task = PredictionTask("t", {"t": 1}, {"t": 0}, "sigmoid", (lambda: pytest.fail("the network was made ready"),))
    with pytest.raises(ArenaError, match=r"^predicting takes .* of memory .*, and 0 MiB of memory and 0 MiB of swap are free; close other"):
        predict_image(image, [task], CaseSettings(scheme, CPU))


def test_the_estimate_is_said_before_the_case_and_little_memory_means_one_window_at_a_time(
    workspace: Workspace, tmp_path: Path, write_nifti: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.random.default_rng(7).normal(0, 120, (24, 24, 24)).astype(np.int16)
    scan = write_nifti(tmp_path / "s.nii.gz", array, (8.0, 8.0, 8.0))
    monkeypatch.setattr(predictors, "this_machine", lambda device: Machine(2**34, None, 2))  # as the plan saw it
    with caplog.at_level(logging.DEBUG):
        predict(scan, tmp_path / "out", workspace, zero_shot=["liver"], no_previews=True, device="cpu")
    messages = [record.getMessage() for record in caplog.records]
    of_case = [message for message in messages if message.startswith("s: ")]
    assert of_case[0].startswith("s: at most 24 MiB of memory beside the network (CT ") and len(of_case) > 1
    expected = np.asarray(nibabel.load(tmp_path / "out" / "s.nii.gz").dataobj)
    (group := tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    for name, number in (("memory.max", 60_000_000), ("memory.current", 0)):
        (group / name).write_text(f"{number}\n")
    monkeypatch.setattr(container, "ROOT", tmp_path)
    caplog.clear()
    predict(scan, tmp_path / "small", workspace, zero_shot=["liver"], no_previews=True, device="cpu")
    assert "s: one window at a time instead of 2" in caplog.text
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "small" / "s.nii.gz").dataobj), expected)


def shifted(by: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.cat([x + by, -x], dim=1)


def peak_bytes(networks: list[Network], volume: np.ndarray, windows: Windows) -> int:
    """The most that numpy, which holds the probabilities, had at once."""
    tracemalloc.start()
    try:
        mean_over_networks(networks, volume, windows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_probabilities_of_all_folds_take_no_more_than_those_of_one() -> None:
    volume = np.random.default_rng(9).random((64, 32, 32), dtype=np.float32)
    windows = Windows((32, 32, 32), 0.25, "sigmoid", FittingBatch(1), CPU)
    folds = [lambda x: torch.cat([x] * 8, dim=1)] * 4  # 8 channels: 2 MiB
    one, four = (peak_bytes(folds[:count], volume, windows) for count in (1, 4))
    assert one >= 2 * 2**20 and four < 1.2 * one


@pytest.mark.parametrize("shape", [(40, 17, 9), (7, 30, 16), (16, 16, 16)])
def test_slabs_make_up_the_volume_and_folds_are_averaged_as_they_come(shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(8).random(shape, dtype=np.float32)
    windows = Windows((16, 16, 16), 0.5, "sigmoid", FittingBatch(2), CPU)
    times = np.zeros(shape, np.int64)
    for box, slab in probability_slabs(shifted(0), volume, windows):
        times[box] += 1
        np.testing.assert_allclose(slab[0], 1 / (1 + np.exp(-volume[box])), atol=1e-6)
    assert (times == 1).all()
    mean = mean_over_networks(iter([shifted(0), shifted(2)]), volume, windows)
    np.testing.assert_allclose(mean[0], (1 / (1 + np.exp(-volume)) + 1 / (1 + np.exp(-volume - 2))) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="2 and 1 channels can't be averaged"):
        mean_over_networks([shifted(0), lambda x: x], volume, windows)
