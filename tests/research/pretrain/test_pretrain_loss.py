"""Pre-training losses, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from arena_pipeline.foundations import load_preset
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.device import to_device
from arena_pipeline.research.pretrain.loop import Pretraining, batch_loss
from arena_pipeline.research.pretrain.loss import Total, sigmoid_loss, softmax_loss, total_of_one_process
from arena_pipeline.research.pretrain.patches import Batch
from arena_pipeline.research.pretrain.settings import PretrainSettings


def test_softmax_dice_counts_only_channels_that_a_sample_contains() -> None:
    target = torch.tensor([0, 1]).reshape(1, 1, 1, 2)
    # channel 2 is nowhere: p = 1/3 each; channels 0 and 1 have one true voxel: 1 - (2/3 + 1) / (2/3 + 1 + 1)
    assert softmax_loss(torch.zeros(1, 3, 1, 1, 2), target, "none").item() == pytest.approx(1 - (2 / 3 + 1) / (2 / 3 + 2))


def test_cross_entropy_is_added() -> None:
    target = torch.tensor([0, 1]).reshape(1, 1, 1, 2)
    logits = torch.zeros(1, 3, 1, 1, 2)
    difference = softmax_loss(logits, target, "plain") - softmax_loss(logits, target, "none")
    assert difference.item() == pytest.approx(math.log(3))


def test_the_balanced_cross_entropy_weights_a_voxel_by_one_over_the_root_of_its_share() -> None:
    target = torch.tensor([0, 0, 0, 1]).reshape(1, 1, 1, 4)
    logits = torch.tensor([[0.0] * 4, [0.0, 0.0, 0.0, 2.0]]).reshape(1, 2, 1, 1, 4)
    common, rare = math.sqrt(4 / 3), 2.0
    surprise = 3 * common * math.log(2) + rare * math.log(1 + math.exp(-2))
    difference = softmax_loss(logits, target, "balanced") - softmax_loss(logits, target, "none")
    assert difference.item() == pytest.approx(surprise / (3 * common + rare))


def test_the_balance_has_a_limit() -> None:
    target = torch.zeros(1, 1, 1, 10_000, dtype=torch.long)
    target[..., 0] = 1  # 1 / sqrt(share) would be 100
    logits = torch.zeros(1, 2, 1, 1, 10_000)
    logits[:, 0, ..., 0] = 3.0
    common = 9_999 / math.sqrt(0.9999)
    surprise = common * math.log(2) + 50 * math.log(1 + math.exp(3))
    difference = softmax_loss(logits, target, "balanced") - softmax_loss(logits, target, "none")
    assert difference.item() == pytest.approx(surprise / (common + 50), rel=1e-4)


def test_a_structure_that_is_not_annotated_has_no_say() -> None:
    target = torch.zeros(1, 1, 1, 2, dtype=torch.long)
    annotated = torch.tensor([[True, False]])
    logits = torch.zeros(1, 2, 1, 1, 2, requires_grad=True)
    sigmoid_loss(logits, target, annotated, with_cross_entropy=True).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() > 0 and logits.grad[0, 1].abs().sum() == 0


def test_nothing_annotated_costs_nothing() -> None:
    loss = sigmoid_loss(
        torch.zeros(1, 2, 1, 1, 2), torch.zeros(1, 1, 1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.bool), with_cross_entropy=True
    )
    assert loss.item() == 0


def test_autocast_runs_the_network_in_half_precision_and_the_loss_in_single() -> None:
    run = Pretraining(torch.nn.Conv3d(1, 2, 1), PretrainSettings(steps=1, precision="bf16"))
    seen = []
    batch = Batch(torch.rand(1, 1, 2, 2, 2), torch.ones(1, 2, 2, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool))

    def loss(logits: torch.Tensor, batch: Batch, total: Total) -> torch.Tensor:
        seen.append((logits.dtype, bool((logits == logits.bfloat16()).all())))
        return sigmoid_loss(logits, batch.targets, batch.annotated, False, total)

    assert math.isfinite(run.step(batch, loss))
    assert seen == [(torch.float32, True)]


def test_the_whole_network_runs_under_autocast() -> None:
    torch.manual_seed(0)
    architecture = SwinUnetr(feature_size=12, window_size_voxels=(2, 2, 2), out_channels=2, patch_merging="monai_1.5")
    network = to_device(architecture.build(), torch.device("cpu"))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    shape = (128, 32, 32)  # four voxels along the first axis at the deepest level: with two, oneDNN's bfloat16 gradients have NaN on some processors
    batch = Batch(torch.rand(1, 1, *shape), torch.ones(1, *shape, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool))

    def loss(logits: torch.Tensor, batch: Batch, total: Total = total_of_one_process) -> torch.Tensor:
        return sigmoid_loss(logits, batch.targets, batch.annotated, True, total)

    with torch.no_grad():
        single = float(loss(network(batch.images), batch))
    step = Pretraining(network, PretrainSettings(steps=2, precision="bf16", warmup_steps=0)).step(batch, loss)
    assert float(step) == pytest.approx(single, rel=1e-2)
    assert all(parameter.isfinite().all() and not torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())


@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
@pytest.mark.parametrize("size", [1, 2])
def test_parts_of_a_batch_give_its_step(head: str, size: int) -> None:
    """Three patches of which not all have every structure, one by one and two by two: the gradients of all at once."""
    preset = load_preset("arena_mini").model_copy(update={"head": head})
    channels = 2 + (head == "softmax")
    images, targets = torch.rand(3, 1, 4, 4, 4, dtype=torch.float64), torch.randint(0, 3, (3, 4, 4, 4))
    targets[0] = 0
    targets[1, targets[1] == 2] = 1
    batch, found = Batch(images, targets, torch.tensor([[True, True], [True, False], [True, True]])), []
    for at_once in (3, size):
        torch.manual_seed(0)
        run = Pretraining(torch.nn.Conv3d(1, channels, 3, padding=1).double(), PretrainSettings(steps=2, loss="dice_ce", batch_size=3))
        run.micro_batch.size = at_once
        value = run.step(batch, batch_loss(preset, run.settings))
        found.append((float(value), [parameter.grad for parameter in run.network.parameters()]))
    torch.testing.assert_close(found[1], found[0])
