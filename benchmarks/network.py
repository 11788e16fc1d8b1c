"""The network against MONAI's own SwinUNETR, in one run: python -m benchmarks.network [--rounds 5] [--skip_memory].

    forward time      feature_size 12, window 4, patches of 64^3 in the batches that adaptation and prediction use; the two take turns
    step time         forward and backward of an adaptation (update and decoder trained), likewise
    peak memory       one step of an adaptation (update and decoder trained, one 96^3 patch) at feature_size 48, window 7:
                      resident memory above that of the ready network, each in a process of its own
MONAI's network is laid out channels last as ours is, and both have the same weights; their largest difference is printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import psutil
import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

from arena_pipeline.adapt.loop import accumulate_gradients
from arena_pipeline.foundations import Architecture
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.low_rank import add_updates_, arena_update
from arena_pipeline.model.network import DECODER, HEAD, build_network, to_device
from arena_pipeline.model.recompute import recompute_activations_

SMALL = Architecture(feature_size=12, window_size_voxels=(4, 4, 4), out_channels=1, patch_merging="monai_1.5")
FULL = Architecture(feature_size=48, window_size_voxels=(7, 7, 7), out_channels=1, patch_merging="monai_1.5")
CPU = torch.device("cpu")


def monais(architecture: Architecture) -> nn.Module:
    return SwinUNETR(1, architecture.out_channels, feature_size=architecture.feature_size, window_size=architecture.window_size_voxels, use_v2=False)


def ours_recomputing(architecture: Architecture) -> nn.Module:
    network = build_network(architecture)
    recompute_activations_(network)
    return network


NETWORKS: dict[str, Callable[[Architecture], nn.Module]] = {"MONAI": monais, "ours": build_network, "ours, recomputing": ours_recomputing}


def ready(name: str, architecture: Architecture) -> nn.Module:
    torch.manual_seed(0)
    return to_device(NETWORKS[name](architecture).eval(), CPU)


def compare_forward(rounds: int) -> str:
    """Best of the rounds; the networks take turns, so that whatever else the machine does falls on both."""
    keep_freed_memory()
    monai, ours = ready("MONAI", SMALL), ready("ours", SMALL)
    ours.load_state_dict(monai.state_dict())
    rows = ["| forward, feature_size 12, 64^3 | MONAI | ours | faster by | largest difference |", "|---|---|---|---|---|"]
    for batch in (1, 2, 4):
        images = torch.rand(batch, 1, 64, 64, 64, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last_3d)
        with torch.no_grad():
            difference = float((monai(images) - ours(images)).abs().max())
            best = _take_turns({"MONAI": partial(monai, images), "ours": partial(ours, images)}, rounds)
        rows.append(f"| {batch} patches | {best['MONAI']:.2f} s | {best['ours']:.2f} s | {best['MONAI'] / best['ours']:.2f} x | {difference:.0e} |")
    return "\n".join(rows)


def compare_steps(rounds: int) -> str:
    keep_freed_memory()
    networks = {name: adaptable(name, SMALL) for name in ("MONAI", "ours")}
    rows = ["| forward and backward of a step, feature_size 12, 64^3 | MONAI | ours | faster by |", "|---|---|---|---|"]
    for patches in (1, 2):
        images, segmentations = _patches(patches, 64)
        best = _take_turns({name: partial(accumulate_gradients, network, images, segmentations) for name, network in networks.items()}, rounds)
        rows.append(f"| {patches} patches | {best['MONAI']:.2f} s | {best['ours']:.2f} s | {best['MONAI'] / best['ours']:.2f} x |")
    return "\n".join(rows)


def _take_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of the best round each, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(values[1:]) for name, values in seconds.items()}


def adaptable(name: str, architecture: Architecture) -> nn.Module:
    """The network with ARENA's update, which is to be trained with the decoder and the head."""
    network = ready(name, architecture).requires_grad_(False)
    add_updates_(network, arena_update, rank=8)
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.startswith((*DECODER, HEAD)) or parameter_name.endswith((".A", ".B")):
            parameter.requires_grad_(True)
    return network


def _patches(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, size, size, size) of noise, and segmentations of a cube."""
    images, segmentations = torch.rand(count, 1, size, size, size), torch.zeros(count, size, size, size, dtype=torch.uint8)
    segmentations[:, 40:60, 40:60, 40:60] = 1
    return images, segmentations


def step_memory(name: str) -> int:
    """Bytes that one adaptation step takes at its peak, above the resident memory of the ready network."""
    network = adaptable(name, FULL)
    images, segmentations = _patches(1, 96)
    process, peak, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    accumulate_gradients(network, images, segmentations)
    done.set()
    watcher.join()
    return peak - before


def compare_memory() -> str:
    found = {}
    for name in NETWORKS:
        child = subprocess.run([sys.executable, "-m", "benchmarks.network", "--one_step", name], check=True, capture_output=True, text=True)
        found[name] = int(child.stdout.strip())
    rows = ["| one adaptation step, feature_size 48, one 96^3 patch | peak memory | of MONAI's |", "|---|---|---|"]
    rows += [f"| {name} | {size / 2**30:.2f} GiB | {size / found['MONAI']:.2f} |" for name, size in found.items()]
    return "\n".join(rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--skip_memory", action="store_true", help="the full-size steps take a minute or more each")
    options.add_argument("--one_step", choices=tuple(NETWORKS), help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.one_step:
        print(step_memory(args.one_step))
        return
    print(compare_forward(args.rounds), compare_steps(args.rounds), sep="\n\n")
    if not args.skip_memory:
        print()
        print(compare_memory())


if __name__ == "__main__":
    main()
