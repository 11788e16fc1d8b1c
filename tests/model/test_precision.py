"""What a network that computes in 16 bits keeps in single precision, and how near it stays to one that computes in that."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, conv_transpose3d, cosine_similarity, linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loop import Adaptation, accumulate_gradients
from arena_pipeline.adapt.prepare import prepare_
from arena_pipeline.foundations import load_preset, weights_file
from arena_pipeline.model import precision as module
from arena_pipeline.model.architectures.unet import PlainUNet
from arena_pipeline.model.device import to_device
from arena_pipeline.model.low_rank import add_updates_, arena_matrices, low_rank_matrices
from arena_pipeline.model.precision import Precision
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation
from arena_pipeline.research.phantoms.phantom import make_phantom
from arena_pipeline.settings import AdaptationSettings
from tests.toy import BASE

CPU, PRESET = torch.device("cpu"), load_preset("arena_mini")
WEIGHTS = weights_file(PRESET, Path("nowhere"))
LIVER = BASE.model_copy(update={"structures": {"liver": 1}})


SIZE = (64, 32, 32)
SMALL = PlainUNet(
    out_channels=3,
    features_per_stage=(4, 6),
    kernel_sizes=((3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (2, 2, 2)),
    blocks_per_stage=(2, 2),
    decoder_convolutions=(1,),
)


class Bfloat16(TorchFunctionMode):
    """The numbers of bfloat16 at the speed of float32; processors without instructions for it take 50 times as long.

    What autocast computes in 16 bits takes its inputs, and gives its outputs and gradients, rounded to them; sums are float32 as there. The head is
    rounded too, which autocast is kept from here.
    """

    ROUNDED = frozenset((conv3d, torch.conv3d, conv_transpose3d, torch.conv_transpose3d, linear, scaled_dot_product_attention))

    def __torch_function__(self, function: object, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None) -> object:
        call, named = function, kwargs or {}
        if function not in self.ROUNDED:
            return call(*args, **named)  # type: ignore[operator]
        answer = call(*map(rounded, args), **{name: rounded(value) for name, value in named.items()})  # type: ignore[operator]
        return rounded(answer)


def rounded(value: object) -> object:
    return value.bfloat16().float() if isinstance(value, Tensor) else value


@cache
def liver_window() -> tuple[Tensor, Tensor]:
    """A window of a phantom around its liver, (1, 1, x, y, z), and the liver in it."""
    phantom = make_phantom(np.random.default_rng(1), PRESET.scheme.spacing_xyz_mm)
    volume, grid = preprocess_image(phantom.image, PRESET.scheme)
    liver = preprocess_segmentation(phantom.segmentation, grid) == phantom.structures["liver"]
    corner = [int(min(max(c - s / 2, 0), n - s)) for c, s, n in zip(np.argwhere(liver).mean(0), SIZE, volume.shape, strict=True)]
    box = tuple(slice(first, first + s) for first, s in zip(corner, SIZE, strict=True))
    return torch.from_numpy(volume[box].copy())[None, None], torch.from_numpy(liver[box].astype(np.uint8))[None]


class Liver(SupportVolume):
    def __init__(self) -> None:
        pass

    def patches(self, size: tuple[int, int, int], settings: AdaptationSettings, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return liver_window()


def adaptation(**changes: float | str) -> Adaptation:
    settings = AdaptationSettings(patches_per_volume=1, **changes)  # type: ignore[arg-type]
    network = to_device(load_foundation_network(PRESET, WEIGHTS), CPU)
    trainable = prepare_(network, PRESET, LIVER, settings, torch.Generator().manual_seed(1), 1)
    for _, matrix in low_rank_matrices(trainable.updates):
        matrix.B.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(2))
    return Adaptation(network, trainable, [Liver()], settings, SIZE, np.random.default_rng(0))


def gradients(network: nn.Module, precision: Precision) -> Tensor:
    images, segmentations = liver_window()
    accumulate_gradients(network, images[..., :16, :16, :16], segmentations[..., :16, :16, :16], precision=precision)
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def test_which_precision_a_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Precision.of(name, CPU).name for name in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    for half in ("bf16", "fp16"):
        monkeypatch.setattr(module, "faster_half", lambda device, half=half: half)
        assert [Precision.of(name, CPU).name for name in ("auto", "fp32", "bf16")] == [half, "fp32", half]
        assert Precision.of("auto", CPU).scaler.is_enabled() == (half == "fp16")


def test_bf16_on_a_cpu_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    module._warn_of_bf16_on_cpu.cache_clear()
    for name in ("auto", "fp32", "bf16", "bf16"):
        Precision.of(name, CPU)
    (message,) = caplog.messages
    assert "-precision fp32" in message


def test_updates_and_logits_stay_in_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    network, image = SMALL.build(), torch.rand(2, 1, 8, 8, 8)
    layer, update = next(iter(add_updates_(network, SMALL, arena_matrices, 2, torch.Generator().manual_seed(0)).items()))
    for _, matrix in update.matrices():
        matrix.B.data.fill_(1e-3)
    changed, seen = network.get_submodule(layer).weight, list[torch.dtype]()
    network.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    with Precision(CPU, torch.bfloat16).autocast(), torch.no_grad():
        assert torch.equal(network.get_submodule(layer).weight, changed)
        assert network(image).dtype == torch.float32 and seen == [torch.bfloat16]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_gradients_under_autocast(half: torch.dtype) -> None:
    """Of a network with random weights; those of float16 come scaled, and back at their size from the scaler."""
    found = []
    for precision in (Precision(CPU), Precision(CPU, half)):
        torch.manual_seed(0)
        network = SMALL.build(out_channels=1)
        found.append(gradients(network, precision) / precision.scaler.get_scale())
    assert float(cosine_similarity(*found, dim=0)) >= 0.99
    assert float(found[1].norm() / found[0].norm()) == pytest.approx(1, abs=0.05)


def test_a_steps_gradients_with_the_packaged_weights() -> None:
    found = []
    for numbers in (nullcontext(), Bfloat16()):
        ready = adaptation()
        with numbers:
            accumulate_gradients(ready.network, *liver_window())
        found.append(torch.cat([parameter.grad.flatten() for parameter in ready.network.parameters() if parameter.grad is not None]))
    assert float(cosine_similarity(*found, dim=0)) >= 0.999


def test_an_adaptation_ends_with_the_same_ranks() -> None:
    """The gates move by their gradients here, and a third of them falls to zero."""
    ranks = []
    for numbers in (nullcontext(), Bfloat16()):
        with numbers:
            fold = adaptation(max_epochs=3, gate_step=1.0, l1_weight=100.0)
            fold.run()
            ranks.append(fold.epochs[-1].effective_rank)
    assert ranks[0] == ranks[1] and 0 < sum(ranks[0].values()) < 0.8 * 8 * len(ranks[0])


@pytest.mark.parametrize("gates", [{"gate_step": 1.0}, {"gate_optimizer": "adamw"}], ids=["gradient", "adamw"])
def test_a_step_that_overflows_is_left_out(gates: dict[str, float | str], monkeypatch: pytest.MonkeyPatch) -> None:
    """float16, as an older GPU has it: AdamW stands still, the gates see no gradient, and the scale falls for the next step."""
    monkeypatch.setattr(module, "faster_half", lambda device: "fp16")
    ready = adaptation(l1_weight=0.0, **gates)
    before = {name: tensor.clone() for name, tensor in ready.trainable.named_tensors()}
    ready.network.forward = lambda image: sum(p.sum() for p in ready.network.parameters()) * image * float("inf")  # type: ignore[method-assign]
    scale = ready.scaler.get_scale()
    ready._iterate(liver_window())
    ready.trainable.after_step_(0, 1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ready.trainable.named_tensors())
    assert ready.scaler.get_scale() < scale and ready.state_dict()["scaler"]["scale"] == ready.scaler.get_scale()


def test_voxels_of_another_label() -> None:
    """Of a window full of 14 structures, whose borders are a good part of it; a whole scan has fewer."""
    network, found = load_foundation_network(PRESET, WEIGHTS), []
    for numbers in (nullcontext(), Bfloat16()):
        with torch.no_grad(), numbers:
            found.append(network(liver_window()[0]).argmax(1))
    assert len(found[0].unique()) > 8 and float((found[0] != found[1]).double().mean()) <= 2.5e-3
