"""Which device a command computes on, and how a network lies there."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from arena_pipeline.errors import ArenaError
from arena_pipeline.io.parallel import on_gpus_of_cluster
from arena_pipeline.machine import check_device_name, free_memory_bytes


def pick_device(name: str) -> torch.device:
    """The device called `name`: "cpu", "cuda", "cuda:1", "mps", or "auto" for a GPU where there is one.

    A numbered GPU becomes torch's current one, so that what a library puts on "cuda" goes there too.

    Raises:
        ArenaError: the name is unknown, or this machine (or this build of torch) has no such device.
    """
    check_device_name(name)
    if name == "auto":
        return _made_fast(torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"))
    kind, _, number = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        built = "finds no CUDA GPU" if torch.version.cuda else "was built without CUDA; the README says how a GPU machine installs"
        raise ArenaError(f"device {name}: torch {torch.__version__} {built}; use -device cpu or auto")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise ArenaError(f"device {name}: this machine has {torch.cuda.device_count()} CUDA GPU(s), numbered from 0")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ArenaError(f"device {name}: torch finds no Apple GPU; use -device cpu or auto")
    if kind == "cuda" and number:
        torch.cuda.set_device(int(number))
    return _made_fast(torch.device(name))


def _made_fast(device: torch.device) -> torch.device:
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # patches have one size: the algorithm that was fastest once is so for all
        torch.set_float32_matmul_precision("high")  # TF32, as torch computes convolutions in anyway
    return device


def free_bytes(device: torch.device) -> int:
    """Memory that is free at this moment where networks on `device` lie; what torch keeps of it for its next tensors is free too."""
    if device.type != "cuda":
        return free_memory_bytes()
    return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def device_of_jobs(name: str) -> torch.device:
    """What `name` will be where a command's jobs run: this machine, or the nodes of a cluster.

    Raises:
        ArenaError: as `pick_device`.
    """
    return torch.device("cuda") if on_gpus_of_cluster(name) else pick_device(name)


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on `device`, its convolutions laid out channels last, which makes 3D convolutions faster on the CPU too."""
    return cast(nn.Module, cast(Any, network).to(device, memory_format=torch.channels_last_3d))
