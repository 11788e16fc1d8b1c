"""The memory of the network's activations, with which arena_pipeline/model/architectures/swin_unetr.py plans: python -m benchmarks.activations.

Peak memory of this package's network in float32 for one patch, above that of the ready network and of its weights' gradients, per voxel of the
patch and unit of feature_size: forward and backward with all weights trained, the same with activations computed again, and forward alone.
Each in a process of its own; two minutes in all on 2 cores.
"""

from __future__ import annotations

from functools import partial
from multiprocessing import get_context

import torch

from arena_pipeline.adapt.loop import accumulate_gradients
from arena_pipeline.model.architectures import SwinUnetr
from benchmarks.network import patches_of, peak_bytes, ready

SHAPES = ((48, 7, 96), (48, 7, 64), (24, 7, 64), (12, 4, 64))  # feature_size, window, patch


def training_bytes(network_name: str, feature_size: int, window: int, size: int) -> float:
    network = ready(network_name, _architecture(feature_size, window))
    gradients = sum(4 * parameter.numel() for parameter in network.parameters())
    peak = peak_bytes(partial(accumulate_gradients, network, *patches_of(1, size)))
    return (peak - gradients) / (feature_size * size**3)


def prediction_bytes(network_name: str, feature_size: int, window: int, size: int) -> float:
    network = ready(network_name, _architecture(feature_size, window))
    with torch.inference_mode():
        return peak_bytes(partial(network, patches_of(1, size)[0])) / (feature_size * size**3)


def _architecture(feature_size: int, window: int) -> SwinUnetr:
    return SwinUnetr(feature_size=feature_size, window_size_voxels=(window,) * 3, out_channels=1, patch_merging="monai_1.5")


def main() -> None:
    print("| feature_size, window, patch | forward and backward | computed again | forward alone |", "|---|---|---|---|", sep="\n")
    with get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
        for shape in SHAPES:
            measured = [(training_bytes, "ours"), (training_bytes, "ours, recomputing"), (prediction_bytes, "ours")]
            found = [fresh.apply(measure, (name, *shape)) for measure, name in measured]
            print(f"| {shape[0]}, {shape[1]}, {shape[2]}^3 | {' | '.join(f'{each:.0f} bytes' for each in found)} |", flush=True)


if __name__ == "__main__":
    main()
