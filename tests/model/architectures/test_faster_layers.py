"""A torch or a MONAI whose inner parts are others: their own layers stay, said aloud, and compute what they did."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import WindowAttention
from torch import nn

from arena_pipeline.model.architectures import SwinUnetr, channels_last, swin_attention
from arena_pipeline.model.architectures.faster_layers import gives_the_same

TINY = SwinUnetr(feature_size=12, window_size_voxels=(2, 2, 2), out_channels=1, patch_merging="monai_1.5")


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    gives_the_same.cache_clear()
    yield
    gives_the_same.cache_clear()  # the tests that come after this one in the process must not inherit what it broke
    swin_attention.shift_masks.cache_clear()


def test_both_fit_the_installed_versions(caplog: pytest.LogCaptureFixture) -> None:
    state = torch.random.get_rng_state()
    assert gives_the_same("attention", swin_attention._difference) and gives_the_same("norm", channels_last._difference)
    assert torch.equal(state, torch.random.get_rng_state()), "trying must not take numbers that weights are drawn from"
    assert not caplog.records


def test_others_are_left_alone_and_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def changed(*_: object) -> None:
        raise TypeError("compute_mask() takes 2 positional arguments")

    monkeypatch.setattr(swin_attention, "compute_mask", changed)
    monkeypatch.setattr(channels_last, "_normalise", lambda image, mean, variance, scale, shift, eps, out: out.copy_(image))
    swin_attention.shift_masks.cache_clear()
    network = TINY.build()
    attention, norm = [record.getMessage() for record in caplog.records]
    assert "fast window attention" in attention and "TypeError: compute_mask() takes 2" in attention
    assert "fast instance norm" in norm and "differ by" in norm
    kinds = {type(module) for module in network.modules()}
    assert WindowAttention in kinds and nn.InstanceNorm3d in kinds and swin_attention.FastWindowAttention not in kinds
    reference = SwinUNETR(in_channels=1, out_channels=1, feature_size=12, window_size=2, use_v2=False).eval()
    reference.load_state_dict(network.state_dict())
    image = torch.rand(1, 1, 32, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image), reference(image), atol=1e-5, rtol=1e-5)
