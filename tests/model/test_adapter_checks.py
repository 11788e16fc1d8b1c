"""Tensors from strangers: what does not belong into an adapter is told from the header, before it is loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from arena_pipeline.model.adapter_checks import MAX_RANK, MAX_TENSORS, file_faults, network_faults
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.tensor_files import TensorFacts, UnfitTensors, read_tensors

SWIN = SwinUnetr(feature_size=12, out_channels=15, patch_merging="monai_1.5")
LAYER = "swinViT.layers1.0.blocks.0.attn.qkv"
KEY = f"update.{LAYER}.key"
GOOD = {
    f"{KEY}.A": torch.ones(2, 12),
    f"{KEY}.B": torch.ones(12, 2),
    f"{KEY}.v": torch.ones(2),
    f"update.{LAYER}.value.A": torch.ones(0, 12),
    f"update.{LAYER}.value.B": torch.ones(12, 0),
    f"update.{LAYER}.value.v": torch.ones(0),
    "weight.out.conv.conv.weight": torch.ones(3, 12, 1, 1, 1, dtype=torch.float16),
    "weight.out.conv.conv.bias": torch.ones(3, dtype=torch.bfloat16),
}
FUSED = {f"update.{LAYER}.qkv.A": torch.ones(2, 12), f"update.{LAYER}.qkv.B": torch.ones(36, 2)}
RANKS = {f"{LAYER}.key": 2, f"{LAYER}.value": 0}
NETWORK = {f"{LAYER}.weight": (36, 12), f"{LAYER}.bias": (36,), "out.conv.conv.weight": (15, 12, 1, 1, 1), "out.conv.conv.bias": (15,)}


def read(path: Path, tensors: dict[str, Tensor], ranks: dict[str, int], max_bytes: int = 10**6) -> dict[str, Tensor]:
    save_file(tensors, path)
    return read_tensors(path, max_bytes, lambda facts: file_faults(facts, ranks))


def test_a_good_adapter_is_read_as_it_is(tmp_path: Path) -> None:
    found = read(tmp_path / "a.safetensors", GOOD, RANKS)
    assert found.keys() == GOOD.keys() and all(torch.equal(found[name], GOOD[name]) and found[name].dtype == GOOD[name].dtype for name in GOOD)
    head = {name: tensor for name, tensor in GOOD.items() if name.startswith("weight.")}
    assert read(tmp_path / "b.safetensors", FUSED | head, {f"{LAYER}.qkv": 2}).keys() == (FUSED | head).keys()


BAD: list[tuple[str, dict[str, Tensor], str]] = [
    ("a name of nothing", {"evil": torch.ones(1)}, "unexpected tensor evil"),
    ("a part alone", {f"update.{LAYER}.query.A": torch.ones(1, 12)}, "unexpected update .*query of A"),
    ("a part of nothing", {f"{KEY}.C": torch.ones(1)}, "unexpected update .*key of A, B, C, v"),
    ("doubles", {"weight.out.conv.conv.bias": torch.ones(3, dtype=torch.float64)}, "bias is F64 instead of F32, F16, BF16"),
    ("integers", {"weight.out.conv.conv.bias": torch.ones(3, dtype=torch.int64)}, "bias is I64 instead of"),
    ("another rank than in the record", {f"{KEY}.v": torch.ones(3)}, r"key.v is \(3,\), expected \(2,\)"),
    ("A of another rank", {f"{KEY}.A": torch.ones(9, 12)}, r"key.A is \(9, 12\), expected \(2, 12\)"),
    ("a vector as matrix", {f"{KEY}.A": torch.ones(24)}, "expected two matrices"),
    ("no number", {"weight.out.conv.conv.bias": torch.tensor([1.0, float("nan"), 0.0])}, "bias: values that are not finite"),
    ("infinity in half precision", {"weight.out.conv.conv.bias": torch.full((3,), 70000.0).half()}, "values that are not finite"),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_tensor_is_refused(change: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnfitTensors, match=message):
        read(tmp_path / "a.safetensors", GOOD | change, RANKS)


def test_the_record_and_the_tensors_name_the_same_updates(tmp_path: Path) -> None:
    with pytest.raises(UnfitTensors, match="no tensors of elsewhere.key, whose rank is 4 in the record"):
        read(tmp_path / "a.safetensors", GOOD, RANKS | {"elsewhere.key": 4})
    with pytest.raises(UnfitTensors, match="for the rank in the record"):
        read(tmp_path / "a.safetensors", GOOD, {})


def test_sizes_are_judged_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UnfitTensors, match="bytes, at most 500 were expected"):
        read(tmp_path / "a.safetensors", GOOD, RANKS, max_bytes=500)
    crowd = {f"weight.{number}": TensorFacts((1,), "F32") for number in range(MAX_TENSORS + 1)}
    assert file_faults(crowd, {}) == ["4097 tensors, at most 4096 were expected"]
    huge = {f"{KEY}.A": TensorFacts((MAX_RANK + 1, 12), "F32"), f"{KEY}.B": TensorFacts((12, MAX_RANK + 1), "F32")}
    assert file_faults(huge, {f"{LAYER}.key": MAX_RANK + 1}) == [f"{LAYER}.key: rank 513, at most 512 can be allocated"]


def written(path: Path, header: bytes, length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    return path


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UnfitTensors) as error:
            read_tensors(path, 10**6, lambda facts: [])
        return str(error.value)

    beyond = json.dumps({"weight.x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    assert "a header of 1,099,511,627,776 bytes in a file of 10" in refused(written(tmp_path / "1", b"{}", 2**40))
    assert "not a whole safetensors file" in refused(written(tmp_path / "2", beyond))
    assert "not a whole safetensors file" in refused(written(tmp_path / "3", b"[" * 10_000))
    (tmp_path / "4").write_bytes(b"")
    assert "not a whole safetensors file" in refused(tmp_path / "4")


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_a_good_adapter_fits_its_network_and_no_other_head() -> None:
    assert network_faults(shapes(GOOD), NETWORK, SWIN, 3) == []
    assert network_faults(shapes(GOOD), NETWORK, SWIN, 1)[0] == "out.conv.conv.weight is (3, 12, 1, 1, 1), expected (1, 12, 1, 1, 1)"


UNFIT: list[tuple[str, dict[str, Tensor], str]] = [
    ("an unknown parameter", {"weight.nowhere": torch.ones(1)}, "the network has no parameter nowhere"),
    ("a buffer", {"weight.swinViT.relative_position_index": torch.ones(8, 8)}, "the network has no parameter swinViT.relative_position_index"),
    ("another shape", {f"weight.{LAYER}.bias": torch.ones(7)}, f"{LAYER}.bias is (7,), expected (36,)"),
    ("an unknown layer", {"update.a.attn.qkv.qkv.A": torch.ones(1, 12)}, "no layer a.attn.qkv that could be updated"),
    ("a layer twice", {f"weight.{LAYER}.weight": torch.ones(36, 12)}, f"no layer {LAYER} that could be updated"),
    ("other channels", {f"{KEY}.A": torch.ones(2, 24)}, f"{LAYER}.key.A is (2, 24), expected (rank, 12)"),
    ("other rows", {f"{KEY}.B": torch.ones(36, 2)}, f"{LAYER}.key.B is (36, 2), expected (12, rank)"),
    ("other blocks", {f"update.{LAYER}.query.A": torch.ones(1)}, f"{LAYER} has updates of key and query and value, expected key and value, or qkv"),
    ("two kinds of update", FUSED, f"{LAYER} has updates of key and qkv and value, expected key and value, or qkv"),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT])
def test_what_has_no_place_in_the_network_is_told(change: dict[str, Tensor], message: str) -> None:
    assert message in network_faults(shapes(GOOD | change), NETWORK, SWIN, 3)


def test_a_head_is_wanted() -> None:
    updates = {name: tensor for name, tensor in GOOD.items() if name.startswith("update.")}
    assert network_faults(shapes(updates), NETWORK, SWIN, 3) == ["no out.conv.conv.weight", "no out.conv.conv.bias"]
