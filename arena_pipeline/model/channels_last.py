"""Layers of the network that keep channels last on the CPU, where PyTorch's answer channels first and make every layer after them copy again.

PyTorch's instance norm is also wrong there in one case (seen with 2.13): its gradient for a single image, where the
gradient that comes in is channels last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 1024  # of a sum in single precision, which loses digits as it grows: longer ones are split


class PointwiseConvolution(nn.Conv3d):
    """A 1x1x1 convolution, on the CPU as one matrix product over the voxels."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, C in, x, y, z) -> (batch, C out, x, y, z)."""
        if input.device.type != "cpu":
            return super().forward(input)
        return linear(input.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class ChannelsLastInstanceNorm(nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d without parameters and running statistics; on the CPU its answer is channels last."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, C, x, y, z) -> the same, each channel of each image with mean 0 and variance 1; ValueError for a single voxel."""
        if input.device.type != "cpu" or input[0, 0].numel() == 1:
            return super().forward(input)
        wide = input if input.dtype == torch.float64 else input.float()
        return _ChannelsLast.apply(wide.contiguous(memory_format=torch.channels_last_3d), self.eps).to(input.dtype)


class _ChannelsLast(torch.autograd.Function):
    """Image by image through the batch norm, whose kernels know the layout; the moments are its own, as those of the kernel lose digits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        out, unused = torch.empty_like(x), x.new_empty(0)
        moments = [_moments(image) for image in x]
        for image, normalised, (mean, variance) in zip(x.split(1), out.split(1), moments, strict=True):
            torch.native_batch_norm(image, None, None, mean, variance, False, 0.0, eps, out=(normalised, unused, unused))
        ctx.save_for_backward(x, *(mean for mean, _ in moments), *((variance + eps).rsqrt() for _, variance in moments))
        ctx.eps = eps
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, *saved = ctx.saved_tensors
        means, inverse_deviations = saved[: len(x)], saved[len(x) :]
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        answers = [
            torch.ops.aten.native_batch_norm_backward(*each, None, None, None, mean, inverse, True, ctx.eps, (True, False, False))[0]
            for *each, mean, inverse in zip(gradient.split(1), x.split(1), means, inverse_deviations, strict=True)
        ]
        return answers[0] if len(answers) == 1 else torch.cat(answers), None


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of an image (C, x, y, z) that is channels last: those of interleaved parts, combined."""
    voxels, parts = image[0].numel(), 1
    while voxels % (2 * parts) == 0 and voxels // (2 * parts) >= ROWS:
        parts *= 2
    rows = image.permute(1, 2, 3, 0).reshape(voxels // parts, -1)  # neighbours side by side: no copy
    means, variances = (each.view(parts, -1) for each in torch.batch_norm_update_stats(rows, None, None, 0.0))
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


def keep_channels_last_(network: nn.Module) -> None:
    """Gives the 1x1x1 convolutions of the network, and its instance norms without parameters and running statistics, the classes above.

    Only the forward methods differ, so the modules change class in place; parameters and names stay.
    """
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and not module.affine and not module.track_running_stats:
            module.__class__ = ChannelsLastInstanceNorm
        elif type(module) is nn.Conv3d and module.kernel_size == module.stride == (1, 1, 1) and module.groups == 1 and module.padding == (0, 0, 0):
            module.__class__ = PointwiseConvolution
