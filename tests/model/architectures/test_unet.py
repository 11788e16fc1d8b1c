"""nnU-Net's two networks at the sizes that people have, and what adapts them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from arena_pipeline.model.architectures.unet import PlainUNet, ResidualUNet, UNet
from arena_pipeline.model.low_rank import add_updates_, arena_matrices, low_rank_matrices

WIDTHS, KERNELS, STRIDES = (32, 64, 128, 256, 320, 320), ((3, 3, 3),) * 6, ((1, 1, 1), *((2, 2, 2),) * 5)
COMMON = {"out_channels": 25, "features_per_stage": WIDTHS, "kernel_sizes": KERNELS, "strides": STRIDES}
PLAIN = PlainUNet(**COMMON, blocks_per_stage=(2,) * 6, decoder_convolutions=(2,) * 5)
RESIDUAL = ResidualUNet(**COMMON, blocks_per_stage=(1, 3, 4, 6, 6, 6), decoder_convolutions=(1,) * 5)
SMALL = {"out_channels": 3, "features_per_stage": (4, 6), "kernel_sizes": ((1, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2))}


@pytest.mark.parametrize(("architecture", "parameters", "targets"), [(PLAIN, 31_194_809, 12), (RESIDUAL, 102_348_985, 57)])
def test_counts_at_full_size(architecture: UNet, parameters: int, targets: int) -> None:
    with torch.device("meta"):
        network = architecture.build()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert architecture.parameters == pytest.approx(parameters, rel=0.01)
    assert len(architecture.targets({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})) == targets
    assert architecture.patch_divisor == (32, 32, 32)


def test_rank_8_on_the_encoder_of_the_plain_network_worked_out_by_hand() -> None:
    """8 (O + 27 I + 1) for I -> O: 1 -> 32 -> 32 -> 64 -> 64 -> 128 -> 128 -> 256 -> 256 -> 320 -> 320 -> 320 -> 320."""
    widths = [1, 32, 32, 64, 64, 128, 128, 256, 256, 320, 320, 320, 320]
    with torch.device("meta"):
        network = PLAIN.build()
    found = PLAIN.targets({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    counts = [8 * (target.rows + target.columns + 1) for target in found.values()]
    assert counts == [8 * (after + 27 * before + 1) for before, after in pairwise(widths)]
    assert sum(counts) == 432_952


@pytest.mark.parametrize("family", [PlainUNet, ResidualUNet])
def test_the_output_is_unchanged_at_the_start_bit_for_bit_and_every_encoder_convolution_has_a_gate(family: type[UNet]) -> None:
    architecture = family(**SMALL, blocks_per_stage=(1, 2), decoder_convolutions=(1,))  # type: ignore[call-arg]
    network, image = architecture.build(), torch.rand(1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = network(image)
    updates = add_updates_(network, architecture, arena_matrices, 2, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(image), before)
    convolutions = [name for name, module in network.encoder.named_modules() if isinstance(module, torch.nn.Conv3d)]
    assert sorted(updates) == sorted(f"encoder.{name}" for name in convolutions)
    assert all(matrix.v is not None for _, matrix in low_rank_matrices(updates))
    assert architecture.layer_label(f"{next(iter(updates))}.kernel") in ("stage 0, convs.0", "stem, convs.0")


@pytest.mark.parametrize("architecture", [PLAIN, RESIDUAL])
def test_random_weights_are_drawn_as_nnunet_draws_them(architecture: UNet) -> None:
    """He: mean 0, variance 2 / (1 + 0.01^2) over in * kernel, and no biases. The last norm of a residual block starts at 0: the block as its skip."""
    network = architecture.model_copy(update={"features_per_stage": (16, 32, 64, 64, 64, 64)}).build()
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)):
            expected = (2 / (1 + 1e-4) / module.weight[0].numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=5 / (2 * module.weight.numel()) ** 0.5)
            assert module.bias is None or not module.bias.any()
    for name, tensor in network.state_dict().items():
        if name.endswith("norm.weight"):
            assert (tensor == (0 if ".conv2." in name else 1)).all()


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of stages"):
        PlainUNet(**SMALL, blocks_per_stage=(1, 2, 2), decoder_convolutions=(1,))
    with pytest.raises(ValueError, match="expected odd numbers"):
        PlainUNet(**SMALL | {"kernel_sizes": ((2, 3, 3), (3, 3, 3))}, blocks_per_stage=(1, 2), decoder_convolutions=(1,))
