"""The network against MONAI's own SwinUNETR, in one run: python -m benchmarks.network [--rounds 5] [--skip_memory].

    forward time      feature_size 12, window 4, patches of 64^3 in the batches that adaptation and prediction use
    step time         forward and backward of an adaptation (update and decoder trained), likewise
    peak memory       one step of an adaptation (update and decoder trained, one 96^3 patch) at feature_size 48, window 7:
                      resident memory above that of the ready network, each in a process of its own
MONAI's network is measured as MONAI builds it, channels first, and channels last as ours is; the ratios are to the better of the two. All have
the same weights and take turns, so that other work of the machine slows down all alike; the largest difference of their outputs is printed.
For a GPU there is benchmarks.step.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import psutil
import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

from arena_pipeline.adapt.loop import accumulate_gradients
from arena_pipeline.adapt.prepare import recompute_activations_
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.device import to_device
from arena_pipeline.model.low_rank import add_updates_, arena_matrices

SMALL = SwinUnetr(feature_size=12, window_size_voxels=(4, 4, 4), out_channels=1, patch_merging="monai_1.5")
FULL = SwinUnetr(feature_size=48, window_size_voxels=(7, 7, 7), out_channels=1, patch_merging="monai_1.5")
CPU = torch.device("cpu")


def monai_channels_last(architecture: SwinUnetr) -> nn.Module:
    size, window = architecture.feature_size, architecture.window_size_voxels
    return to_device(SwinUNETR(1, architecture.out_channels, feature_size=size, window_size=window, use_v2=False), CPU)


def monai_as_built(architecture: SwinUnetr) -> nn.Module:
    """As MONAI builds it. A step's images are channels last, which its convolutions would keep from layer to layer: they are made channels first."""
    network = monai_channels_last(architecture).to(memory_format=torch.contiguous_format)
    network.register_forward_pre_hook(lambda _, images: (images[0].clone(memory_format=torch.contiguous_format),))
    return network


def ours(architecture: SwinUnetr) -> nn.Module:
    return to_device(architecture.build(), CPU)


def ours_recomputing(architecture: SwinUnetr) -> nn.Module:
    network = ours(architecture)
    recompute_activations_(network, architecture)
    return network


NETWORKS: dict[str, Callable[[SwinUnetr], nn.Module]] = {
    "MONAI": monai_as_built,
    "MONAI, channels last": monai_channels_last,
    "ours": ours,
    "ours, recomputing": ours_recomputing,
}


def ready(name: str, architecture: SwinUnetr) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name](architecture).eval()


def compare_forward(rounds: int) -> str:
    """A markdown table of the best round each."""
    keep_freed_memory()
    names = ("MONAI", "MONAI, channels last", "ours")
    networks = {name: ready(name, SMALL) for name in names}
    for network in networks.values():
        network.load_state_dict(networks["MONAI"].state_dict())
    rows = _header("forward, feature_size 12, 64^3", (*names, "faster by", "largest difference"))
    for batch in (1, 2, 4):
        images = torch.rand(batch, 1, 64, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            difference = float((networks["MONAI"](images) - networks["ours"](images)).abs().max())
            best = _take_turns({name: partial(network, images) for name, network in networks.items()}, rounds)
        rows.append(_row(f"{batch} patches", best, f"{difference:.0e}"))
    return "\n".join(rows)


def compare_steps(rounds: int) -> str:
    keep_freed_memory()
    networks = {name: adaptable(name, SMALL) for name in NETWORKS}
    rows = _header("forward and backward of a step, feature_size 12, 64^3", (*NETWORKS, "faster by"))
    for patches in (1, 2):
        images, segmentations = patches_of(patches, 64)
        best = _take_turns({name: partial(accumulate_gradients, network, images, segmentations) for name, network in networks.items()}, rounds)
        rows.append(_row(f"{patches} patches", best))
    return "\n".join(rows)


def _header(what: str, columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join((what, *columns))} |", "|---" * (len(columns) + 1) + "|"]


def _row(what: str, seconds: dict[str, float], *more: str) -> str:
    ratio = min(value for name, value in seconds.items() if name.startswith("MONAI")) / seconds["ours"]
    return f"| {' | '.join((what, *(f'{value:.2f} s' for value in seconds.values()), f'{ratio:.2f} x', *more))} |"


def _take_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Each one's seconds in its best round, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(values[1:]) for name, values in seconds.items()}


def adaptable(name: str, architecture: SwinUnetr) -> nn.Module:
    """The network with ARENA's update, which is to be trained with the decoder and the head."""
    network = ready(name, architecture).requires_grad_(False)
    add_updates_(network, architecture, arena_matrices, rank=8)
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.startswith((*architecture.decoder, architecture.head)) or parameter_name.endswith((".A", ".B")):
            parameter.requires_grad_(True)
    return network


def patches_of(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, size, size, size) of noise, and segmentations of a cube."""
    images, segmentations = torch.rand(count, 1, size, size, size), torch.zeros(count, size, size, size, dtype=torch.uint8)
    segmentations[:, 40:60, 40:60, 40:60] = 1
    return images, segmentations


def step_memory(name: str) -> int:
    """Bytes that one adaptation step takes at its peak, above the resident memory of the ready network."""
    network = adaptable(name, FULL)
    return peak_bytes(partial(accumulate_gradients, network, *patches_of(1, 96)))


def peak_bytes(call: Callable[[], object]) -> int:
    """What a call takes at its peak, above the resident memory before it."""
    process, peak, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return peak - before


def compare_memory() -> str:
    found: dict[str, int] = {}
    for name in NETWORKS:
        child = subprocess.run([sys.executable, "-m", "benchmarks.network", "--one_step", name], check=True, capture_output=True, text=True)
        found[name] = int(child.stdout.strip())
    monai = min(size for name, size in found.items() if name.startswith("MONAI"))
    rows = _header("one adaptation step, feature_size 48, one 96^3 patch", ("peak memory", "of MONAI's"))
    return "\n".join([*rows, *(f"| {name} | {size / 2**30:.2f} GiB | {size / monai:.2f} |" for name, size in found.items())])


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
