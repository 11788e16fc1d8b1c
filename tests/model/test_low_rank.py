"""The laws of W0 + B diag(v) A on the key and value rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from arena_pipeline.errors import NoTargetLayers
from arena_pipeline.foundations import Architecture
from arena_pipeline.model.low_rank import (
    UpdateOf,
    add_updates_,
    arena_update,
    gated_matrix,
    lora_update,
    low_rank_matrices,
    merge_,
    merged_weight,
    target_layers,
    unmerge_,
)
from arena_pipeline.model.network import build_network

TINY = Architecture(feature_size=12, window_size_voxels=(2, 2, 2), out_channels=2, patch_merging="monai_1.5")
FULL = Architecture(feature_size=48, out_channels=29, patch_merging="monai_0.9.1")


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return build_network(TINY)


def randomise_(updates: dict) -> None:
    generator = torch.Generator().manual_seed(1)
    for _, matrix in low_rank_matrices(updates):
        matrix.B.data.normal_(generator=generator)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("update_of", [arena_update, lora_update])
def test_output_is_unchanged_at_the_start_bit_for_bit(update_of: UpdateOf, image: torch.Tensor) -> None:
    network = tiny_network()
    with torch.no_grad():
        before = network(image)
        add_updates_(network, update_of, rank=8)
        assert torch.equal(network(image), before)


def test_query_rows_never_move_and_key_and_value_rows_do() -> None:
    network = tiny_network()
    frozen = {name: layer.weight.clone() for name, layer in target_layers(network).items()}
    randomise_(add_updates_(network, arena_update, rank=3))
    for name, layer in target_layers(network).items():
        channels = layer.in_features
        moved = (layer.weight - frozen[name]).detach()
        assert torch.equal(moved[:channels], torch.zeros(channels, channels))
        assert torch.linalg.matrix_rank(moved[channels : 2 * channels]) == 3
        assert torch.linalg.matrix_rank(moved[2 * channels :]) == 3


def test_update_worked_out_by_hand() -> None:
    matrix = gated_matrix(channels=2, rank=2)
    matrix.A.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    matrix.B.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    matrix.v.data = torch.tensor([0.5, -1.0])
    assert matrix().tolist() == [[0.5, 1.0], [-3.0, -4.0]]


def test_initial_values_follow_the_method() -> None:
    matrix = gated_matrix(channels=48, rank=512, generator=torch.Generator().manual_seed(0))
    bound = 1 / 48**0.5  # Kaiming-uniform with a = sqrt 5 reduces to 1 / sqrt(fan-in)
    assert matrix.A.abs().max() <= bound and matrix.A.abs().max() > 0.99 * bound
    assert torch.count_nonzero(matrix.B) == 0
    assert matrix.v.min() >= -1 and matrix.v.max() <= 1 and matrix.v.max() - matrix.v.min() > 1.9


@pytest.mark.parametrize("update_of", [arena_update, lora_update])
def test_merged_equals_unmerged_and_unmerging_restores_the_weights(update_of: UpdateOf, image: torch.Tensor) -> None:
    network = tiny_network()
    frozen = {name: layer.weight.clone() for name, layer in target_layers(network).items()}
    updates = add_updates_(network, update_of, rank=4)
    randomise_(updates)
    with torch.no_grad():
        updated = network(image)
        originals = merge_(network)
        assert torch.equal(network(image), updated)
        unmerge_(network, originals, updates)
        assert torch.equal(network(image), updated)
    for name, layer in target_layers(network).items():
        assert torch.equal(layer.parametrizations.weight.original, frozen[name])


def test_parameter_counts_at_full_size() -> None:
    network = build_network(FULL)
    updates = add_updates_(network, arena_update, rank=8)
    matrices = [matrix for _, matrix in low_rank_matrices(updates)]
    assert len(target_layers(network)) == 8
    assert sum(layer.in_features for layer in target_layers(network).values()) == 1440
    assert sum(m.A.numel() + m.B.numel() for m in matrices) == 46_080
    assert sum(m.v.numel() for m in matrices) == 128


def test_compacting_drops_zero_entries_and_keeps_the_product() -> None:
    matrix = gated_matrix(channels=12, rank=5)
    matrix.B.data.normal_()
    matrix.v.data[[1, 3]] = 0
    compact = matrix.compact()
    assert compact["A"].shape == (3, 12) and compact["B"].shape == (12, 3) and compact["v"].shape == (3,)
    torch.testing.assert_close(compact["B"] * compact["v"] @ compact["A"], matrix().detach())
    assert matrix.effective_rank == 3


def test_rank_zero_update_merges_to_the_frozen_weight() -> None:
    matrix = gated_matrix(channels=4, rank=2)
    matrix.v.data.zero_()
    empty = {f"{projection}.{part}": tensor for projection in ("key", "value") for part, tensor in matrix.compact().items()}
    weight = torch.randn(12, 4)
    assert empty["key.A"].shape == (0, 4)
    assert torch.equal(merged_weight(weight, empty), weight)


def test_an_update_of_all_rows_merges_without_v_as_with_ones() -> None:
    weight, a, b = torch.zeros(6, 2), torch.tensor([[1.0, 2.0]]), torch.arange(6.0).reshape(6, 1)
    merged = merged_weight(weight, {"qkv.A": a, "qkv.B": b})
    assert merged.tolist() == [[0, 0], [1, 2], [2, 4], [3, 6], [4, 8], [5, 10]]
    assert torch.equal(merged_weight(weight, {"qkv.A": a, "qkv.B": b, "qkv.v": torch.ones(1)}), merged)
    with pytest.raises(KeyError, match="expected key and value, or qkv"):
        merged_weight(weight, {"key.A": a, "key.B": b})


def test_a_network_without_targets_is_refused() -> None:
    with pytest.raises(NoTargetLayers, match="attn.qkv"):
        add_updates_(nn.Conv3d(1, 1, 1), arena_update, rank=2)
    with pytest.raises(NoTargetLayers, match="no layer of this network carries"):
        merge_(tiny_network())
