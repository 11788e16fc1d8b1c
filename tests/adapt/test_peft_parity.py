"""LoRA and AdaLoRA against peft's own layers: the same weights, inputs and steps give the same numbers."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import Tensor, nn

from arena_pipeline.adapt.methods import METHODS
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.low_rank import low_rank_matrices
from arena_pipeline.settings import AdaptationSettings, MethodName

RANK, STEPS = 6, 8
SWIN = SwinUnetr(feature_size=12, out_channels=1, patch_merging="monai_1.5")  # whose rule finds the projections
INPUTS = torch.randn(STEPS, 16, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Toy(nn.Module):
    """Three layers with a fused projection each; peft adds its penalty to the output's `loss`."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(5, 15)})}) for _ in range(3))

    def forward(self, x: Tensor) -> SimpleNamespace:
        for block in self.blocks:
            q, k, v = block["attn"]["qkv"](x).chunk(3, dim=-1)
            x = x + torch.tanh(q * k) * v
        return SimpleNamespace(loss=((x - 1) ** 2).mean(), output=x)


def pair(method: MethodName, config: LoraConfig) -> tuple[nn.Module, Trainable, nn.Module]:
    """Our network and peft's with the same initial weights, in float64."""
    torch.manual_seed(0)
    ours = Toy().double().requires_grad_(False)
    theirs = get_peft_model(copy.deepcopy(ours), config)
    trainable = METHODS[method].build(ours, SWIN, AdaptationSettings(method=method, rank=RANK), torch.Generator().manual_seed(1), STEPS)
    with torch.no_grad():
        for name, matrix in low_rank_matrices(trainable.updates):
            layer = peft_layer(theirs, name)
            layer.lora_A["default"].weight.copy_(matrix.A) if method == "lora" else layer.lora_A["default"].copy_(matrix.A)
            layer.lora_B["default"].weight.copy_(matrix.B) if method == "lora" else layer.lora_B["default"].copy_(matrix.B)
    return ours, trainable, theirs


def peft_layer(network: nn.Module, matrix: str) -> nn.Module:
    return network.base_model.model.get_submodule(matrix.removesuffix(".qkv"))


def optimizer(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.05, weight_decay=0)


def test_lora() -> None:
    ours, trainable, theirs = pair("lora", LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=["qkv"]))
    steps = optimizer(trainable.own), optimizer([p for p in theirs.parameters() if p.requires_grad])
    assert trainable.parameter_count == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    for x in INPUTS:
        losses = ours(x).loss, theirs(x).loss
        torch.testing.assert_close(*losses, rtol=1e-10, atol=0)
        for step, loss in zip(steps, losses, strict=True):
            step.zero_grad()
            loss.backward()
            step.step()
    for name, matrix in low_rank_matrices(trainable.updates):
        torch.testing.assert_close(matrix.A, peft_layer(theirs, name).lora_A["default"].weight, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(matrix.B, peft_layer(theirs, name).lora_B["default"].weight, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(matrix(), peft_layer(theirs, name).get_delta_weight("default"), rtol=1e-8, atol=1e-10)


def test_adalora_with_its_allocator_and_its_penalty() -> None:
    config = AdaLoraConfig(init_r=RANK, target_r=4, total_step=STEPS, lora_dropout=0.0, target_modules=["qkv"])
    ours, trainable, theirs = pair("adalora", config)
    # a change of dtype or device makes peft's divisor `ranknum` trainable, which AdaLoRA's is not
    steps = optimizer(trainable.own), optimizer([p for name, p in theirs.named_parameters() if p.requires_grad and "ranknum" not in name])
    ranks = []
    for iteration, x in enumerate(INPUTS):
        own, reference = ours(x), theirs.base_model(x)  # theirs(x) itself goes around AdaLoraModel.forward, which adds the penalty
        torch.testing.assert_close(own.output, reference.output, rtol=1e-9, atol=1e-12)
        own.loss = own.loss + trainable.penalty()  # peft's has it already
        torch.testing.assert_close(own.loss, reference.loss, rtol=1e-10, atol=0)
        for step, loss in zip(steps, (own.loss, reference.loss), strict=True):
            step.zero_grad()
            loss.backward()
            step.step()
        trainable.after_step_(iteration, 0.05)
        theirs.base_model.update_and_allocate(iteration)
        for name, matrix in low_rank_matrices(trainable.updates):
            layer = peft_layer(theirs, name)
            torch.testing.assert_close(matrix.v, layer.lora_E["default"], rtol=1e-8, atol=1e-12)
            assert torch.equal(matrix.v == 0, layer.lora_E["default"] == 0)
            torch.testing.assert_close(matrix.A, layer.lora_A["default"], rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(matrix.B, layer.lora_B["default"], rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(matrix(), layer.get_delta_weight("default"), rtol=1e-8, atol=1e-12)
        ranks.append(sum(trainable.effective_rank().values()))
    # three layers from 6 directions to 4: 12 + 6 (1 - i / 8)^3 in iteration i, rounded down
    assert ranks == [18, 16, 14, 13, 12, 12, 12, 12]


def test_the_defaults_are_pefts() -> None:
    ours = pair("adalora", AdaLoraConfig(init_r=RANK, target_r=4, total_step=STEPS, target_modules=["qkv"]))[1]
    assert (ours.config.beta1, ours.config.beta2, ours.config.orth_reg_weight, ours.config.tinit, ours.config.tfinal) == (0.85, 0.85, 0.5, 0, 0)
    published = METHODS["adalora"].build(Toy().requires_grad_(False), SWIN, AdaptationSettings(rank=12), torch.Generator().manual_seed(1), 100)
    assert (published.config.init_r, published.config.target_r, published.config.total_step) == (12, 8, 100)
    a = torch.cat([matrix.A.flatten() for _, matrix in low_rank_matrices(published.updates)])
    assert a.std().item() == pytest.approx(0.02, rel=0.2)
