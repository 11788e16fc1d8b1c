"""The sliding window compared with MONAI's in one run: python -m benchmarks.windows [--size 160] [--rounds 3] [-device cuda].

The packaged foundation over a volume of noise, windows of 64^3 that overlap by a quarter, the same number at once for both:
    one network       probability_slabs against monai.inferers.sliding_window_inference with its gaussian, and against nnU-Net's predictor
                      (after `make nnunet_env`; one window at a time; its sums in half precision are inexact in the
                      corners, where the gaussian is almost zero), each with a softmax after it
    three adapters    their mean: all on a window at once, against one after the other, and against MONAI's three times
Probabilities are compared: with an edge of 160 voxels all three use the same 27 windows. The methods take turns; ratios are those of each turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from arena_pipeline.foundations import load_preset, weights_file
from arena_pipeline.model.adapted import AdaptedNetwork, ReadyAdapter
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.device import pick_device
from arena_pipeline.model.out_of_memory import FittingBatch
from arena_pipeline.predict.windows import Bundle, Network, Windows, means_over_bundles
from benchmarks.nnunet_here import PACKAGES, use_nnunet

AT_ONCE, ADAPTERS = 2, 3


def monai(networks: list[Callable[[], Network]], volume: np.ndarray, windows: Windows) -> np.ndarray:
    total = np.zeros(0)
    image = torch.from_numpy(volume)[None, None]
    with torch.inference_mode():
        for ready in networks:
            places = {"sw_device": windows.device, "device": torch.device("cpu")}
            logits = sliding_window_inference(image, windows.patch_size, AT_ONCE, ready(), windows.overlap, "gaussian", **places)
            probabilities = torch.softmax(logits[0], dim=0).numpy()
            total = probabilities if not total.size else total + probabilities
    return total / len(networks)


def nnunet(network: Callable[[], Network], volume: np.ndarray, windows: Windows) -> np.ndarray:
    use_nnunet()
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    on_gpu = windows.device.type == "cuda"
    predictor = nnUNetPredictor(
        1 - windows.overlap, use_mirroring=False, perform_everything_on_device=on_gpu, device=windows.device, allow_tqdm=False
    )
    predictor.network, predictor.allowed_mirroring_axes = network(), None
    predictor.configuration_manager = SimpleNamespace(patch_size=windows.patch_size)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=load_preset("arena_mini").architecture.out_channels)
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(volume)[None])
    return torch.softmax(logits.float(), dim=0).cpu().numpy()


def one_after_the_other(networks: list[Callable[[], Network]], volume: np.ndarray, windows: Windows) -> np.ndarray:
    return means_over_bundles((Bundle(ready(), (0,)) for ready in networks), volume, windows)[0]


def together(network: AdaptedNetwork, networks: list[Callable[[], Network]], volume: np.ndarray, windows: Windows) -> np.ndarray:
    def run(patches: torch.Tensor) -> torch.Tensor:
        with network.window():
            return torch.cat([ready()(patches) for ready in networks], dim=1)

    return means_over_bundles([Bundle(run, (0,) * len(networks))], volume, windows)[0]


def adapters(network: AdaptedNetwork) -> list[Callable[[], Network]]:
    """ADAPTERS adapters that differ in a projection of every Swin block, put onto the network like those of a model folder."""
    made = []
    for number in range(ADAPTERS):
        values = {n: p + 0.01 * number * torch.randn_like(p) for n, p in network.network.named_parameters() if n.endswith(".attn.qkv.weight")}
        made.append(ReadyAdapter(network._own_head, values, network._front.unchanged(values)))

    def ready(one: ReadyAdapter) -> Network:
        network._put_on(one)
        return network.network

    return [partial(ready, one) for one in made]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--size", type=int, default=160, help="edge of the volume")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("-device", default="cpu")
    args = options.parse_args()
    keep_freed_memory()
    device, preset = pick_device(args.device), load_preset("arena_mini")
    network = AdaptedNetwork(preset, weights_file(preset, Path(tempfile.gettempdir())), device)
    volume = np.random.default_rng(0).random((args.size,) * 3, dtype=np.float32)
    windows = Windows(preset.scheme.patch_size_voxels, 0.25, "softmax", FittingBatch(AT_ONCE), device)
    one, three = [partial(network.select, None)], adapters(network)
    calls: dict[str, Callable[[], np.ndarray]] = {
        "one network": partial(one_after_the_other, one, volume, windows),
        "one network, MONAI": partial(monai, one, volume, windows),
        "three adapters": partial(together, network, three, volume, windows),
        "three adapters, one after the other": partial(one_after_the_other, three, volume, windows),
        "three adapters, MONAI": partial(monai, three, volume, windows),
    }
    if PACKAGES is not None:
        calls["one network, nnU-Net"] = partial(nnunet, one[0], volume, windows)
    found, seconds = dict[str, np.ndarray](), {name: list[float]() for name in calls}
    for number in range(args.rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            found[name] = call()
            if number:
                seconds[name].append(time.perf_counter() - started)
    print(f"| {device}, {args.size}^3 | time | ours is faster by | probabilities apart |", "|---|---|---|---|", sep="\n")
    for name, times in seconds.items():
        own = name.partition(",")[0]
        ratios = [theirs / ours for theirs, ours in zip(times, seconds[own], strict=True)]
        apart = float(np.abs(found[name] - found[own]).max())
        print(f"| {name} | {min(times):.2f} s | {min(ratios):.2f} to {max(ratios):.2f} x | {apart:.0e} |")


if __name__ == "__main__":
    main()
