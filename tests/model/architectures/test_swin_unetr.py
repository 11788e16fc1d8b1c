"""The network computes what MONAI's does, and what the published checkpoints were trained with."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import BasicLayer, PatchMerging, PatchMergingV2, WindowAttention
from torch import nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.architectures.channels_last import PointwiseConvolution
from arena_pipeline.model.architectures.swin_attention import shift_masks
from arena_pipeline.model.architectures.swin_patch_merging import OrderedPatchMerging
from arena_pipeline.model.device import to_device


def monai_network(window: int = 4, feature_size: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return SwinUNETR(in_channels=1, out_channels=3, feature_size=feature_size, window_size=window, use_v2=False).eval()


def architecture(patch_merging: str, window: int = 4) -> SwinUnetr:
    return SwinUnetr(feature_size=12, window_size_voxels=(window,) * 3, out_channels=3, patch_merging=patch_merging)


@pytest.mark.parametrize(("window", "shape"), [(4, (2, 1, 64, 32, 32)), (7, (1, 1, 64, 64, 32)), (2, (1, 1, 32, 32, 64))])
def test_logits_and_gradients_are_monais(window: int, shape: tuple[int, ...]) -> None:
    """Ours is channels last as in every command, MONAI's channels first. Gradients in double precision: single keeps two digits of them."""
    reference = monai_network(window)
    network = to_device(architecture("monai_1.5", window).build(), torch.device("cpu"))
    network.load_state_dict(reference.state_dict())
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(image), reference(image), atol=1e-5, rtol=1e-5)
    for each in (network, reference):
        each.double()(image.double()).square().mean().backward()
    assert len(list(network.parameters())) == len(list(reference.parameters())) > 100
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad, rtol=1e-6, atol=1e-10, msg=name)


def test_every_layer_that_has_a_faster_class_has_it() -> None:
    """A MONAI of other classes would be slower without a word."""
    slow = (WindowAttention, BasicLayer, nn.InstanceNorm3d)
    network = architecture("monai_1.5").build()
    assert not [name for name, module in network.named_modules() if type(module) in slow]
    pointwise = [module for module in network.modules() if isinstance(module, nn.Conv3d) and module.kernel_size == (1, 1, 1)]
    assert len(pointwise) > 3 and all(isinstance(module, PointwiseConvolution) for module in pointwise)


def test_shift_masks_are_made_once_per_shape() -> None:
    network, image = architecture("monai_1.5", 2).build(), torch.rand((1, 1, 64, 32, 32))
    shift_masks.cache_clear()
    with torch.no_grad():
        network(image)
        made = shift_masks.cache_info().misses
        network(image)
    assert made > 0 and shift_masks.cache_info().misses == made


def test_a_prediction_leaves_nothing_that_keeps_from_adapting() -> None:
    """The shift masks are kept from call to call: made in inference mode, they could not be saved for a backward pass."""
    shift_masks.cache_clear()
    network = architecture("monai_1.5", 2).build()
    image = torch.rand((1, 1, 64, 32, 32))
    with torch.inference_mode():
        network(image)
    network(image).mean().backward()
    assert network.get_parameter("swinViT.layers1.0.blocks.1.attn.qkv.weight").grad is not None


class StraightforwardOldMerging(nn.Module):
    """MONAI <= 0.9.1's layer written out, from its description in the checkpoints' documentation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(8 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        d0, d1 = x[:, 0::2], x[:, 1::2]
        parts = [d0[:, :, 0::2, 0::2], d1[:, :, 0::2, 0::2], d0[:, :, 1::2, 0::2], d0[:, :, 0::2, 1::2]]
        parts += [d1[:, :, 0::2, 1::2], d0[:, :, 1::2, 0::2], d0[:, :, 0::2, 1::2], d1[:, :, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(parts, -1)))


def test_published_merging_is_the_old_order_exactly() -> None:
    old, ours = StraightforwardOldMerging(12), OrderedPatchMerging("monai_0.9.1", 12)
    ours.load_state_dict(old.state_dict())
    tokens = torch.randn(2, 8, 6, 4, 12)
    assert torch.equal(ours(tokens), old(tokens))


def test_current_merging_is_monais_on_odd_grids_too() -> None:
    monai, ours = PatchMerging(12), OrderedPatchMerging("monai_1.5", 12)
    ours.load_state_dict(monai.state_dict())
    tokens = torch.randn(1, 5, 6, 7, 12)
    assert torch.equal(ours(tokens), monai(tokens))


def test_a_monai_whose_merging_has_other_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        PatchMergingV2, "__init__", lambda self, dim, *_, **__: nn.Module.__init__(self) or setattr(self, "proj", nn.Linear(dim, dim))
    )
    with pytest.raises(FoundationError, match=r"the patch merging of the installed MONAI .* has other weights .*proj.weight.*; install MONAI 1.5"):
        architecture("monai_0.9.1").build()


def test_the_two_orders_load_the_same_weights_and_differ() -> None:
    published, current = architecture("monai_0.9.1").build(), architecture("monai_1.5").build()
    current.load_state_dict(published.state_dict(), strict=True)
    image = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        assert (published(image) - current(image)).abs().max() > 1e-3


def test_head_takes_the_tasks_channels() -> None:
    assert architecture("monai_1.5").build(out_channels=1).get_submodule(architecture("monai_1.5").head).out_channels == 1


def test_the_front_sees_nothing_that_an_adapter_changes() -> None:
    """Its outputs are the same with other updates, another decoder and another head; the next module's are not."""
    architecture_of = architecture("monai_1.5", 2)
    network, image = architecture_of.build(), torch.rand((1, 1, 64, 32, 32))
    seen: dict[str, list[torch.Tensor]] = {}
    for name in (*architecture_of.front, "swinViT.layers1.0"):
        network.get_submodule(name).register_forward_hook(lambda *call, name=name: seen.setdefault(name, []).append(call[-1]))
    with torch.no_grad():
        network(image)
        for name, parameter in network.named_parameters():
            changed = name.startswith((*architecture_of.decoder, architecture_of.head))
            if changed or name.removesuffix(".weight") in architecture_of.targets({name: tuple(parameter.shape)}):
                parameter.add_(0.1)
        network(image)
    assert all(torch.equal(*seen[name]) for name in architecture_of.front)
    assert not torch.equal(*seen["swinViT.layers1.0"])


def test_every_parameter_belongs_to_one_part() -> None:
    found = architecture("monai_1.5")
    names = [name for name, _ in found.build().named_parameters()]
    parts = {part: [name for name in names if found.part_of(name) == part] for part in ("encoder", "decoder", "head")}
    assert len(parts["head"]) == 2 and len(parts["decoder"]) == 5 * 4 and sum(map(len, parts.values())) == len(names)
    assert set(found.biases(names)) <= set(parts["encoder"]) and len(found.biases(names)) == 8 * 4
    assert len(found.norms(names)) == 2 * (8 * 2 + 4)
