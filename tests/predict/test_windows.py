"""The sliding window: where windows start, MONAI's result, and what a network that does nothing must give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from arena_pipeline.model.out_of_memory import FittingBatch
from arena_pipeline.predict.windows import Activation, Network, Windows, axis_starts, importance
from tests.toy import mean_over_networks

CPU = torch.device("cpu")


def convolution(channels: int) -> torch.nn.Conv3d:
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, channels, 5, padding=2).eval()


def sliding_window(network: Network, volume: np.ndarray, overlap: float, activation: Activation, batch: int) -> np.ndarray:
    return mean_over_networks([network], volume, Windows((16, 16, 16), overlap, activation, FittingBatch(batch), CPU))


def test_even_starts_and_weights_are_those_of_nnunet() -> None:
    """110 voxels in windows of 64 that overlap by half: steps of at most 32, so two of 23. The weights are 1 at voxel edge // 2."""
    assert axis_starts((110, 64, 64), (64, 64, 64), 0.5, as_nnunet=True) == [[0, 23, 46], [0], [0]]
    weights = importance((8, 8, 8), as_nnunet=True)
    assert weights[4, 4, 4] == 1 and weights[5, 4, 4] == weights[3, 4, 4] == pytest.approx(np.exp(-0.5))


def test_starts_worked_out_by_hand() -> None:
    # Patch 8, overlap 0.25: step 6. Length 20 ends at 12: 0, 6, 12. Length 21: 0, 6, 12 and 13. Length 8: one window.
    assert axis_starts((20, 21, 8), (8, 8, 8), 0.25) == [[0, 6, 12], [0, 6, 12, 13], [0]]


def test_importance_is_a_gaussian_of_an_eighth_of_the_patch() -> None:
    weights = importance((9, 9, 9))
    assert weights[4, 4, 4] == 1
    assert weights[5, 4, 4].item() == pytest.approx(np.exp(-0.5 * (1 / (9 / 8)) ** 2))
    assert weights[0, 0, 0].item() == pytest.approx(1e-3)


@pytest.mark.parametrize("shape", [(40, 33, 20), (16, 16, 16), (10, 40, 7), (17, 9, 30)])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_equals_monai(shape: tuple[int, int, int], activation: str, overlap: float) -> None:
    network = convolution(3)
    volume = np.random.default_rng(1).random(shape, dtype=np.float32)
    with torch.inference_mode():
        logits = sliding_window_inference(torch.from_numpy(volume)[None, None], (16, 16, 16), 2, network, overlap=overlap, mode="gaussian")[0]
        expected = torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, dim=0)
    found = sliding_window(network, volume, overlap, activation, 3)  # type: ignore[arg-type]
    assert found.shape == (3, *shape)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_a_network_that_returns_its_input_gives_the_volume_back() -> None:
    volume = np.random.default_rng(2).random((30, 12, 25), dtype=np.float32)
    found = sliding_window(lambda x: x, volume, 0.25, "sigmoid", 4)
    np.testing.assert_allclose(found[0], 1 / (1 + np.exp(-volume)), atol=1e-6)


def test_the_number_of_windows_at_once_changes_nothing() -> None:
    volume = np.random.default_rng(3).random((24, 24, 24), dtype=np.float32)
    one, many = (sliding_window(convolution(2), volume, 0.25, "softmax", batch) for batch in (1, 8))
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_softmax_probabilities_sum_to_one() -> None:
    volume = np.random.default_rng(4).random((20, 20, 20), dtype=np.float32)
    found = sliding_window(convolution(4), volume, 0.25, "softmax", 2)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
