"""A foundation that takes on one adapter after another: prediction with many adapters holds one network in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from arena_pipeline.errors import AdapterError, FoundationError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.filestate import SourceFile
from arena_pipeline.model.adapter import Adapter, AdapterRecord, read_adapter
from arena_pipeline.model.adapter_checks import network_faults
from arena_pipeline.model.architectures import Target
from arena_pipeline.model.device import free_bytes, to_device
from arena_pipeline.model.front import SharedFront
from arena_pipeline.model.low_rank import merged_weight
from arena_pipeline.model.task_head import empty_head, head_module, set_head_
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.words import listed

HELD_SHARE = 0.25
"""The share of the free memory for adapters that are kept ready."""


@dataclass(frozen=True, eq=False)
class ReadyAdapter:
    """What replaces the network's own values, on its device.

    Attributes:
        values: parameter -> its value with the adapter merged, without those of the head.
        front: modules of the architecture's front whose output is still the foundation's.
    """

    head: nn.Conv3d
    values: dict[str, Tensor]
    front: frozenset[str]


class AdaptedNetwork:
    """The foundation of `preset` on `device`. Only the parameters that an adapter changes are ever held twice.

    The weights are read on first use. Pickling sends their path and checksum alone, so that the file is hashed once for all processes.
    """

    def __init__(self, preset: FoundationPreset, weights_path: Path, device: torch.device, file: SourceFile | None = None) -> None:
        self.preset, self.device, self._path = preset, device, weights_path
        self._file = SourceFile.of(weights_path) if file is None else file
        self._replaced: tuple[str, ...] = ()
        self._ready: dict[Path, ReadyAdapter] = {}

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
    def most_ready(self) -> int:
        """How many adapters are kept ready: as many as fit in HELD_SHARE of the free memory if each replaced every parameter."""
        return max(1, int(HELD_SHARE * free_bytes(self.device)) // sum(tensor.nbytes for tensor in self._own.values()))

    @cached_property
    def _own_head(self) -> nn.Conv3d:
        return head_module(self.network, self.preset.architecture)

    @cached_property
    def _own(self) -> dict[str, Tensor]:
        return {name: parameter.data for name, parameter in self.network.named_parameters()}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._own.items()}

    @cached_property
    def _targets(self) -> dict[str, Target]:
        return self.preset.architecture.targets(self._shapes)

    @cached_property
    def _front(self) -> SharedFront:
        return SharedFront(self.network, self.preset.architecture)

    def __reduce__(self) -> tuple[object, ...]:
        return AdaptedNetwork, (self.preset, self._path, self.device, self._file)

    def select(self, adapter: Adapter | Path | None) -> nn.Module:
        """The network with this adapter merged, in eval mode; None: the foundation as it is. Valid until the next call.

        Args:
            adapter: one, or its folder, which is read and checked once while it is among the last `most_ready`.

        Raises:
            AdapterError: the adapter was made for another foundation, or its tensors do not fit.
        """
        self._put_on(self._ready_adapter(adapter) if isinstance(adapter, Path) else None if adapter is None else self.prepared(adapter))
        return self.network

    def _ready_adapter(self, folder: Path) -> ReadyAdapter:
        if folder not in self._ready:
            while len(self._ready) >= self.most_ready:
                self._ready.pop(next(iter(self._ready)))
            self._ready[folder] = self.prepared(read_adapter(folder))
        return self._ready[folder]

    def window(self) -> AbstractContextManager[None]:
        """Around calls on one and the same input: what is the same for all adapters is computed once."""
        return self._front.shared()

    def prepared(self, adapter: Adapter) -> ReadyAdapter:
        """The adapter merged, on the network's device; see `select`."""
        self._check(adapter)
        architecture, values = self.preset.architecture, dict[str, Tensor]()
        for layer, tensors in adapter.updates().items():
            if all(not len(tensor) for name, tensor in tensors.items() if name.endswith(".A")):
                continue  # no direction is left: the weight is the foundation's
            target = self._targets[layer]
            weight = self._own[target.parameter]
            values[target.parameter] = merged_weight(
                weight, target, {part: tensor.to(weight.device, weight.dtype) for part, tensor in tensors.items()}
            )
        task_head = self._empty_head(adapter.record).requires_grad_(False)
        for name, tensor in adapter.weights().items():
            if name.startswith(f"{architecture.head}."):
                task_head.get_parameter(name.rpartition(".")[2]).copy_(tensor)
            else:
                values[name] = tensor
        values = {name: _laid_out(value, self._own[name]) for name, value in values.items()}
        return ReadyAdapter(to_device(task_head, self._own_head.weight.device), values, self._front.unchanged(values))  # type: ignore[arg-type]

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

    def _empty_head(self, record: AdapterRecord) -> nn.Conv3d:
        return empty_head(self.preset, self._own_head.in_channels, record.activation, record.head, record.out_channels)

    def _put_on(self, adapter: ReadyAdapter | None) -> None:
        own, own_head = self._own, self._own_head
        for name in self._replaced:
            self.network.get_parameter(name).data = own[name]
        set_head_(self.network, self.preset.architecture, own_head if adapter is None else adapter.head)
        self._replaced = () if adapter is None else tuple(adapter.values)
        for name in self._replaced:
            self.network.get_parameter(name).data = adapter.values[name]  # type: ignore[union-attr]
        self._front.sharing = frozenset() if adapter is None else adapter.front

    @staticmethod
    def _name(adapter: Adapter) -> str:
        return f"adapter {adapter.record.dataset_name}/{adapter.record.task}/fold_{adapter.record.fold}"


def _laid_out(value: Tensor, own: Tensor) -> Tensor:
    """On the device and in the type of what it takes the place of: an adapter may be stored in half precision."""
    return value.to(own.device, own.dtype, memory_format=torch.channels_last_3d if value.ndim == 5 else torch.preserve_format)
