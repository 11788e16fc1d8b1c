"""Layers of the network that keep channels last; PyTorch's return channels first here, and every layer after them copies again.

On the CPU PyTorch's instance norm is also wrong in one case (seen with 2.13): its gradient for a single image, where the
gradient that comes in is channels last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, linear

from arena_pipeline.model.architectures.faster_layers import gives_the_same
from arena_pipeline.model.autocast import without_autocast

ROWS = 1024  # of a sum in single precision, which loses digits as it grows: longer ones are split


class PointwiseConvolution(nn.Conv3d):
    """A 1x1x1 convolution, on the CPU as one matrix product over the voxels."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, C in, x, y, z) -> (batch, C out, x, y, z)."""
        if input.device.type != "cpu":
            return super().forward(input)
        return linear(input.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class HeadConvolution(PointwiseConvolution):
    """The one that gives the logits: under autocast too it computes in its weights' own precision."""

    def forward(self, input: Tensor) -> Tensor:
        with without_autocast(input.device):
            return super().forward(input.to(self.weight.dtype))


class ChannelsLastInstanceNorm(nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d without running statistics, whose answer is channels last."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, C, x, y, z) -> the same, each channel of each image with mean 0 and variance 1; ValueError for a single voxel."""
        if input.device.type not in ("cpu", "cuda") or input[0, 0].numel() == 1:
            return super().forward(input)
        if input.device.type == "cuda":
            return image_by_image(input, self.weight, self.bias, self.eps)
        wide = input if input.dtype == torch.float64 else input.float()
        return _ChannelsLast.apply(wide.contiguous(memory_format=torch.channels_last_3d), self.weight, self.bias, self.eps).to(input.dtype)


def image_by_image(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """The norm of instances by the batch norm of each image alone, whose kernels on a GPU know the layout and sum in float32 (Welford)."""
    images = x.contiguous(memory_format=torch.channels_last_3d).split(1)
    parts = [batch_norm(image, None, None, weight, bias, training=True, momentum=0.0, eps=eps) for image in images]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _ChannelsLast(torch.autograd.Function):
    """Image by image through the kernels of the batch norm, which know the layout.

    The sums over the voxels are taken over many interleaved parts of an image and then added up: as single sums those
    kernels lose digits, and share cache lines between threads.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        out = torch.empty_like(x)
        moments = [_moments(image) for image in x]
        for image, normalised, (mean, variance) in zip(x.split(1), out.split(1), moments, strict=True):
            _normalise(image, mean, variance, weight, bias, eps, normalised)
        ctx.save_for_backward(x, weight, *(torch.stack(each) for each in zip(*moments, strict=True)))
        ctx.eps = eps
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        """For the image the gradient less its mean and less the part along the normalised image, times weight over deviation."""
        x, weight, means, variances = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        out, sums = torch.empty_like(x), []
        for image, incoming, outgoing, mean, variance in zip(x.split(1), gradient.split(1), out.split(1), means, variances, strict=True):
            inverse = (variance + ctx.eps).rsqrt()
            along, total = _sums(image[0], incoming[0], mean, inverse)
            sums.append((along, total))
            voxels, factor = image[0, 0].numel(), inverse if weight is None else inverse * weight
            _normalise(image, mean, variance, -factor * along / voxels, -factor * total / voxels, ctx.eps, outgoing)
            rows, parts = _rows(outgoing[0])
            rows.addcmul_(_rows(incoming[0])[0], factor.repeat(parts))
        if weight is None:
            return out, None, None, None
        of_weight, of_bias = (torch.stack(each).sum(0) for each in zip(*sums, strict=True))
        return out, of_weight, of_bias, None


def _normalise(image: Tensor, mean: Tensor, variance: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, out: Tensor) -> None:
    unused = image.new_empty(0)
    torch.native_batch_norm(image, scale, shift, mean, variance, False, 0.0, eps, out=(out, unused, unused))


def _rows(image: Tensor) -> tuple[Tensor, int]:
    """An image (C, x, y, z) that is channels last as rows of so many neighbouring voxels (rows, voxels * C), and how many; no copy."""
    voxels, parts = image[0].numel(), 1
    while voxels % (2 * parts) == 0 and voxels // (2 * parts) >= ROWS:
        parts *= 2
    return image.permute(1, 2, 3, 0).reshape(voxels // parts, -1), parts


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of an image (C, x, y, z)."""
    rows, parts = _rows(image)
    means, variances = (each.view(parts, -1) for each in torch.batch_norm_update_stats(rows, None, None, 0.0))
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


def _sums(image: Tensor, gradient: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (C,) over the voxels of the gradient times the normalised image, and of the gradient."""
    rows, parts = _rows(image)
    unit, moments = rows.new_ones(rows.shape[1]), (mean.repeat(parts), inverse.repeat(parts))
    sums = torch.ops.aten.native_batch_norm_backward(_rows(gradient)[0], rows, unit, None, None, *moments, True, 0.0, (False, True, True))[1:]
    return tuple(each.view(parts, -1).sum(0) for each in sums)


def keep_channels_last_(network: nn.Module) -> None:
    """Gives the 1x1x1 convolutions of the network, and its instance norms without running statistics, the classes above.

    Only the forward methods differ, so the modules change class in place; parameters and names stay.
    """
    norms = gives_the_same("instance norm", _difference)
    for module in network.modules():
        if norms and type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__ = ChannelsLastInstanceNorm
        elif type(module) is nn.Conv3d and module.kernel_size == module.stride == (1, 1, 1) and module.groups == 1 and module.padding == (0, 0, 0):
            module.__class__ = PointwiseConvolution


def _difference() -> float:
    """The largest between torch's instance norm and ours, of the answers and of the gradients, for two images, with and without parameters."""
    image, weights, found = torch.rand(2, 3, 2, 3, 4), torch.rand(2, 3, 2, 3, 4), []
    for kind in (nn.InstanceNorm3d, ChannelsLastInstanceNorm):
        x, norms = image.clone().requires_grad_(), (kind(3, affine=True), kind(3))
        nn.init.constant_(norms[0].weight, 2)
        answers = [norm(x) for norm in norms]
        sum((answer * weights).sum() for answer in answers).backward()
        found.append(torch.stack((*answers, torch.full_like(x, torch.nan) if x.grad is None else x.grad)).detach())
    return float((found[0] - found[1]).abs().max())
