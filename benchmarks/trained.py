"""How many numbers each method trains in the encoder of each family, at common sizes: python -m benchmarks.trained."""

from __future__ import annotations

from copy import deepcopy
from typing import get_args

import torch

from arena_pipeline.adapt.methods import METHODS, method_settings
from arena_pipeline.model.architectures import Architecture, SwinUnetr
from arena_pipeline.model.architectures.unet import PlainUNet, ResidualUNet
from arena_pipeline.settings import AdaptationSettings, MethodName

UNET = {
    "out_channels": 25,
    "features_per_stage": (32, 64, 128, 256, 320, 320),
    "kernel_sizes": ((3, 3, 3),) * 6,
    "strides": ((1, 1, 1), *((2, 2, 2),) * 5),
}
NETWORKS: dict[str, Architecture] = {
    "Swin UNETR, feature size 48": SwinUnetr(feature_size=48, out_channels=14, patch_merging="monai_1.5"),
    "plain U-Net, 31 M": PlainUNet.model_validate(UNET | {"blocks_per_stage": (2,) * 6, "decoder_convolutions": (2,) * 5}),
    "residual U-Net, 102 M": ResidualUNet.model_validate(UNET | {"blocks_per_stage": (1, 3, 4, 6, 6, 6), "decoder_convolutions": (1,) * 5}),
}


NETWORKS_ON_META = {architecture.family: architecture.build().to("meta") for architecture in NETWORKS.values()}


def trained(architecture: Architecture, method: MethodName) -> int:
    """The count, on a network that has shapes but no values."""
    network = deepcopy(NETWORKS_ON_META[architecture.family])
    trainable = METHODS[method].build(network, architecture, method_settings(AdaptationSettings(), method), torch.Generator().manual_seed(0), 1000)
    return sum({id(tensor): tensor.numel() for tensor in (*trainable.own, *trainable.gates)}.values())  # gates that AdamW moves are in both


def main() -> None:
    print("| method | " + " | ".join(NETWORKS) + " |\n|---" + "|---" * len(NETWORKS) + "|")
    for method in get_args(MethodName):
        print(f"| `{method}` | " + " | ".join(f"{trained(architecture, method):,}" for architecture in NETWORKS.values()) + " |")


if __name__ == "__main__":
    main()
