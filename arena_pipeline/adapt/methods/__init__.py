"""The methods that can be compared, one row each: what it trains in the encoder, at which rates, with which rank.

All share loss, batches, schedule, head and decoder (arena_pipeline.adapt.prepare), and save through one path (Trainable.tensors).

Rates. The published ones assume `learning_rate` 1e-3 and `decoder_learning_rate` 1e-4, and scale with them: with a trained decoder, a published 1e-4
becomes decoder_learning_rate; any other rate is scaled by learning_rate / 1e-3. A head that starts from random weights has
`new_head_learning_rate`, for every method, where the plans give one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from arena_pipeline.adapt.methods.adalora import adalora
from arena_pipeline.adapt.methods.low_rank import arena, lora
from arena_pipeline.adapt.methods.selected import affine_ln, bitfit, fft, linear_probe
from arena_pipeline.adapt.trainable import Trainable
from arena_pipeline.errors import MissingPackage, PlansError
from arena_pipeline.model.architectures import Architecture
from arena_pipeline.settings import AdaptationSettings, MethodName

Builder = Callable[[nn.Module, Architecture, AdaptationSettings, torch.Generator, int], Trainable]

PUBLISHED_RATE, PUBLISHED_DECODER_RATE = 1e-3, 1e-4


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        build: (network, architecture, settings, generator, iterations) -> what is trained in the encoder; `iterations`: of the whole schedule.
        rate: published rate of that, and of the head, while the decoder is frozen.
        rate_with_decoder: of that while the decoder is trained too.
        rank: used where neither -rank nor plans.json gives one for this method; None: the method has no rank.
        changes: settings that make a named variant of another method.
        package: needed from the extra [baselines].
        from_scratch: the network starts from random weights instead of the foundation's.
    """

    build: Builder
    rate: float
    rate_with_decoder: float
    rank: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    from_scratch: bool = False

    def rates(self, settings: AdaptationSettings, train_decoder: bool) -> tuple[float, float]:
        """The base rate of the method's own parameters, and that of the head (with the decoder where it is trained)."""
        published = self.rate_with_decoder if train_decoder else self.rate
        at_decoder_rate = train_decoder and published == PUBLISHED_DECODER_RATE
        own = settings.decoder_learning_rate if at_decoder_rate else settings.learning_rate * (published / PUBLISHED_RATE)
        return own, settings.decoder_learning_rate if train_decoder else own


METHODS: dict[MethodName, Method] = {
    "arena": Method(arena, 1e-3, 1e-3, rank=8),
    "arena_gradient": Method(arena, 1e-3, 1e-3, rank=8, changes={"gate_step": 10.0, "gate_optimizer": "proximal"}),
    "arena_adamw": Method(arena, 1e-3, 1e-3, rank=8, changes={"gate_step": 0.0, "gate_optimizer": "adamw"}),
    "lora": Method(lora, 1e-3, 1e-4, rank=12),
    "adalora": Method(adalora, 1e-3, 1e-4, rank=12, package="peft"),
    "bitfit": Method(bitfit, 1e-2, 1e-4),
    "affine_ln": Method(affine_ln, 1e-2, 1e-4),
    "linear_probe": Method(linear_probe, 1e-2, 1e-4),
    "fft": Method(fft, 1e-4, 1e-4),
    "scratch": Method(fft, 1e-3, 1e-3, from_scratch=True),
}


def method_settings(planned: AdaptationSettings, method: MethodName | None = None, rank: int | None = None) -> AdaptationSettings:
    """The settings of an adaptation by `method` (None: the plans' own), which adapter.json records.

    Raises:
        PlansError: an unknown method, with the known ones.
        MissingPackage: the method needs a package that is not installed.
    """
    name = planned.method if method is None else method
    if name not in METHODS:
        raise PlansError(f"unknown method {name}", advice=f"known: {', '.join(METHODS)}")
    row = METHODS[name]
    if row.package is not None and find_spec(row.package) is None:
        raise MissingPackage(f"method {name} needs the package {row.package}", advice="pip install 'arena-pipeline[baselines]'")
    if row.rank is None:
        rank = planned.rank
    elif rank is None:
        rank = planned.rank if row.build is METHODS[planned.method].build else row.rank
    return AdaptationSettings.model_validate(planned.model_dump() | dict(row.changes) | {"method": name, "rank": rank})
