"""Adapters are written whole, read back exact, and applied to the right foundation only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from arena_pipeline.adapt.prepare import prepare_
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import AdapterError
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import RECORD, TENSORS, Adapter, AdapterRecord, read_adapter, write_adapter
from arena_pipeline.model.low_rank import low_rank_matrices
from arena_pipeline.planning import InferencePlan, TaskPlan
from arena_pipeline.settings import AdaptationSettings
from tests.toy import BASE, NOVEL, PRESET, SCHEME


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "toy.safetensors"
    save_file(PRESET.architecture.build().state_dict(), path)
    return path


def record(trainable: Trainable, task: TaskPlan, foundation_sha256: str) -> AdapterRecord:
    return AdapterRecord(
        dataset_name="Dataset901_Toy",
        foundation="toy",
        foundation_sha256=foundation_sha256,
        plans_sha256="0",
        scheme=SCHEME,
        inference=InferencePlan(window_batch=1),
        task=task.name,
        structures=task.structures,
        dataset_labels={"background": 0, "heart": 1, "liver": 2},
        activation=task.activation,
        kind=task.kind,
        train_decoder=task.train_decoder,
        head=task.head,
        keep_largest=task.keep_largest,
        fold=0,
        shots=1,
        support_ids=("a",),
        settings=AdaptationSettings(),
        effective_rank=trainable.effective_rank(),
        trained_parameters=trainable.parameter_count,
        saved_parameters=0,
        epochs=1,
        stop_reason="",
        final_loss=0.5,
        seconds=1.0,
        versions={},
        licence="CC0",
    )


def adapted(weights: Path, task: TaskPlan) -> tuple[torch.nn.Module, Adapter]:
    """A network whose every trained value is moved at random, some gates to zero, one whole matrix too."""
    network = PRESET.architecture.build()
    network.load_state_dict(load_file(weights))
    trainable = prepare_(network, PRESET, task, AdaptationSettings(rank=4), torch.Generator().manual_seed(1), 1)
    with torch.no_grad():
        for index, (_, matrix) in enumerate(low_rank_matrices(trainable.updates)):
            matrix.B.normal_(0, 0.1)
            matrix.v[: index % 5] = 0  # the fifth matrix, the tenth, ... have rank 0
        for parameter in trainable.whole.values():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return network, Adapter(record(trainable, task, file_sha256(weights)), trainable.tensors())


@pytest.mark.parametrize("task", [NOVEL, BASE], ids=["novel", "base"])
def test_a_saved_adapter_predicts_what_was_trained(task: TaskPlan, weights: Path, tmp_path: Path) -> None:
    network, adapter = adapted(weights, task)
    assert min(adapter.record.effective_rank.values()) == 0 and max(adapter.record.effective_rank.values()) == 4
    write_adapter(tmp_path / "fold_0", adapter)
    image = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        found = AdaptedNetwork(PRESET, weights, torch.device("cpu")).select(read_adapter(tmp_path / "fold_0"))(image)
        torch.testing.assert_close(found, network(image), atol=1e-4, rtol=1e-4)
        halved = Adapter(adapter.record, {name: tensor.half() for name, tensor in adapter.tensors.items()})
        found = AdaptedNetwork(PRESET, weights, torch.device("cpu")).select(halved)(image)
        torch.testing.assert_close(found, network(image), atol=0.05, rtol=0.05)


def test_the_file_follows_the_effective_rank(weights: Path) -> None:
    _, adapter = adapted(weights, BASE)
    for name, rank in adapter.record.effective_rank.items():
        assert adapter.tensors[f"update.{name}.v"].shape == (rank,)
        assert adapter.tensors[f"update.{name}.A"].shape[0] == adapter.tensors[f"update.{name}.B"].shape[1] == rank


def test_a_base_task_saves_update_and_head_and_a_novel_one_the_decoder_too(weights: Path) -> None:
    base, novel = (set(adapted(weights, task)[1].weights()) for task in (BASE, NOVEL))
    assert base == {"out.conv.conv.weight", "out.conv.conv.bias"}
    assert all(name.startswith(PRESET.architecture.decoder) for name in novel - base) and len(novel) > 20
    assert not any("encoder" in name for name in novel)


def test_selecting_leaves_no_trace_of_the_adapter_before(weights: Path) -> None:
    networks = AdaptedNetwork(PRESET, weights, torch.device("cpu"))
    image = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        foundation = networks.select(None)(image).clone()
        novel, base = adapted(weights, NOVEL)[1], adapted(weights, BASE)[1]
        first = networks.select(base)(image).clone()
        networks.select(novel)
        assert torch.equal(networks.select(base)(image), first)
        assert torch.equal(networks.select(None)(image), foundation)


def test_another_foundation_is_refused_with_both_names(weights: Path) -> None:
    _, adapter = adapted(weights, BASE)
    other = Adapter(adapter.record.model_copy(update={"foundation": "fseft", "foundation_sha256": "f" * 64}), adapter.tensors)
    with pytest.raises(AdapterError, match="made on foundation fseft .SHA-256 ffff.*toy here has"):
        AdaptedNetwork(PRESET, weights, torch.device("cpu")).select(other)


def test_tensors_that_do_not_fit_are_refused_and_leave_the_foundation_intact(weights: Path) -> None:
    _, adapter = adapted(weights, BASE)
    networks = AdaptedNetwork(PRESET, weights, torch.device("cpu"))
    image = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        foundation = networks.select(None)(image).clone()
        for name, tensor in (
            ("weight.out.conv.conv.bias", torch.zeros(7)),
            ("weight.nowhere", torch.zeros(1)),
            ("update.swinViT.layers1.0.blocks.0.attn.qkv.key.A", torch.zeros(4, 5)),
        ):
            with pytest.raises(AdapterError, match="do not fit toy"):
                networks.select(Adapter(adapter.record, adapter.tensors | {name: tensor}))
            assert torch.equal(networks.select(None)(image), foundation)


def test_damaged_files_are_refused_by_name(weights: Path, tmp_path: Path) -> None:
    _, adapter = adapted(weights, BASE)
    folder = tmp_path / "fold_0"
    with pytest.raises(AdapterError, match="no adapter.json"):
        read_adapter(folder)
    write_adapter(folder, adapter)
    whole = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(whole[:100])
    with pytest.raises(AdapterError, match="adapter.safetensors: not a readable adapter"):
        read_adapter(folder)
    (folder / TENSORS).write_bytes(whole)
    (folder / RECORD).write_text((folder / RECORD).read_text().replace('"fold"', '"typo"'))
    with pytest.raises(AdapterError, match="typo"):
        read_adapter(folder)


def test_values_that_are_not_finite_are_refused(weights: Path, tmp_path: Path) -> None:
    _, adapter = adapted(weights, BASE)
    write_adapter(tmp_path, Adapter(adapter.record, adapter.tensors | {"weight.out.conv.conv.bias": torch.tensor([float("nan")])}))
    with pytest.raises(AdapterError, match="not finite"):
        read_adapter(tmp_path)


def test_adapters_on_one_window_share_the_front_to_the_bit_and_are_read_once(weights: Path, tmp_path: Path) -> None:
    """A base and a novel one leave patch embedding, encoder1 and encoder2 as they are; one that trains encoder2 does not."""
    folders = [tmp_path / name for name in ("base", "novel", "own")]
    for folder, task in zip(folders, (BASE, NOVEL, BASE), strict=True):
        write_adapter(folder, adapted(weights, task)[1])
    own, encoder2 = read_adapter(folders[2]), "encoder2.layer.conv1.conv.weight"
    write_adapter(folders[2], Adapter(own.record, own.tensors | {f"weight.{encoder2}": 2 * load_file(weights)[encoder2]}))
    networks, image, calls = AdaptedNetwork(PRESET, weights, torch.device("cpu")), torch.rand(2, 1, 64, 32, 32), dict[str, int]()
    expected = [networks.select(folder)(image) for folder in folders]
    for folder in folders:
        (folder / TENSORS).unlink()
    for name in ("swinViT.patch_embed.proj", "encoder1.layer.conv1", "encoder2.layer.conv1", "encoder3.layer.conv1"):
        networks.network.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    for _ in range(2):
        with networks.window():
            assert all(torch.equal(networks.select(folder)(image), before) for folder, before in zip(folders, expected, strict=True))
    assert list(calls.values()) == [2, 2, 4, 6]
    assert not torch.equal(networks.select(folders[0])(1 - image), expected[0])  # outside nothing is kept
