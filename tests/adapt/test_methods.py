"""Every method through one path: what it trains, at which rates, how it goes on, what it saves and what that predicts."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loop import Adaptation
from arena_pipeline.adapt.methods import METHODS, method_settings
from arena_pipeline.adapt.prepare import prepare_
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import MissingPackage, PlansError
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import Adapter, AdapterRecord, read_adapter, write_adapter
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.low_rank import low_rank_matrices
from arena_pipeline.planning import InferencePlan, TaskPlan
from arena_pipeline.settings import AdaptationSettings, MethodName
from tests.toy import BASE, PRESET, SCHEME

PATCH = (64, 32, 32)
NOVEL = BASE.model_copy(update={"kind": "novel", "train_decoder": True, "head": "new"})
HEAD_PARAMETERS = {"out.conv.conv.weight", "out.conv.conv.bias"}
EVERY = get_args(MethodName)


class Bright(SupportVolume):
    """One patch made in memory: the structure is a bright half, on noise."""

    def __init__(self) -> None:
        pass

    def patches(self, size: tuple[int, int, int], settings: AdaptationSettings, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        segmentation = np.zeros((1, *size), np.int64)
        segmentation[:, : rng.integers(20, 44)] = 1
        image = rng.random(segmentation.shape) * 0.3 + 0.6 * segmentation
        return torch.from_numpy(image.astype(np.float32)).unsqueeze(1), torch.from_numpy(segmentation)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("foundation") / "toy.safetensors"
    save_file(PRESET.architecture.build().state_dict(), path)
    return path


def started(weights: Path, method: MethodName, task: TaskPlan = BASE, rank: int | None = None, **settings: object) -> Adaptation:
    """An adaptation of one volume, before its first step."""
    network = PRESET.architecture.build()
    network.load_state_dict(load_file(weights))
    chosen = method_settings(AdaptationSettings.model_validate({"max_epochs": 3, "learning_rate": 0.01} | settings), method, rank)
    trainable = prepare_(network, PRESET, task, chosen, torch.Generator().manual_seed(1), 1)
    return Adaptation(network, trainable, [Bright()], chosen, PATCH, np.random.default_rng(2))


def record(weights: Path, adaptation: Adaptation, task: TaskPlan) -> AdapterRecord:
    trainable = adaptation.trainable
    return AdapterRecord(
        dataset_name="Dataset901_Toy",
        foundation="toy",
        foundation_sha256=file_sha256(weights),
        plans_sha256="0",
        scheme=SCHEME,
        inference=InferencePlan(window_batch=1),
        task=task.name,
        structures=task.structures,
        dataset_labels={"background": 0, "liver": 2},
        activation=task.activation,
        kind=task.kind,
        train_decoder=task.train_decoder,
        head=task.head,
        keep_largest=task.keep_largest,
        fold=0,
        shots=1,
        support_ids=("a",),
        settings=adaptation.settings,
        effective_rank=trainable.effective_rank(),
        trained_parameters=trainable.parameter_count,
        saved_parameters=0,
        epochs=3,
        stop_reason="",
        final_loss=0.5,
        seconds=1.0,
        versions={},
        licence="CC0",
    )


def encoder_part(method: MethodName) -> Callable[[str], bool]:
    """Whether a parameter of the encoder (by its name with the update in place) is one that the method says it trains."""
    if method in ("bitfit", "affine_ln", "linear_probe"):
        endings = {
            "bitfit": ("attn.qkv.bias", "attn.proj.bias", "mlp.linear1.bias", "mlp.linear2.bias"),
            "affine_ln": ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "norm.weight", "norm.bias"),
            "linear_probe": (),
        }[method]
        return lambda name: name.startswith("swinViT.") and name.endswith(endings)
    return lambda name: ".attn.qkv.parametrizations.weight.0." in name


@pytest.mark.parametrize("method", EVERY)
def test_a_method_trains_what_it_says_goes_on_where_it_was_and_predicts_what_it_trained(method: MethodName, weights: Path, tmp_path: Path) -> None:
    task = NOVEL if method in ("lora", "bitfit") else BASE
    image = torch.rand(1, 1, *PATCH, generator=torch.Generator().manual_seed(3))
    networks = AdaptedNetwork(PRESET, weights, torch.device("cpu"))
    foundation = {name: tensor.clone() for name, tensor in networks.network.state_dict().items()}

    whole = started(weights, method, task)
    before = {name: p.detach().clone() for name, p in whole.network.named_parameters()}
    with torch.no_grad():
        if task is BASE and method != "scratch":  # it starts from the foundation's own probability
            probability = networks.select(None)(image).softmax(dim=1)[:, 2:3]
            torch.testing.assert_close(whole.network(image).sigmoid(), probability, atol=1e-4, rtol=1e-4)
    saved = io.BytesIO()
    whole.run(lambda epoch: torch.save(whole.state_dict(), saved) if epoch.epoch == 1 else None)
    saved.seek(0)

    moved = {name for name, p in whole.network.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in whole.network.named_parameters() if p.requires_grad or ".weight.0." in name}
    assert moved <= trained and len(moved) > 0.9 * len(trained)
    if method in ("fft", "scratch"):
        assert trained == set(before)
    else:
        rest = {name for name in before if name in HEAD_PARAMETERS or (task.train_decoder and name.startswith(PRESET.architecture.decoder))}
        assert trained == rest | {name for name in before if encoder_part(method)(name)}

    again = started(weights, method, task)
    again.load_state_dict(torch.load(saved, weights_only=True))
    again.run()
    assert len(again.epochs) == 3
    ends = (adaptation.trainable.state_dict()["tensors"] for adaptation in (whole, again))
    for (name, tensor), other in zip(next(ends).items(), next(ends).values(), strict=True):
        assert torch.equal(tensor, other), name

    adapter = Adapter(record(weights, whole, task), whole.trainable.tensors())
    write_adapter(tmp_path, adapter)
    with torch.no_grad():
        torch.testing.assert_close(networks.select(read_adapter(tmp_path))(image), whole.network(image), atol=1e-4, rtol=1e-4)
    networks.select(None)
    assert all(torch.equal(tensor, foundation[name]) for name, tensor in networks.network.state_dict().items())


def test_from_scratch_nothing_is_the_foundations_and_every_fold_starts_elsewhere(weights: Path) -> None:
    foundation = load_file(weights)
    one, other = started(weights, "scratch").network, started(weights, "scratch").network
    parameters = dict(one.named_parameters())
    random = [name for name, p in parameters.items() if p.unique().numel() > 1 and name not in HEAD_PARAMETERS]  # not norms and zero biases
    assert len(random) > 20 and not any(torch.equal(parameters[name], foundation[name]) for name in random)
    head = parameters["out.conv.conv.weight"]
    assert not any(torch.equal(row, known) for row in head for known in foundation["out.conv.conv.weight"])
    assert all(torch.equal(p, parameters[name]) for name, p in other.named_parameters())  # the same seed, the same start
    network = PRESET.architecture.build()
    prepare_(network, PRESET, BASE, AdaptationSettings(method="scratch"), torch.Generator().manual_seed(2), 1)
    assert not any(torch.equal(p, parameters[name]) for name, p in network.named_parameters() if name in random)


def test_adalora_masks_by_its_budget_and_has_its_penalty_in_the_loop(weights: Path) -> None:
    adaptation = started(weights, "adalora", max_epochs=4)
    matrices = [matrix for _, matrix in low_rank_matrices(adaptation.trainable.updates)]
    first = [matrix.A.detach().clone() for matrix in matrices]
    moved_at_once, ranks = [], []

    def look(epoch: object) -> None:
        if not ranks:  # while E is zero the task's loss does not depend on A: only the penalty moves it
            moved_at_once.extend(not torch.equal(matrix.A, a) for matrix, a in zip(matrices, first, strict=True))
        ranks.append(sum(adaptation.trainable.effective_rank().values()))

    adaptation.run(look)
    assert all(moved_at_once)
    # eight layers with 12 directions go down to 8: 64 + 32 (1 - i / 4)^3 in iteration i, rounded down; the first has no mask
    assert ranks == [96, 77, 68, 64]


def test_adalora_is_not_stopped_before_its_final_budget(weights: Path) -> None:
    trainable = started(weights, "adalora", max_epochs=100).trainable
    # 32 (1 - i / 100)^3 is 1.05 at i = 68, and 0.95 at i = 69
    assert not trainable.may_stop(68) and trainable.may_stop(69)
    at_once = {"max_epochs": 5, "stop_window": 1, "stop_smoothing": 1, "stop_improvement": 100.0}  # no loss ever improves so much
    # 32 (1 - i / 5)^3 is 2.05 at i = 3, and 0.26 at i = 4
    for method, length in (("linear_probe", 2), ("adalora", 5)):
        adaptation = started(weights, method, **at_once)
        adaptation.run()
        assert len(adaptation.epochs) == length


def test_a_state_of_another_method_is_refused(weights: Path) -> None:
    lora, arena = (started(weights, method).trainable for method in ("lora", "arena"))
    with pytest.raises(KeyError, match="qkv"):
        arena.load_state_dict(lora.state_dict())
    with pytest.raises(RuntimeError, match=r"is \(12, 12\), expected \(3, 12\)"):
        started(weights, "lora", rank=3).trainable.load_state_dict(lora.state_dict())


def test_rates_are_the_published_ones_and_move_with_the_presets() -> None:
    def table(settings: AdaptationSettings, train_decoder: bool) -> dict[str, tuple[float, float]]:
        return {
            name: METHODS[name].rates(settings, train_decoder) for name in ("linear_probe", "bitfit", "affine_ln", "lora", "adalora", "fft", "arena")
        }

    published = AdaptationSettings()
    frozen = dict(zip(table(published, False), (1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-3), strict=True))
    assert table(published, False) == {name: pytest.approx((rate, rate)) for name, rate in frozen.items()}
    expected = {name: (1e-3 if name == "arena" else 1e-4, 1e-4) for name in frozen}
    assert table(published, True) == {name: pytest.approx(rates) for name, rates in expected.items()}
    mini = load_preset("arena_mini").adaptation.model_copy(update={"learning_rate": 0.01, "decoder_learning_rate": 0.004})
    assert table(mini, False)["bitfit"] == pytest.approx((0.1, 0.1)) and table(mini, False)["fft"] == pytest.approx((0.001, 0.001))
    assert table(mini, True)["fft"] == pytest.approx((0.004, 0.004))
    assert table(mini, True)["lora"] == pytest.approx((0.004, 0.004)) and table(mini, True)["arena"] == pytest.approx((0.01, 0.004))


def test_the_optimizer_gets_each_parameter_once_at_its_rate(weights: Path) -> None:
    cases: tuple[tuple[MethodName, TaskPlan, dict[str, float], list[float]], ...] = (
        ("arena_adamw", NOVEL, {}, [0.01, 1e-4, 1e-4]),
        ("arena_adamw", NOVEL, {"new_head_learning_rate": 0.05}, [0.01, 1e-4, 0.05]),
        ("fft", NOVEL, {"new_head_learning_rate": 0.05}, [1e-4, 1e-4, 0.05]),
        ("fft", BASE, {}, [1e-3, 1e-3]),
        ("linear_probe", BASE, {"new_head_learning_rate": 0.05}, [0.1]),  # its head is not new
        ("scratch", BASE, {"new_head_learning_rate": 0.05}, [0.01, 0.05]),  # its head is, whatever the task
    )
    for method, task, changes, rates in cases:
        trainable = started(weights, method, task, **changes).trainable
        identities = [id(parameter) for _, group in trainable.groups for parameter in group]
        assert len(identities) == len(set(identities)) == len(list(trainable.named_tensors()))
        assert [rate for rate, _ in trainable.groups] == pytest.approx(rates)


def test_a_new_head_starts_from_the_planned_prior(weights: Path) -> None:
    networks = (started(weights, "arena", NOVEL, new_head_prior=prior).network for prior in (None, 0.5, 0.01))
    biases = [network.get_parameter(f"{PRESET.architecture.head}.bias").item() for network in networks]
    assert biases == pytest.approx([0, 0, -4.59512])


@pytest.fixture(scope="module")
def full_size() -> nn.Module:
    return SwinUnetr(feature_size=48, out_channels=1, patch_merging="monai_0.9.1").build().to("meta")


def test_parameter_counts_at_full_size(full_size: nn.Module) -> None:
    def count(method: MethodName) -> int:
        settings = method_settings(AdaptationSettings(), method)
        trainable: Trainable = METHODS[method].build(deepcopy(full_size), PRESET.architecture, settings, torch.Generator().manual_seed(0), 1000)
        return sum(tensor.numel() for tensor in trainable.own)

    # widths C of the eight blocks sum to 1,440
    assert count("bitfit") == 9 * 1_440  # 3 C + C of attention, 4 C + C of the MLP
    assert count("affine_ln") == 4 * 1_440 + 2 * 8 * (48 + 96 + 192 + 384)  # two norms of C in a block; one of 8 C in a merging
    assert count("linear_probe") == 0
    network = count("fft")
    assert count("lora") == 69_120 == 48 * 1_440  # 12 (C + 3 C)
    assert round(network / 69_120) == 900
    assert count("adalora") == 69_120 + 8 * 12
    assert count("arena_adamw") == 46_080 + 128


def test_settings_of_a_method() -> None:
    planned = AdaptationSettings(rank=6, learning_rate=0.01)
    assert method_settings(planned) == planned
    lora = method_settings(planned, "lora")
    assert (lora.method, lora.rank, lora.learning_rate) == ("lora", 12, 0.01)
    assert method_settings(planned, "lora", rank=3).rank == 3
    assert method_settings(AdaptationSettings(method="lora", rank=5)).rank == 5
    assert method_settings(AdaptationSettings(method="lora", rank=5), "arena").rank == 8
    gradient, adamw = method_settings(planned, "arena_gradient"), method_settings(planned, "arena_adamw")
    assert gradient.gate_step > 0 and (gradient.gate_optimizer, gradient.rank) == ("proximal", 6)
    assert (adamw.gate_step, adamw.gate_optimizer, adamw.rank) == (0, "adamw", 6)
    assert method_settings(adamw) == adamw


def test_every_named_method_has_its_row_and_others_list_the_known() -> None:
    assert tuple(METHODS) == EVERY
    with pytest.raises(PlansError, match="unknown method lora9; known: arena, arena_gradient, arena_adamw, lora, adalora"):
        method_settings(AdaptationSettings(), "lora9")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="'arena', .*'lora'"):
        AdaptationSettings(method="lora9")  # type: ignore[arg-type]


def test_adalora_without_peft_or_with_too_small_a_rank_says_what_to_do(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    with pytest.raises(PlansError, match="adalora with rank 1; expected a rank of at least 2"):
        started(weights, "adalora", rank=1)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackage, match=r"needs the package peft; pip install 'arena-pipeline\[baselines\]'"):
        method_settings(AdaptationSettings(), "adalora")
    assert method_settings(AdaptationSettings(), "lora").rank == 12
