"""The laws of W0 + B diag(v) A on rows of a projection and on the kernels of convolutions."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.model.architectures import SwinUnetr, Target
from arena_pipeline.model.low_rank import (
    LowRankUpdate,
    MatricesOf,
    add_updates_,
    arena_matrices,
    gated_matrix,
    lora_matrices,
    low_rank_matrices,
    merged_weight,
    targets_of,
)

TINY = SwinUnetr(feature_size=12, window_size_voxels=(2, 2, 2), out_channels=2, patch_merging="monai_1.5")
FULL = SwinUnetr(feature_size=48, out_channels=29, patch_merging="monai_0.9.1")


class Convolutions(SwinUnetr):
    """Of whatever network: every convolution is a target, as one block of rows."""

    def targets(self, shapes: dict) -> dict[str, Target]:
        found = [(name.removesuffix(".weight"), shape) for name, shape in shapes.items() if len(shape) == 5]
        return {name: Target(name, shape[0], torch.Size(shape[1:]).numel(), {"kernel": (0, shape[0])}, "kernel") for name, shape in found}


CONVOLUTIONS = Convolutions(**TINY.model_dump())


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return TINY.build()


def two_convolutions() -> nn.Module:
    """Laid out as in every command."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(6, 4, (1, 3, 3), stride=(1, 2, 2))).to(
        memory_format=torch.channels_last_3d
    )


def randomise_(updates: dict[str, LowRankUpdate]) -> None:
    generator = torch.Generator().manual_seed(1)
    for _, matrix in low_rank_matrices(updates):
        matrix.B.data.normal_(generator=generator)


def saved(update: LowRankUpdate) -> dict[str, torch.Tensor]:
    return {f"{block}.{part}": tensor for block, matrix in update.matrices() for part, tensor in matrix.compact().items()}


CASES = {
    "rows": (tiny_network, TINY, torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(2))),
    "kernels": (two_convolutions, CONVOLUTIONS, torch.rand(1, 2, 5, 8, 8, generator=torch.Generator().manual_seed(2))),
}


@pytest.mark.parametrize("matrices_of", [arena_matrices, lora_matrices])
@pytest.mark.parametrize("case", CASES)
def test_output_is_unchanged_at_the_start_bit_for_bit(case: str, matrices_of: MatricesOf) -> None:
    make, architecture, image = CASES[case]
    network = make()
    with torch.no_grad():
        before = network(image)
        add_updates_(network, architecture, matrices_of, rank=8)
        assert torch.equal(network(image), before)


@pytest.mark.parametrize("matrices_of", [arena_matrices, lora_matrices])
@pytest.mark.parametrize("case", CASES)
def test_the_merged_weight_is_the_updated_one_to_the_bit_and_the_frozen_one_stays(case: str, matrices_of: MatricesOf) -> None:
    make, architecture, image = CASES[case]
    network, merged = make(), make()
    updates = add_updates_(network, architecture, matrices_of, rank=4)
    randomise_(updates)
    with torch.no_grad():
        for name, update in updates.items():
            parametrized, plain = network.get_submodule(name), merged.get_submodule(name)
            assert torch.equal(parametrized.parametrizations.weight.original, plain.weight)
            plain.weight.copy_(merged_weight(plain.weight, update.target, saved(update)))
            assert torch.equal(parametrized.weight, plain.weight) and parametrized.weight.stride() == plain.weight.stride()
        assert torch.equal(merged(image), network(image))


def test_query_rows_never_move_and_key_and_value_rows_do() -> None:
    network, frozen = tiny_network(), tiny_network()
    randomise_(add_updates_(network, TINY, arena_matrices, rank=3))
    for name, target in targets_of(frozen, TINY).items():
        channels = target.columns
        moved = (network.get_submodule(name).weight - frozen.get_submodule(name).weight).detach()
        assert torch.equal(moved[:channels], torch.zeros(channels, channels))
        assert torch.linalg.matrix_rank(moved[channels : 2 * channels]) == 3
        assert torch.linalg.matrix_rank(moved[2 * channels :]) == 3


def test_update_worked_out_by_hand() -> None:
    matrix = gated_matrix(rows=2, columns=2, rank=2)
    matrix.A.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    matrix.B.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    matrix.v.data = torch.tensor([0.5, -1.0])
    assert matrix().tolist() == [[0.5, 1.0], [-3.0, -4.0]]


def test_a_kernel_worked_out_by_hand() -> None:
    """(O, I, 1, 1, 2) = (2, 2, 1, 1, 2) is a matrix of 2 rows and 4 columns: input channel before place."""
    matrix = gated_matrix(rows=2, columns=4, rank=1)
    matrix.A.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    matrix.B.data = torch.tensor([[10.0], [1.0]])
    matrix.v.data = torch.tensor([-1.0])
    update = LowRankUpdate(Target("layer", 2, 4, {"kernel": (0, 2)}, "kernel"), {"kernel": matrix})
    kernel = update(torch.zeros(2, 2, 1, 1, 2))
    assert kernel[0].flatten(1).tolist() == [[-10, -20], [-30, -40]] and kernel[1].flatten(1).tolist() == [[-1, -2], [-3, -4]]


def test_initial_values_follow_the_method() -> None:
    matrix = gated_matrix(rows=48, columns=48, rank=512, generator=torch.Generator().manual_seed(0))
    bound = 1 / 48**0.5  # Kaiming-uniform with a = sqrt 5 reduces to 1 / sqrt(fan-in)
    assert matrix.A.abs().max() <= bound and matrix.A.abs().max() > 0.99 * bound
    assert torch.count_nonzero(matrix.B) == 0
    assert matrix.v.min() >= -1 and matrix.v.max() <= 1 and matrix.v.max() - matrix.v.min() > 1.9


def test_parameter_counts_at_full_size() -> None:
    network = FULL.build()
    targets = targets_of(network, FULL)
    matrices = [matrix for _, matrix in low_rank_matrices(add_updates_(network, FULL, arena_matrices, rank=8))]
    assert len(targets) == 8
    assert sum(target.columns for target in targets.values()) == 1440
    assert sum(m.A.numel() + m.B.numel() for m in matrices) == 46_080
    assert sum(m.v.numel() for m in matrices) == 128


def test_parameter_counts_of_kernels() -> None:
    """A is r x (I k^3) and B is O x r: 8 (54 + 6) and 8 (54 + 4), with 8 gates each."""
    updates = add_updates_(two_convolutions(), CONVOLUTIONS, arena_matrices, rank=8)
    counts = [sum(parameter.numel() for parameter in matrix.parameters()) for _, matrix in low_rank_matrices(updates)]
    assert counts == [8 * (2 * 27 + 6) + 8, 8 * (6 * 9 + 4) + 8]


@pytest.mark.parametrize("steps", [0, 3])
def test_kernels_are_pefts(steps: int) -> None:
    """peft's Conv3d LoRA is a convolution by A as r kernels, then one of 1x1x1 by B: the same matrix, and the same under training."""
    ours, image = two_convolutions().double(), CASES["kernels"][2].double()
    theirs = get_peft_model(two_convolutions().double(), LoraConfig(r=3, lora_alpha=3, lora_dropout=0.0, target_modules=["0", "2"]))
    updates = add_updates_(ours, CONVOLUTIONS, lora_matrices, rank=3)
    randomise_(updates)
    layers = {name: theirs.base_model.model.get_submodule(name) for name in updates}
    pairs = [(matrix, layers[name.removesuffix(".kernel")]) for name, matrix in low_rank_matrices(updates)]
    with torch.no_grad():
        for matrix, layer in pairs:
            layer.lora_A["default"].weight.copy_(matrix.A.reshape(layer.lora_A["default"].weight.shape))
            layer.lora_B["default"].weight.copy_(matrix.B.reshape(layer.lora_B["default"].weight.shape))
    trained = [p for matrix, _ in pairs for p in (matrix.A, matrix.B)]
    optimizers = torch.optim.SGD(trained, lr=0.1), torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            network(image).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-10, atol=1e-12)
    for matrix, layer in pairs:
        torch.testing.assert_close(matrix.A, layer.lora_A["default"].weight.flatten(1), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(matrix().reshape(layer.weight.shape), layer.get_delta_weight("default"), rtol=1e-9, atol=1e-12)


def test_compacting_drops_zero_entries_and_keeps_the_product() -> None:
    matrix = gated_matrix(rows=7, columns=12, rank=5)
    matrix.B.data.normal_()
    matrix.v.data[[1, 3]] = 0
    compact = matrix.compact()
    assert compact["A"].shape == (3, 12) and compact["B"].shape == (7, 3) and compact["v"].shape == (3,)
    torch.testing.assert_close(compact["B"] * compact["v"] @ compact["A"], matrix().detach())
    assert matrix.effective_rank == 3


@pytest.mark.parametrize("case", CASES)
def test_rank_zero_update_merges_to_the_frozen_weight(case: str) -> None:
    make, architecture, _ = CASES[case]
    network = make()
    frozen = {name: network.get_submodule(name).weight.detach().clone() for name in targets_of(network, architecture)}
    for name, update in add_updates_(network, architecture, arena_matrices, rank=2).items():
        for _, matrix in update.matrices():
            matrix.v.data.zero_()
        empty = saved(update)
        assert all(tensor.numel() == 0 for tensor in empty.values())
        assert torch.equal(merged_weight(frozen[name], update.target, empty), frozen[name])


def test_an_update_of_all_rows_merges_without_v_as_with_ones() -> None:
    weight, a, b = torch.zeros(6, 2), torch.tensor([[1.0, 2.0]]), torch.arange(6.0).reshape(6, 1)
    target = TINY.targets({"attn.qkv.weight": (6, 2), "block.attn.qkv.weight": (6, 2)})["block.attn.qkv"]
    merged = merged_weight(weight, target, {"qkv.A": a, "qkv.B": b})
    assert merged.tolist() == [[0, 0], [1, 2], [2, 4], [3, 6], [4, 8], [5, 10]]
    assert torch.equal(merged_weight(weight, target, {"qkv.A": a, "qkv.B": b, "qkv.v": torch.ones(1)}), merged)
    with pytest.raises(KeyError, match="query"):
        merged_weight(weight, target, {"query.A": a, "query.B": b})


def test_a_network_without_targets_is_refused() -> None:
    with pytest.raises(NoTargetLayers, match="attn.qkv"):
        add_updates_(nn.Conv3d(1, 1, 1), TINY, arena_matrices, rank=2)
