"""What the computer offers: memory, cores, and the memory of the device that networks run on."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from typing import Literal

import psutil

from arena_pipeline.container import cpu_limit, memory_limits
from arena_pipeline.errors import ArenaError
from arena_pipeline.words import memory_size

logger = logging.getLogger(__name__)

Half = Literal["bf16", "fp16"]
DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?|mps")
FREE_SHARE = 0.8
"""The share of the free memory that workers may take; other programs need the rest."""


@dataclass(frozen=True)
class Machine:
    """The facts about a computer that plans depend on.

    Attributes:
        memory_bytes: main memory that a command may use.
        device_memory_bytes: memory of the accelerator, or None where the network runs on the CPU.
        cores: processor cores that a command may use.
        half: see `faster_half`.
    """

    memory_bytes: int
    device_memory_bytes: int | None
    cores: int
    half: Half | None = None


def this_machine(device: str = "cpu") -> Machine:
    """The machine we run on, with `device` (cpu, cuda, cuda:1, mps; one that is there) as the place of the networks.

    Memory is the total, not what is free at this moment, so that plans do not depend on what else happens to run.
    """
    device_memory = None
    if device.startswith("cuda"):
        import torch  # only here: planning for the CPU need not wait for it

        device_memory = int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    elif device.startswith("mps"):
        device_memory = memory_bytes()  # Apple's GPU shares the main memory
    return Machine(memory_bytes(), device_memory, usable_cores(), faster_half(device))


def check_device_name(name: str) -> None:
    """Raises ArenaError for what is no device's name. Whether this machine has the device, only torch knows."""
    if not DEVICE.fullmatch(name):
        raise ArenaError(f"unknown device {name}", advice="known: auto, cpu, cuda, cuda:NUMBER, mps")


def memory_bytes() -> int:
    """Main memory, or a container's limit where that is lower."""
    return min([psutil.virtual_memory().total, *(found.limit for found in memory_limits())])


def free_memory_bytes() -> int:
    """Main memory that is free at this moment, or what a container has left where that is less."""
    return min([psutil.virtual_memory().available, *(found.left for found in memory_limits())])


def usable_cores() -> int:
    """Cores this process may run on, a container's quota counted; OMP_NUM_THREADS, where it is set, is an upper bound that the user chose."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_limit()
    cores = cores if quota is None else max(1, min(cores, int(quota)))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(threads)) if threads.isdigit() and int(threads) else cores


def accelerators(device: str) -> list[str]:
    """What of this machine can be `device` (a name that the commands take): the numbers of its CUDA GPUs, or mps; nothing for the CPU."""
    if device == "cpu":
        return []
    import torch  # only here: most commands need no network

    if device in ("auto", "cuda") and (count := torch.cuda.device_count()):  # counted without waking them up
        return [str(number) for number in range(count)]
    return ["mps"] if device == "auto" and torch.backends.mps.is_available() else [] if device == "auto" else [device]


def workers_for(bytes_each: int) -> int:
    """As many processes as there are cores, and as fit into free memory with `bytes_each`; at least one."""
    return min(usable_cores(), _affordable(bytes_each))


def limit_workers(wanted: int, bytes_each: int, stage: str) -> int:
    """`wanted` processes, or fewer, with a warning, where they do not fit into free memory with `bytes_each`; 0 and 1 stay."""
    affordable = _affordable(bytes_each)
    if wanted > affordable:
        facts = (stage, affordable, wanted, memory_size(bytes_each), memory_size(free_memory_bytes()))
        logger.warning("%s: %d worker(s) instead of %d: each may take %s, and %s of memory are free", *facts)
    return min(wanted, affordable)


def _affordable(bytes_each: int) -> int:
    return max(1, int(FREE_SHARE * free_memory_bytes()) // max(1, bytes_each))


def faster_half(device: str) -> Half | None:
    """In which 16 bits a network computes faster on `device` than in float32: bfloat16 on a GPU with tensor cores for it, float16 on one that has
    them for that alone, None elsewhere: a CPU has hardly any use for it, an Apple GPU was not tried."""
    if not device.startswith("cuda"):
        return None
    import torch  # only here: planning for the CPU need not wait for it

    major, _ = torch.cuda.get_device_capability(torch.device(device))
    return "bf16" if major >= 8 else "fp16" if major == 7 else None
