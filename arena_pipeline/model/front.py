"""The part of a network that is the same for all adapters, computed once for all of them on one window."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast
from weakref import ref

from torch import Tensor, nn

from arena_pipeline.model.architectures import Architecture


class SharedFront:
    """Lets the modules of an architecture's front return their earlier output for the same window. Parameters and names stay.

    Attributes:
        sharing: the modules that do so for the present adapter.
    """

    def __init__(self, network: nn.Module, architecture: Architecture) -> None:
        self.sharing: frozenset[str] = frozenset()
        self._front = architecture.front
        self._given: dict[str, Tensor] | None = None
        for name in self._front:
            module = cast(Any, network.get_submodule(name))
            module.forward = partial(self._give, name, ref(module))  # a weak reference: a module that held itself would never be freed

    def unchanged(self, parameters: Collection[str]) -> frozenset[str]:
        """The modules of the front whose answer does not depend on these parameters."""
        found: set[str] = set()
        for name, inputs in self._front.items():  # what a module takes its input from comes before it
            if found.issuperset(inputs) and not any(parameter.startswith(f"{name}.") for parameter in parameters):
                found.add(name)
        return frozenset(found)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Within it all calls of the network are on the same window."""
        self._given = {}
        try:
            yield
        finally:
            self._given = None

    def _give(self, name: str, module: ref[Any], *inputs: Tensor) -> Tensor:
        def answer() -> Tensor:
            own: Any = module()
            return cast(Tensor, type(own).forward(own, *inputs))

        if self._given is None or name not in self.sharing:
            return answer()
        if name not in self._given:
            self._given[name] = answer()
        return self._given[name]
