"""A foundation that takes on one adapter after another: prediction with many adapters holds one network in memory."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from arena_pipeline.errors import AdapterError, FoundationError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.filestate import SourceFile
from arena_pipeline.model.adapter import Adapter, AdapterRecord
from arena_pipeline.model.adapter_checks import network_faults
from arena_pipeline.model.architectures import Target
from arena_pipeline.model.device import to_device
from arena_pipeline.model.low_rank import merged_weight
from arena_pipeline.model.task_head import empty_head, head, set_head_
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.words import listed

logger = logging.getLogger(__name__)


class AdaptedNetwork:
    """The foundation of `preset` on `device`. Only the parameters that an adapter changes are ever held twice.

    The weights are read when they are first needed, once per process: it crosses to others without them, and the file is hashed here alone.
    """

    def __init__(self, preset: FoundationPreset, weights_path: Path, device: torch.device, file: SourceFile | None = None) -> None:
        self.preset, self.device, self._path = preset, device, weights_path
        self._file = SourceFile.of(weights_path) if file is None else file
        self._replaced: dict[str, Tensor] = {}

    @property
    def sha256(self) -> str:
        """Of the foundation's file."""
        return self._file.sha256

    @cached_property
    def network(self) -> nn.Module:
        """Raises FoundationError if the weights do not fit the preset, or are others than when this was made."""
        if not self._file.is_still(self._path):
            raise FoundationError("was changed while a command used it", file=self._path, advice="run the command again")
        return to_device(load_foundation_network(self.preset, self._path), self.device).requires_grad_(False)

    @cached_property
    def _foundation_head(self) -> nn.Conv3d:
        return head(self.network, self.preset.architecture)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self.network.named_parameters()}

    @cached_property
    def _targets(self) -> dict[str, Target]:
        return self.preset.architecture.targets(self._shapes)

    def __reduce__(self) -> tuple[object, ...]:
        return AdaptedNetwork, (self.preset, self._path, self.device, self._file)

    def select(self, adapter: Adapter | None) -> nn.Module:
        """The network with this adapter merged, in eval mode; None: the foundation as it is. Valid until the next call.

        Raises:
            AdapterError: the adapter was made for another foundation, or its tensors do not fit.
        """
        self._restore()
        if adapter is not None:
            self._check(adapter)
            self._apply(adapter)
        return self.network

    def _check(self, adapter: Adapter) -> None:
        record = adapter.record
        if record.foundation_sha256 != self.sha256:
            raise AdapterError(
                f"{self._name(adapter)} was made on foundation {record.foundation} (SHA-256 {record.foundation_sha256[:12]}...), "
                f"but {self.preset.name} here has {self.sha256[:12]}...; install the foundation it was made on, or adapt again"
            )
        rows = self._empty_head(record).out_channels
        shapes = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
        if faults := network_faults(shapes, self._shapes, self.preset.architecture, rows):
            raise AdapterError(
                f"{self._name(adapter)}: its tensors do not fit {self.preset.name} ({listed(faults, 3, '; ')}); "
                f"the adapter is damaged, adapt this fold again"
            )

    def _apply(self, adapter: Adapter) -> None:
        task_head = self._empty_head(adapter.record).to(self._foundation_head.weight.device)
        set_head_(self.network, self.preset.architecture, task_head.requires_grad_(False))
        for layer, tensors in adapter.updates().items():
            target = self._targets[layer]
            weight = self.network.get_parameter(target.parameter)
            on_device = {part: tensor.to(weight.device) for part, tensor in tensors.items()}
            self._replace(target.parameter, merged_weight(weight, target, on_device))
        for name, tensor in adapter.weights().items():
            self._replace(name, tensor)

    def _empty_head(self, record: AdapterRecord) -> nn.Conv3d:
        return empty_head(self.preset, self._foundation_head.in_channels, record.activation, record.head, record.out_channels)

    def _replace(self, name: str, value: Tensor) -> None:
        parameter = self.network.get_parameter(name)
        self._replaced[name] = parameter.data
        layout = torch.channels_last_3d if value.ndim == 5 else torch.preserve_format
        parameter.data = value.to(parameter.device, memory_format=layout)

    def _restore(self) -> None:
        for name, value in self._replaced.items():
            if not name.startswith(f"{self.preset.architecture.head}."):
                self.network.get_parameter(name).data = value
        self._replaced.clear()
        set_head_(self.network, self.preset.architecture, self._foundation_head)

    @staticmethod
    def _name(adapter: Adapter) -> str:
        return f"adapter {adapter.record.dataset_name}/{adapter.record.task}/fold_{adapter.record.fold}"
