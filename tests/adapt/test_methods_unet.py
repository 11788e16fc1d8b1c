"""Every method on nnU-Net's two networks: what it trains there, and that what it saves predicts what it trained."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from arena_pipeline.adapt.loss import task_loss
from arena_pipeline.adapt.methods import method_settings
from arena_pipeline.adapt.prepare import prepare_
from arena_pipeline.foundations import FoundationPreset, Scheme, Weights
from arena_pipeline.foundations.nnunet_scheme import NnunetScheme
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.adapter import Adapter, AdapterRecord, read_adapter, write_adapter
from arena_pipeline.model.architectures.unet import PlainUNet, ResidualUNet, UNet
from arena_pipeline.planning import InferencePlan, TaskPlan
from arena_pipeline.settings import AdaptationSettings, MethodName

SHAPES = {"out_channels": 3, "features_per_stage": (4, 6), "kernel_sizes": ((1, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2))}
NETWORKS: dict[str, UNet] = {
    "plain": PlainUNet(**SHAPES, blocks_per_stage=(1, 2), decoder_convolutions=(1,)),  # type: ignore[arg-type]
    "residual": ResidualUNet(**SHAPES, blocks_per_stage=(1, 1), decoder_convolutions=(1,)),  # type: ignore[arg-type]
}
SCHEME = Scheme(spacing_mm=(4, 4, 4), window_hu=(-175, 250), patch_size_voxels=(8, 16, 16), nnunet=NnunetScheme())
TASK = TaskPlan(
    name="liver", structures={"liver": 2}, kind="base", train_decoder=False, head="pretrained", keep_largest={"liver": True}, candidates=("a",),
    max_shots=1,
)  # fmt: skip
EVERY = get_args(MethodName)


def preset_of(architecture: UNet) -> FoundationPreset:
    return FoundationPreset(
        name="toy", title="toy", architecture=architecture, scheme=SCHEME, head="softmax", structures={"spleen": 1, "liver": 2}, preference=1,
        weights=Weights(expected_file="x", layout="arena", origin="made here"), licence="CC0", citation="none",
    )  # fmt: skip


def encoder_part(method: MethodName, name: str) -> bool:
    endings = {"bitfit": ("conv.bias",), "affine_ln": ("norm.weight", "norm.bias"), "linear_probe": ("nothing",)}.get(method)
    return name.startswith("encoder.") and (name.endswith(endings) if endings else ".conv.parametrizations.weight.0." in name)


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("method", EVERY)
def test_a_method_trains_what_it_says_and_predicts_what_it_trained(method: MethodName, family: str, tmp_path: Path) -> None:
    architecture, generator = NETWORKS[family], torch.Generator().manual_seed(1)
    preset, weights = preset_of(architecture), tmp_path / "toy.safetensors"
    torch.manual_seed(0)
    network = architecture.build()
    for name, parameter in network.named_parameters():
        if name.endswith("norm.weight"):  # as pre-trained: the branch of a new residual block is silent, and nothing in it would move
            parameter.data.fill_(1)
    save_file(network.state_dict(), weights)
    task = TASK.model_copy(update={"kind": "novel", "train_decoder": True, "head": "new"}) if method in ("lora", "fft") else TASK
    settings = method_settings(AdaptationSettings(max_epochs=4, learning_rate=0.01, gate_step=0.0), method)
    trainable = prepare_(network, preset, task, settings, generator, 1)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    image, target = torch.rand(2, 1, 8, 16, 16, generator=generator), torch.rand(2, 8, 16, 16, generator=generator) > 0.5
    optimizer = torch.optim.AdamW([{"params": group, "lr": rate} for rate, group in trainable.groups])
    for iteration in range(4):
        optimizer.zero_grad()
        loss, penalty = task_loss(network(image), target.long()), trainable.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        trainable.after_step_(iteration, settings.learning_rate)

    moved = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad or ".weight.0." in name}
    rest = {name for name in before if name.startswith(architecture.head) or (task.train_decoder and name.startswith(architecture.decoder))}
    assert trained == (set(before) if method in ("fft", "scratch") else rest | {name for name in before if encoder_part(method, name)})
    # a convolution's bias in front of an instance norm changes nothing: its gradient is rounding
    assert moved <= trained and len(moved - rest) >= (0 if method == "linear_probe" else 2)

    record = AdapterRecord(
        dataset_name="Dataset901_Toy", foundation="toy", foundation_sha256=file_sha256(weights), plans_sha256="0", scheme=SCHEME,
        inference=InferencePlan(window_batch=1), task="liver", structures=task.structures, dataset_labels={"background": 0, "liver": 2},
        activation=task.activation, kind=task.kind, train_decoder=task.train_decoder, head=task.head, keep_largest=task.keep_largest, fold=0,
        shots=1, support_ids=("a",), settings=settings, effective_rank=trainable.effective_rank(), trained_parameters=trainable.parameter_count,
        saved_parameters=0, epochs=4, stop_reason="", final_loss=0.5, seconds=1.0, versions={}, licence="CC0",
    )  # fmt: skip
    write_adapter(tmp_path / "fold", Adapter(record, trainable.tensors()))
    networks = AdaptedNetwork(preset, weights, torch.device("cpu"))
    with torch.no_grad():
        said = networks.select(read_adapter(tmp_path / "fold"))(image)
        if said.shape[1] > 1:  # all rows, of which training has seen how far the first leads
            said = said[:, :1] - said[:, 1:].amax(dim=1, keepdim=True)
        torch.testing.assert_close(said, network(image), atol=1e-4, rtol=1e-4)
