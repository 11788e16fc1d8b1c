"""A device without room: the same gradients and probabilities from smaller batches, said once; then a clear error."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from arena_pipeline.adapt.loop import accumulate_gradients
from arena_pipeline.errors import ArenaError
from arena_pipeline.model.out_of_memory import FittingBatch, is_out_of_memory, out_of_memory_as_arena_error
from arena_pipeline.predict.windows import Windows
from tests.toy import mean_over_networks

PATCH = (8, 8, 8)
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB\nSee documentation"
MPS = "MPS backend out of memory (MPS allocated: 18.00 GB, max allowed: 18.13 GB)"


class Small(nn.Module):
    """Convolutions on a device that takes `room` patches at once. It fails in the forward pass, after some patches were computed."""

    def __init__(self, room: int, error: type[RuntimeError] = torch.OutOfMemoryError, message: str = CUDA) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1))
        self.room, self.error, self.message = room, error, message
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.error(self.message)
        return self.layers(images)


def gradients(network: Small, batch: FittingBatch, images: Tensor, segmentations: Tensor) -> tuple[float, list[Tensor]]:
    def attempt(size: int) -> float:
        network.zero_grad(set_to_none=True)
        return float(accumulate_gradients(network, images, segmentations, size))

    loss = batch.run(attempt)
    return loss, [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    ("planned", "room", "error", "message", "sizes"),
    [
        (6, 3, torch.OutOfMemoryError, CUDA, [6, 3, 3, 3, 3]),
        (3, 1, RuntimeError, MPS, [3, 2, *[1] * 12]),
        (6, 2, RuntimeError, MPS, [6, 3, *[2] * 6]),
    ],
)
def test_smaller_micro_batches_give_the_same_gradients_and_are_said_once(
    planned: int, room: int, error: type[RuntimeError], message: str, sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    images, segmentations = torch.rand(6, 1, *PATCH), torch.randint(0, 2, (6, *PATCH))
    expected_loss, expected = gradients(Small(6), FittingBatch(6), images, segmentations)
    network, batch = Small(room, error, message), FittingBatch(planned)
    for _ in range(2):  # two iterations
        loss, found = gradients(network, batch, images, segmentations)
        assert loss == pytest.approx(expected_loss, abs=1e-6)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert network.sizes == sizes
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    tried = sorted({planned, *sizes}, reverse=True)
    assert len(warnings) == len(tried) - 1
    for warning, before, after in zip(warnings, tried, tried[1:], strict=False):
        assert warning.startswith(f"the device has no memory for {before} patches at once ({message.splitlines()[0]}): {after} at a time")


def test_no_room_for_a_single_patch_is_an_error_with_what_to_do() -> None:
    images, segmentations = torch.rand(2, 1, *PATCH), torch.randint(0, 2, (2, *PATCH))
    with pytest.raises(ArenaError, match=r"no memory for a single patch \(CUDA out of memory. Tried to allocate 2.00 GiB\); .*smaller"):
        gradients(Small(0), FittingBatch(6), images, segmentations)
    with pytest.raises(RuntimeError, match="another fault"):
        gradients(Small(0, RuntimeError, "another fault"), FittingBatch(6), images, segmentations)
    assert not is_out_of_memory(RuntimeError("memory of another kind"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))


def test_only_a_want_of_memory_is_told_as_one() -> None:
    with (
        pytest.raises(ArenaError, match=r"^memory ran out in the toy \(MemoryError\); close other programs"),
        out_of_memory_as_arena_error("the toy"),
    ):
        raise MemoryError
    with pytest.raises(RuntimeError, match="another fault"), out_of_memory_as_arena_error("the toy"):
        raise RuntimeError("another fault")


def test_prediction_takes_windows_one_by_one_and_keeps_to_it(caplog: pytest.LogCaptureFixture) -> None:
    volume = np.random.default_rng(5).random((20, 9, 12), dtype=np.float32)

    def windows(batch: FittingBatch) -> Windows:
        return Windows(PATCH, 0.25, "softmax", batch, torch.device("cpu"))

    expected = mean_over_networks([Small(9).eval()], volume, windows(FittingBatch(4)))
    small, batch = Small(1).eval(), FittingBatch(4)
    for _ in range(2):  # two volumes
        np.testing.assert_allclose(mean_over_networks([small], volume, windows(batch)), expected, atol=1e-6)
    assert small.sizes[:2] == [4, 2] and set(small.sizes[2:]) == {1}
    assert len([record for record in caplog.records if "at a time from here on" in record.getMessage()]) == 2


def test_torchs_own_words_are_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
