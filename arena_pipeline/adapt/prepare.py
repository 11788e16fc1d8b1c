"""From a foundation's network to one that is ready to be adapted."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from arena_pipeline.adapt.methods import METHODS, method_settings
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import NoTargetLayers, PlansError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.model.architectures import Architecture
from arena_pipeline.model.task_head import head_module, head_parameters, new_head, pretrained_head, set_head_
from arena_pipeline.model.weights import random_network
from arena_pipeline.planning import TaskPlan
from arena_pipeline.settings import AdaptationSettings


def prepare_(
    network: nn.Module, preset: FoundationPreset, task: TaskPlan, settings: AdaptationSettings, generator: torch.Generator, volumes: int
) -> Trainable:
    """Freezes the network, gives it the task's head and the method's parameters, and returns what is to be trained.

    A method that starts from scratch also replaces all of the foundation's weights.

    Args:
        volumes: size of the support set, which is the number of iterations in an epoch.

    Raises:
        PlansError: a decoder that was never trained is to stay frozen, or a rank that the method can't have.
        MissingPackage: the method needs a package that is not installed.
    """
    settings = method_settings(settings)
    if preset.pretrained_parts == "encoder" and not task.train_decoder:
        raise PlansError(
            f"task {task.name}: {preset.name} has no pre-trained decoder, so it must be trained", advice="set train_decoder to true in plans.json"
        )
    architecture, method = preset.architecture, METHODS[settings.method]
    network.requires_grad_(False)
    if method.from_scratch:  # before the head is taken over: that of a base task starts from random rows too
        random = random_network(architecture, int(torch.randint(2**31, (), generator=generator))).requires_grad_(False)
        for name, weight in network.named_parameters():
            weight.copy_(random.get_parameter(name))
    softmax = task.activation == "softmax"
    if task.head == "pretrained":
        set_head_(network, architecture, pretrained_head(network, preset, list(task.structures), softmax, generator))
    else:
        old = head_module(network, architecture)
        new = new_head(old.in_channels, task.out_channels, generator, settings.new_head_prior, softmax)
        set_head_(network, architecture, new.to(old.weight.device))
    rest = head_parameters(network, architecture)
    if task.train_decoder:
        rest |= {name: p for name, p in network.named_parameters() if _is_trained_with_decoder(name, preset)}
    trainable = method.build(network, architecture, settings, generator, settings.max_epochs * volumes)
    trainable.whole |= rest
    for parameter in trainable.whole.values():
        parameter.requires_grad_(True)
    trainable.rate, rest_rate = method.rates(settings, task.train_decoder)
    own = [parameter for parameter in trainable.own if not any(parameter is other for other in rest.values())]
    of_head = [rest.pop(name) for name in head_parameters(network, architecture)] if task.head == "new" or method.from_scratch else []
    groups = ((trainable.rate, own), (rest_rate, list(rest.values())), (settings.new_head_learning_rate or rest_rate, of_head))
    trainable.groups = [(rate, group) for rate, group in groups if group]
    return trainable


def _is_trained_with_decoder(name: str, preset: FoundationPreset) -> bool:
    """Whether a parameter is trained along with the decoder: the decoder's own; where the foundation brings its encoder alone, all new ones."""
    if preset.pretrained_parts == "encoder":
        return not name.startswith(preset.architecture.encoder)
    return name.startswith(preset.architecture.decoder)


def recompute_activations_(network: nn.Module, architecture: Architecture) -> None:
    """Activation checkpointing: the blocks that hold most of a step's memory compute their activations again in the backward pass.

    Parameters, names and numbers do not change, only time (about one more forward) and memory do.

    Raises:
        NoTargetLayers: the network has no such block.
    """
    blocks = architecture.recomputed(network)
    if not blocks:
        raise NoTargetLayers(f"no block of a {architecture.family} in this network")
    for block in blocks:
        # the non-reentrant kind: it lets gradients reach parameters when the block's input needs none, as the first one's does not
        cast(Any, block).forward = partial(checkpoint, block.forward, use_reentrant=False)
