"""A device without room for a batch: the same work once more with half as many patches, said aloud; then a clear error."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from arena_pipeline.errors import ArenaError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MESSAGES = (
    "MPS backend out of memory",
    "DefaultCPUAllocator: not enough memory",
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What torch says in a plain RuntimeError: on devices other than CUDA, and of memory that CUDA and its libraries take for themselves."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no room for a tensor on whatever device."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in MESSAGES)


@contextmanager
def out_of_memory_as_arena_error(what: str) -> Iterator[None]:
    """Turns what Python, numpy and torch raise where memory runs out in `what` into an ArenaError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ArenaError(
            f"memory ran out in {what} ({reason})",
            advice="close other programs that use it, choose another -device, or use a machine with more memory",
        ) from None


class FittingBatch:
    """How many patches go through a network at once: as planned, and half as many for good whenever the device had no room.

        fitting = FittingBatch(settings.micro_batch or settings.patches_per_volume)
        loss = fitting.run(lambda size: accumulate_gradients(network, images, segmentations, size))

    Args:
        size: the planned number.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, work: Callable[[int], Result]) -> Result:
        """work(size), where nothing is kept of a `work` that failed half-way.

        Raises:
            ArenaError: there is no room for a single patch.
        """
        try:
            return work(self.size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._shrink(str(error).partition("\n")[0])
        # Not above: while the error is held, so are the tensors that the failed work made.
        _give_back_memory()
        return self.run(work)

    def _shrink(self, reason: str) -> None:
        if self.size == 1:
            raise ArenaError(
                f"the device has no memory for a single patch ({reason})",
                advice="close other programs that use it, choose another -device, or a foundation with a smaller patch or network",
            ) from None
        half = (self.size + 1) // 2
        text = "the device has no memory for %d patches at once (%s): %d at a time from here on, which computes the same"
        logger.warning(text, self.size, reason, half)
        self.size = half


def _give_back_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
