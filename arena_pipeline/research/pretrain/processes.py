"""Pre-training by one process, or by several that torchrun started, each with its own part of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor

from arena_pipeline.errors import ArenaError
from arena_pipeline.model.device import pick_device

WAIT = timedelta(days=2)  # the others wait for the first while it preprocesses


@dataclass(frozen=True)
class Processes:
    """This process among those that share the batches; the first writes the files."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def places(self, batch_size: int) -> range:
        """The numbers of this process' patches in a batch; ArenaError if the batch can't be shared evenly."""
        if batch_size % self.size:
            raise ArenaError(
                f"a batch of {batch_size} patches can't be shared evenly by {self.size} processes", advice="take a --batch_size that can"
            )
        each = batch_size // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over the processes, without its gradient where there are several."""
        if self.size == 1:
            return value
        summed = value.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def wait(self) -> None:
        """Waits until all processes have come here."""
        if self.size > 1:
            distributed.barrier()

    def copy_from_first_(self, tensors: Iterable[Tensor]) -> None:
        """Gives the tensors the values that the first process has for them."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Adds up each tensor over the processes, all in one message.

        DistributedDataParallel, which would send during the backward pass, is not used: its reducer keeps the process group, whose threads then
        outlive destroy_process_group; sometimes the interpreter then ends by SIGABRT, or does not end.
        """
        if self.size == 1:
            return
        parts = list(tensors)
        summed = torch.cat([part.flatten() for part in parts])
        distributed.all_reduce(summed)
        for part, values in zip(parts, summed.split([part.numel() for part in parts]), strict=True):
            part.copy_(values.view_as(part))


ALONE = Processes()


def torchrun_rank() -> int:
    """The number of this process among those that torchrun started; 0 without torchrun."""
    return int(os.environ["RANK"]) if _by_torchrun() else 0


@contextmanager
def process_group(device_name: str) -> Iterator[tuple[Processes, torch.device]]:
    """Joins the processes that torchrun started, if any; yields this process' place among them and its device.

    Args:
        device_name: auto, cpu, cuda or mps; several processes take a CUDA GPU each, or share the CPU.

    Raises:
        ArenaError: there is no such device, or it can't be shared.
    """
    size = int(os.environ["WORLD_SIZE"]) if _by_torchrun() else 1
    if size == 1:
        yield ALONE, pick_device(device_name)
        return
    device = _own_device(device_name)
    on_gpu = device.type == "cuda"
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=WAIT, device_id=device if on_gpu else None)
    try:
        yield Processes(distributed.get_rank(), size), device
    finally:
        distributed.destroy_process_group()


def _own_device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ArenaError(f"device {name}: several processes take a CUDA GPU each (-device cuda) or share the CPU (-device cpu)")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return pick_device(f"cuda:{os.environ['LOCAL_RANK']}")


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
