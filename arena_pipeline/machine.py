"""What the computer offers: memory, cores, and the memory of the device that networks run on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

_CONTAINER_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Machine:
    """The facts about a computer that plans depend on.

    Attributes:
        memory_bytes: main memory that a command may use.
        device_memory_bytes: memory of the accelerator, or None where the network runs on the CPU.
        cores: processor cores that a command may use.
    """

    memory_bytes: int
    device_memory_bytes: int | None
    cores: int


def this_machine(device: str = "cpu") -> Machine:
    """The machine we run on, with `device` (cpu, cuda, cuda:1, mps; one that is there) as the place of the networks.

    Memory is the total, not what is free at this moment, so that plans do not depend on what else happens to run.
    """
    return Machine(memory_bytes(), _device_memory_bytes(device), usable_cores())


def memory_bytes() -> int:
    """Main memory, or a container's limit where that is lower."""
    limits = [psutil.virtual_memory().total]
    for path in _CONTAINER_MEMORY_LIMITS:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def usable_cores() -> int:
    """Cores this process may run on; OMP_NUM_THREADS, where it is set, is an upper bound that the user chose."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(threads)) if threads.isdigit() and int(threads) else cores


def workers_for(bytes_each: int) -> int:
    """As many processes as there are cores, and memory for when each takes `bytes_each`; at least one."""
    return max(1, min(usable_cores(), memory_bytes() // bytes_each))


def _device_memory_bytes(device: str) -> int | None:
    if device.startswith("cuda"):
        import torch  # only here: planning for the CPU need not wait for it

        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    return memory_bytes() if device.startswith("mps") else None  # Apple's GPU shares the main memory
