"""The two U-Nets of nnU-Net v2, with the names that its checkpoints have: https://github.com/MIC-DKFZ/dynamic-network-architectures

A checkpoint has every tensor of a block twice or three times, as `all_modules` and `decoder.encoder` too; here each is once. The outputs of
the coarser levels, which only training with deep supervision reads, are not built.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arena_pipeline.model.architectures.channels_last import HeadConvolution

Triple = tuple[int, int, int]


class ConvBlock(nn.Sequential):
    """Convolution, instance norm and, unless `linear`, a leaky ReLU."""

    def __init__(self, channels: tuple[int, int], kernel: Triple, stride: Triple = (1, 1, 1), bias: bool = True, linear: bool = False) -> None:
        x, y, z = ((edge - 1) // 2 for edge in kernel)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv3d(*channels, kernel, stride, (x, y, z), bias=bias))
        layers["norm"] = nn.InstanceNorm3d(channels[1], eps=1e-5, affine=True)
        if not linear:
            layers["nonlin"] = nn.LeakyReLU(0.01, inplace=True)
        super().__init__(layers)


class ConvStack(nn.Module):
    """Convolutional blocks one after the other, the first with the stride."""

    def __init__(self, count: int, channels: tuple[int, int], kernel: Triple, stride: Triple = (1, 1, 1), bias: bool = True) -> None:
        super().__init__()
        rest = [ConvBlock((channels[1], channels[1]), kernel, bias=bias) for _ in range(count - 1)]
        self.convs = nn.Sequential(ConvBlock(channels, kernel, stride, bias), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip, which is averaged down where there is a stride and projected where the channels change (ResNet-D)."""

    def __init__(self, channels: tuple[int, int], kernel: Triple, stride: Triple, bias: bool) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, kernel, stride, bias)
        self.conv2 = ConvBlock((channels[1], channels[1]), kernel, bias=bias, linear=True)
        steps: list[nn.Module] = [nn.AvgPool3d(stride, stride)] if max(stride) > 1 else []
        if channels[0] != channels[1]:
            steps.append(ConvBlock(channels, (1, 1, 1), bias=False, linear=True))
        self.skip = nn.Sequential(*steps)
        self.nonlin2 = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))


class ResidualStack(nn.Module):
    """Residual blocks one after the other, the first with the stride."""

    def __init__(self, count: int, channels: tuple[int, int], kernel: Triple, stride: Triple, bias: bool) -> None:
        super().__init__()
        rest = [ResidualBlock((channels[1], channels[1]), kernel, (1, 1, 1), bias) for _ in range(count - 1)]
        self.blocks = nn.Sequential(ResidualBlock(channels, kernel, stride, bias), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Encoder(nn.Module):
    """One stage per resolution; the residual one has a stem in front of them."""

    def __init__(
        self, channels: Sequence[int], kernels: Sequence[Triple], strides: Sequence[Triple], blocks: Sequence[int], bias: bool, residual: bool
    ) -> None:
        super().__init__()
        self.stem = ConvStack(1, (1, channels[0]), kernels[0], bias=bias) if residual else None
        stages: list[nn.Module] = []
        before = channels[0] if residual else 1
        for width, kernel, stride, count in zip(channels, kernels, strides, blocks, strict=True):
            stage = (ResidualStack if residual else ConvStack)(count, (before, width), kernel, stride, bias)
            stages.append(stage if residual else nn.Sequential(stage))
            before = width
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The output of every stage, the finest first."""
        if self.stem is not None:
            x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class Decoder(nn.Module):
    """From the coarsest stage up: a transposed convolution, the encoder's output beside it, convolutions; at last the head."""

    def __init__(
        self, channels: Sequence[int], kernels: Sequence[Triple], strides: Sequence[Triple], blocks: Sequence[int], bias: bool, out_channels: int
    ) -> None:
        super().__init__()
        upward = range(len(channels) - 2, -1, -1)
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose3d(channels[level + 1], channels[level], strides[level + 1], strides[level + 1], bias=bias) for level in upward
        )
        self.stages = nn.ModuleList(
            ConvStack(count, (2 * channels[level], channels[level]), kernels[level], bias=bias) for level, count in zip(upward, blocks, strict=True)
        )
        self.seg_layers = nn.ModuleDict({str(len(upward) - 1): HeadConvolution(channels[0], out_channels, 1)})

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips.pop()
        for up, stage in zip(self.transpconvs, self.stages, strict=True):
            x = stage(torch.cat((up(x), skips.pop()), dim=1))
        (head,) = self.seg_layers.values()
        return head(x)


class UNetModule(nn.Module):
    """(batch, 1, three axes) -> logits (batch, out_channels, the same axes).

    Args:
        channels, kernels, strides, encoder_blocks: per stage of the encoder, the finest first.
        decoder_blocks: convolutions per stage of the decoder, the coarsest first.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kernels: Sequence[Triple],
        strides: Sequence[Triple],
        blocks: tuple[Sequence[int], Sequence[int]],
        bias: bool,
        residual: bool,
        out_channels: int,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(channels, kernels, strides, blocks[0], bias, residual)
        self.decoder = Decoder(channels, kernels, strides, blocks[1], bias, out_channels)
        self.apply(initialise_)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def initialise_(module: nn.Module) -> None:
    """As nnU-Net starts: He's normal weights and no biases, and residual blocks whose own branch is silent at first."""
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.get_parameter("norm.weight"))  # the norm's bias is zero already
