"""Instance norms and 1x1x1 convolutions of the network: PyTorch's numbers, channels last."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from arena_pipeline.model.architectures.channels_last import ChannelsLastInstanceNorm, PointwiseConvolution, image_by_image, keep_channels_last_

CHANNELS_LAST = torch.channels_last_3d
SHAPES = [(1, 3, 4, 6, 2), (2, 12, 32, 32, 32), (3, 5, 7, 5, 3), (1, 96, 2, 2, 2)]


def output_and_gradient(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    out = layer(x)
    return out.detach(), torch.autograd.grad(out, x, gradient)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("gradient_layout", [torch.contiguous_format, CHANNELS_LAST])
def test_the_norm_is_pytorchs(shape: tuple[int, ...], layout: torch.memory_format, gradient_layout: torch.memory_format) -> None:
    """Also far from zero, where sums in single precision lose digits; the truth is PyTorch's in double precision, channels first."""
    torch.manual_seed(0)
    x = (100 * torch.randn(shape) + 300).to(memory_format=layout)
    gradient = torch.randn(shape) + 0.3 + 0.01 * x
    wanted, wanted_gradient = output_and_gradient(nn.InstanceNorm3d(shape[1]), x.double().contiguous(), gradient.double().contiguous())
    found, found_gradient = output_and_gradient(ChannelsLastInstanceNorm(shape[1]), x, gradient.to(memory_format=gradient_layout))
    assert found.is_contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5)
    torch.testing.assert_close(found_gradient.double(), wanted_gradient, rtol=0, atol=2e-5 * float(wanted_gradient.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_norms_gradient_in_double_precision(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, gradient = torch.randn(2, *shape, dtype=torch.float64)
    wanted = output_and_gradient(nn.InstanceNorm3d(shape[1]), x, gradient)
    found = output_and_gradient(ChannelsLastInstanceNorm(shape[1]), x.to(memory_format=CHANNELS_LAST), gradient)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_norm_with_weights_and_biases(frozen: bool) -> None:
    torch.manual_seed(0)
    wanted = nn.InstanceNorm3d(5, affine=True, dtype=torch.float64).requires_grad_(not frozen)
    nn.init.normal_(wanted.weight), nn.init.normal_(wanted.bias)
    found = copy.deepcopy(wanted)
    keep_channels_last_(found)
    x, gradient = torch.randn(2, 3, 5, 4, 6, 2, dtype=torch.float64)
    torch.testing.assert_close(output_and_gradient(found, x, gradient), output_and_gradient(wanted, x, gradient))
    for norm in () if frozen else (found, wanted):
        norm(x).backward(gradient)
    torch.testing.assert_close([p.grad for p in found.parameters()], [p.grad for p in wanted.parameters()])


@pytest.mark.parametrize("affine", [True, False])
def test_the_gpus_way_to_the_norm(affine: bool) -> None:
    """Its kernels are the GPU's, but what is asked of them is the same here."""
    torch.manual_seed(0)
    norm, x = nn.InstanceNorm3d(4, affine=affine), torch.randn(3, 4, 6, 5, 4)
    found = image_by_image(x, norm.weight, norm.bias, norm.eps)
    assert found.is_contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(found, norm(x), rtol=0, atol=1e-5)
    half = image_by_image(x.bfloat16(), norm.weight, norm.bias, norm.eps)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), found, rtol=0, atol=0.05)


def test_long_sums_keep_their_digits() -> None:
    """PyTorch's own batch norm is off by 1e-3 here."""
    torch.manual_seed(0)
    x = (100 * torch.randn(1, 4, 96, 96, 96) + 300).to(memory_format=CHANNELS_LAST)
    wanted = nn.InstanceNorm3d(4)(x.double())
    assert float((nn.BatchNorm3d(4, affine=False, track_running_stats=False)(x) - wanted).abs().max()) > 1e-4
    torch.testing.assert_close(ChannelsLastInstanceNorm(4)(x).double(), wanted, rtol=0, atol=1e-5)


def test_a_single_voxel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        ChannelsLastInstanceNorm(4)(torch.randn(2, 4, 1, 1, 1))


def test_half_precision_is_computed_in_single() -> None:
    x = torch.randn(2, 4, 8, 8, 8).bfloat16().to(memory_format=CHANNELS_LAST)
    found = ChannelsLastInstanceNorm(4)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, nn.InstanceNorm3d(4)(x.float()).bfloat16())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST])
def test_the_pointwise_convolution_is_pytorchs(bias: bool, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    wanted = nn.Conv3d(5, 3, 1, bias=bias).double()
    found = copy.deepcopy(wanted).to(memory_format=layout)
    keep_channels_last_(found)
    assert type(found) is PointwiseConvolution
    x, gradient = torch.randn(2, 5, 4, 6, 2, dtype=torch.float64), torch.randn(2, 3, 4, 6, 2, dtype=torch.float64)
    assert found(x.to(memory_format=CHANNELS_LAST)).is_contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(output_and_gradient(found, x.to(memory_format=layout), gradient), output_and_gradient(wanted, x, gradient))
    for network in (found, wanted):
        network(x).backward(gradient)
    torch.testing.assert_close([p.grad for p in found.parameters()], [p.grad for p in wanted.parameters()])


def test_other_layers_are_left_to_pytorch() -> None:
    x = torch.randn(2, 4, 8, 8, 8)
    network = nn.Sequential(
        nn.InstanceNorm3d(4),
        nn.InstanceNorm3d(4, track_running_stats=True),
        nn.Conv3d(4, 4, 1, padding=1),
        nn.Conv3d(4, 4, 1, stride=2),
        nn.Conv3d(4, 4, 1, groups=2),
    )
    before = copy.deepcopy(network)
    keep_channels_last_(network)
    assert [type(module) for module in network] == [ChannelsLastInstanceNorm, nn.InstanceNorm3d, nn.Conv3d, nn.Conv3d, nn.Conv3d]
    torch.testing.assert_close(network(x), before(x), rtol=0, atol=1e-5)
