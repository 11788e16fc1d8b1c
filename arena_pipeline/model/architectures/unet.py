"""nnU-Net's two U-Nets, plain and with a residual encoder: the networks of nnU-Net v2 model folders and of TotalSegmentator."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from arena_pipeline.model.architectures.base import Architecture, Layout, Shape, Target

if TYPE_CHECKING:
    from torch import nn

Triple = tuple[int, int, int]

ENCODER, DECODER = "encoder.", ("decoder.stages.", "decoder.transpconvs.")
WHOLE = "kernel"
CONVOLUTION = re.compile(r"encoder\.(?:stem|stages\.(\d+))\.(.*)")
FLOAT_BYTES = 4
KEPT_PER_CONVOLUTION = 2  # its output and its norm's, which the backward pass reads
MAPS_IN_PREDICTION = 6  # at the finest level: two maps side by side, their copy, and the input and outputs of a convolution


class UNet(Architecture):
    """Either U-Net; all lists have one entry per resolution, the finest first, unless said otherwise.

    Attributes:
        features_per_stage: channels.
        kernel_sizes: of the convolutions, in the network's axis order.
        strides: with which a stage is reached from the finer one; the first is 1, 1, 1.
        blocks_per_stage: convolutions of the plain encoder, residual blocks of the other.
        decoder_convolutions: per stage of the decoder, the coarsest first: one entry less.
        convolution_bias: whether convolutions have one.
    """

    features_per_stage: tuple[int, ...]
    kernel_sizes: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    blocks_per_stage: tuple[int, ...]
    decoder_convolutions: tuple[int, ...]
    convolution_bias: bool = True

    residual: ClassVar[bool]
    target_kind: ClassVar[str] = "convolution of the encoder"
    layouts: ClassVar[Mapping[str, Layout]] = {"arena": Layout(), "nnunet": Layout(key="network_weights")}

    @model_validator(mode="after")
    def _check(self) -> UNet:
        stages = len(self.features_per_stage)
        found = [len(self.kernel_sizes), len(self.strides), len(self.blocks_per_stage), len(self.decoder_convolutions) + 1]
        if stages < 2 or set(found) != {stages}:
            raise ValueError(f"architecture: expected the same number of stages, 2 or more, in every list, found {[stages, *found]}")
        if any(edge % 2 == 0 for kernel in self.kernel_sizes for edge in kernel):
            raise ValueError(f"architecture.kernel_sizes: expected odd numbers, found {self.kernel_sizes}")
        if max(self.strides[0]) > 1:
            raise ValueError(f"architecture.strides: expected (1, 1, 1) first, found {self.strides[0]}: the output is as fine as the input")
        return self

    def build(self, out_channels: int | None = None) -> nn.Module:
        """See `Architecture.build`; every axis of the input must be divisible by `patch_divisor`."""
        from arena_pipeline.model.architectures import unet_modules
        from arena_pipeline.model.architectures.channels_last import keep_channels_last_

        values = (self.features_per_stage, self.kernel_sizes, self.strides)
        blocks = (self.blocks_per_stage, self.decoder_convolutions)
        network = unet_modules.UNetModule(*values, blocks, self.convolution_bias, self.residual, out_channels or self.out_channels)
        keep_channels_last_(network)
        return network.eval()

    @property
    def head(self) -> str:
        """The finest level's; those of the coarser ones served training alone."""
        return f"decoder.seg_layers.{len(self.decoder_convolutions) - 1}"

    @property
    def encoder(self) -> tuple[str, ...]:
        return (ENCODER,)

    @property
    def decoder(self) -> tuple[str, ...]:
        return DECODER

    @property
    def front(self) -> dict[str, tuple[str, ...]]:
        """The stem, and the stages of the encoder one after the other: adapters whose first ranks have fallen to zero share those."""
        stages = [f"{ENCODER}stages.{number}" for number in range(len(self.features_per_stage))]
        chain = [f"{ENCODER}stem", *stages] if self.residual else stages
        return {name: tuple(chain[:number]) for number, name in enumerate(chain)}

    def targets(self, shapes: Mapping[str, Shape]) -> dict[str, Target]:
        """Every convolution of the encoder, as the matrix (out, in kx ky kz)."""
        found = {}
        for name, shape in shapes.items():
            if name.startswith(ENCODER) and name.endswith(".conv.weight"):
                layer, rows = name.removesuffix(".weight"), shape[0]
                found[layer] = Target(layer, rows, math.prod(shape[1:]), {WHOLE: (0, rows)}, WHOLE)
        return found

    def biases(self, names: Iterable[str]) -> list[str]:
        """Of the encoder's convolutions."""
        return [name for name in names if name.startswith(ENCODER) and name.endswith(".conv.bias")]

    def norms(self, names: Iterable[str]) -> list[str]:
        """The encoder's instance norms."""
        return [name for name in names if name.startswith(ENCODER) and ".norm." in name]

    def recomputed(self, network: nn.Module) -> list[nn.Module]:
        """Every stack of convolutions and every residual block."""
        from arena_pipeline.model.architectures.unet_modules import ConvStack, ResidualBlock

        return [module for module in network.modules() if isinstance(module, (ConvStack, ResidualBlock))]

    @property
    def patch_divisor(self) -> Triple:
        x, y, z = (math.prod(steps) for steps in zip(*self.strides, strict=True))
        return (x, y, z)

    @property
    def parameters(self) -> int:
        """Of the convolutions; norms and biases have a hundredth of them."""
        widths, kernels = self.features_per_stage, [math.prod(kernel) for kernel in self.kernel_sizes]
        total, before = 0, self.in_channels
        for width, kernel, count in zip(widths, kernels, self.blocks_per_stage, strict=True):
            inner = 2 * count - 1 if self.residual else count - 1
            total += kernel * width * (before + inner * width) + (before * width if self.residual else 0)
            before = width
        for level, count in enumerate(reversed(self.decoder_convolutions)):
            width = widths[level]
            total += kernels[level] * width * width * (count + 1) + math.prod(self.strides[level + 1]) * width * widths[level + 1]
        return total + widths[0] * self.out_channels

    def training_bytes(self, patch_size_voxels: Triple, recompute: bool = False) -> int:
        """What convolutions and norms keep for the backward pass, and the gradients of the largest level; with `recompute` one map a block."""
        kept, per_block = 0, 1 if recompute else KEPT_PER_CONVOLUTION * (2 if self.residual else 1)
        for width, voxels, count in zip(self.features_per_stage, self._voxels(patch_size_voxels), self.blocks_per_stage, strict=True):
            kept += width * voxels * (1 if recompute else count * per_block)
        for level, count in enumerate(reversed(self.decoder_convolutions)):
            kept += self.features_per_stage[level] * self._voxels(patch_size_voxels)[level] * (3 + (0 if recompute else KEPT_PER_CONVOLUTION * count))
        finest = self.features_per_stage[0] * self._voxels(patch_size_voxels)[0]
        return FLOAT_BYTES * (kept + MAPS_IN_PREDICTION * finest)

    def window_bytes(self, patch_size_voxels: Triple) -> int:
        """The skips, and what the finest level's convolutions hold."""
        voxels = self._voxels(patch_size_voxels)
        skips = sum(width * count for width, count in zip(self.features_per_stage, voxels, strict=True))
        return FLOAT_BYTES * (skips + MAPS_IN_PREDICTION * self.features_per_stage[0] * voxels[0])

    @classmethod
    def layer_label(cls, block: str) -> str | None:
        """encoder.stages.2.0.convs.1.conv.kernel -> stage 2, convs.1."""
        layer, _, rows = block.rpartition(".")
        found = CONVOLUTION.match(layer)
        if found is None or rows != WHOLE:
            return None
        inner = found[2].removesuffix(".conv").removeprefix("0.")
        return f"stem, {inner}" if found[1] is None else f"stage {found[1]}, {inner}"

    def describe(self, tensors: Mapping[str, Any]) -> list[str]:
        widths = [len(tensors[name]) for name in tensors if re.fullmatch(r"encoder\.stages\.\d+\.(0\.convs|blocks)\.0\.(conv1\.)?conv\.weight", name)]
        return ([f"features_per_stage {tuple(widths)}"] if widths else []) + super().describe(tensors)

    def _voxels(self, patch_size_voxels: Triple) -> list[int]:
        """Of a patch at every level."""
        return [math.prod(patch_size_voxels) // shrunk for shrunk in accumulate((math.prod(stride) for stride in self.strides), lambda a, b: a * b)]


class PlainUNet(UNet):
    """dynamic_network_architectures.architectures.unet.PlainConvUNet."""

    family: Literal["plain_unet"] = "plain_unet"
    residual: ClassVar[bool] = False


class ResidualUNet(UNet):
    """dynamic_network_architectures.architectures.unet.ResidualEncoderUNet, with basic blocks."""

    family: Literal["residual_unet"] = "residual_unet"
    residual: ClassVar[bool] = True
