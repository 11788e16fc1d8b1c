"""The loop on a real, tiny network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loop import COMPLETED, CONVERGED, Adaptation, accumulate_gradients
from arena_pipeline.adapt.prepare import prepare_
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import ArenaError
from arena_pipeline.model.device import to_device
from arena_pipeline.model.low_rank import low_rank_matrices
from arena_pipeline.planning import TaskPlan
from arena_pipeline.settings import AdaptationSettings
from tests.toy import BASE, NOVEL, PRESET

PATCH = (64, 32, 32)


class Bright(SupportVolume):
    """A support volume made in memory: the structure is a bright half, on noise."""

    def __init__(self, value: float = 1.0) -> None:
        object.__setattr__(self, "value", value)

    def patches(self, size: tuple[int, int, int], settings: AdaptationSettings, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (settings.patches_per_volume, *size)
        segmentations = np.zeros(shape, np.int64)
        segmentations[:, : rng.integers(20, 44)] = 1
        images = (rng.random(shape) * 0.3 + 0.6 * segmentations) * self.value
        return torch.from_numpy(images.astype(np.float32)).unsqueeze(1), torch.from_numpy(segmentations)


def prepared(task: TaskPlan, settings: AdaptationSettings) -> tuple[nn.Module, Trainable]:
    torch.manual_seed(0)
    network = to_device(PRESET.architecture.build(), torch.device("cpu"))
    return network, prepare_(network, PRESET, task, settings, torch.Generator().manual_seed(1), 2)


def run(task: TaskPlan, settings: AdaptationSettings, seed: int = 0) -> tuple[nn.Module, Trainable, list[float]]:
    network, trainable = prepared(task, settings)
    adaptation = Adaptation(network, trainable, [Bright(), Bright()], settings, PATCH, np.random.default_rng(seed))
    adaptation.run()
    return network, trainable, [epoch.loss for epoch in adaptation.epochs]


@pytest.mark.parametrize("task", [BASE, NOVEL], ids=["base", "novel"])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_micro_batches_give_the_full_batchs_gradients(task: TaskPlan, micro_batch: int) -> None:
    settings = AdaptationSettings(patches_per_volume=3, gate_step=0.1)
    network, trainable = prepared(task, settings)
    for _, matrix in low_rank_matrices(trainable.updates):
        matrix.B.data.normal_(0, 0.1)
    images, segmentations = Bright().patches(PATCH, settings, np.random.default_rng(0))
    gradients = {}
    for size in (None, micro_batch):
        network.zero_grad()
        loss = accumulate_gradients(network, images, segmentations, size)
        gradients[size] = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}, loss
    full, parts = gradients[None], gradients[micro_batch]
    assert float(parts[1]) == pytest.approx(float(full[1]), rel=1e-5)
    assert len(full[0]) > 40
    for name, gradient in full[0].items():
        torch.testing.assert_close(parts[0][name], gradient, atol=1e-6, rtol=1e-3, msg=name)


def test_what_is_frozen_stays_and_what_is_trained_moves() -> None:
    settings = AdaptationSettings(patches_per_volume=1, max_epochs=2)
    before = {name: tensor.clone() for name, tensor in prepared(NOVEL, settings)[0].state_dict().items()}
    network, _, _ = run(NOVEL, settings)
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith(("decoder", "out.")) or ".parametrizations.weight.0." in name for name in moved)
    assert {name.split(".")[0] for name in moved} == {"swinViT", "decoder1", "decoder2", "decoder3", "decoder4", "decoder5", "out"}


def test_no_gradient_is_computed_for_frozen_weights() -> None:
    network, _ = prepared(BASE, AdaptationSettings())
    images, segmentations = Bright().patches(PATCH, AdaptationSettings(patches_per_volume=1), np.random.default_rng(0))
    accumulate_gradients(network, images, segmentations)
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(".parametrizations.weight.0." in name or name.startswith("out.") for name in with_gradient)


def test_the_loss_falls_on_a_bright_half() -> None:
    _, _, losses = run(NOVEL, AdaptationSettings(patches_per_volume=1, max_epochs=12, learning_rate=1e-2, decoder_learning_rate=3e-3))
    assert np.mean(losses[-3:]) < 0.7 * losses[0]


def test_published_gates_shrink_by_the_schedule_alone() -> None:
    settings = AdaptationSettings(patches_per_volume=1, max_epochs=2, learning_rate=0.1, l1_weight=0.5)
    start = [matrix.v.detach().clone() for _, matrix in low_rank_matrices(prepared(BASE, settings)[1].updates)]
    _, trainable, _ = run(BASE, settings)
    shrink = 0.5 * 0.1 * 2 * (1 + 0.5)  # two volumes in each of two epochs, at factors 1 and 1/2
    for (_, matrix), v in zip(low_rank_matrices(trainable.updates), start, strict=True):
        torch.testing.assert_close(matrix.v.detach(), v.sign() * (v.abs() - shrink).clamp(min=0), atol=1e-6, rtol=0)
    assert sum(trainable.effective_rank().values()) < 128


@pytest.mark.parametrize("variant", [{"gate_step": 1.0}, {"gate_optimizer": "adamw"}], ids=["gradient", "adamw"])
def test_the_named_variants_let_the_data_move_the_gates(variant: dict) -> None:
    settings = AdaptationSettings(patches_per_volume=1, max_epochs=2, learning_rate=0.01)
    published = run(BASE, settings)[1]
    moved = run(BASE, settings.model_copy(update=variant))[1]
    pairs = zip(low_rank_matrices(published.updates), low_rank_matrices(moved.updates), strict=True)
    assert any(not torch.equal(a.v, b.v) for (_, a), (_, b) in pairs)


def test_the_same_seed_gives_the_same_bits() -> None:
    settings = AdaptationSettings(patches_per_volume=1, max_epochs=2)
    first, second = run(NOVEL, settings)[1].tensors(), run(NOVEL, settings)[1].tensors()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_trained_parameters_are_counted_once() -> None:
    for optimizer in ("proximal", "adamw"):
        _, trainable = prepared(BASE, AdaptationSettings(rank=8, gate_optimizer=optimizer))
        # sum of C over the blocks of feature size 12 is 360: 4 * 8 * 360 in A and B, 128 gates, 12 + 1 in each of the softmax head's three rows
        assert trainable.parameter_count == 11_520 + 128 + 3 * 13


def test_a_flat_loss_stops_early_and_says_so() -> None:
    settings = AdaptationSettings(patches_per_volume=1, max_epochs=10, learning_rate=1e-12, stop_window=2, stop_smoothing=1)
    network, trainable = prepared(BASE, settings)
    stopped = Adaptation(network, trainable, [Bright()], settings, PATCH, np.random.default_rng(0))
    assert stopped.run() == CONVERGED and len(stopped.epochs) < 10
    full = settings.model_copy(update={"stop_window": 0, "max_epochs": 3})
    assert Adaptation(network, trainable, [Bright()], full, PATCH, np.random.default_rng(0)).run() == COMPLETED


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    settings = AdaptationSettings(patches_per_volume=1, max_epochs=1)
    network, trainable = prepared(BASE, settings)
    with pytest.raises(ArenaError, match="epoch 0: the loss is nan"):
        Adaptation(network, trainable, [Bright(float("nan"))], settings, PATCH, np.random.default_rng(0)).run()


def test_a_device_without_room_for_the_batch_gives_the_bits_of_single_patches_and_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    settings = AdaptationSettings(patches_per_volume=2, max_epochs=1)
    expected = run(NOVEL, settings.model_copy(update={"micro_batch": 1}))[1].tensors()
    network, trainable = prepared(NOVEL, settings)

    def no_room_for_two(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    network.register_forward_pre_hook(no_room_for_two)
    Adaptation(network, trainable, [Bright(), Bright()], settings, PATCH, np.random.default_rng(0)).run()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trainable.tensors().items())
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the device has no memory for 2 patches at once (CUDA out of memory. Tried to allocate 2.00 GiB): "
        "1 at a time from here on, which computes the same"
    ]


def test_no_memory_for_the_optimizers_step_is_an_error_with_what_to_do() -> None:
    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    settings = AdaptationSettings(patches_per_volume=1, max_epochs=1)
    adaptation = Adaptation(*prepared(BASE, settings), [Bright()], settings, PATCH, np.random.default_rng(0))
    adaptation.optimizer.register_step_pre_hook(no_room)
    with pytest.raises(ArenaError, match=r"memory ran out in the optimizer's step \(CUDA out of memory. Tried .*\); .* choose another -device"):
        adaptation.run()


@pytest.mark.parametrize("scaler", [{}, None], ids=["empty", "absent"])
def test_what_was_begun_without_scaled_gradients_goes_on_with_them(scaler: dict[str, float] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun in bf16 or fp32, continued on a GPU that has float16 alone."""
    settings = AdaptationSettings(patches_per_volume=1, max_epochs=1)
    begun = Adaptation(*prepared(BASE, settings), [Bright()], settings, PATCH, np.random.default_rng(0)).state_dict()
    assert begun["scaler"] == {}
    begun = {name: value for name, value in (begun | {"scaler": scaler}).items() if value is not None}
    monkeypatch.setattr("arena_pipeline.model.precision.faster_half", lambda device: "fp16")
    other = Adaptation(*prepared(BASE, settings), [Bright()], settings, PATCH, np.random.default_rng(0))
    scale = other.scaler.get_scale()
    assert other.scaler.is_enabled()
    other.load_state_dict(begun)
    assert other.scaler.get_scale() == scale
