"""Published checkpoints: each layout, read into the names of the network and counted tensor by tensor.

Nothing is taken over silently: a file fills every part of the network that its foundation was pre-trained in, with the right
shapes and finite values, and holds no other tensor of those parts; or it is refused.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset, load_preset, preset_names
from arena_pipeline.model.architectures import Architecture, Layout
from arena_pipeline.model.checkpoint_files import read_checkpoint_file
from arena_pipeline.model.tensor_files import all_finite
from arena_pipeline.model.weights import new_parts
from arena_pipeline.words import listed

WRAPPERS = ("module.", "backbone.")  # of DataParallel, and of a network inside a network
NAMES_SHOWN = 3  # names in a message


@dataclass(frozen=True, eq=False)
class Match:
    """What a checkpoint gives to a foundation.

    Attributes:
        tensors: name in the network -> value; without faults complete for the parts that were pre-trained, position indices included.
        wanted: the number of weights in those parts.
        missing, misshapen: weights of those parts that the file lacks, or has in another shape.
        ignored: tensors of the file that belong to a head which can't be used.
        unexpected: tensors of the file without a place in those parts.
        faults: why this file can't be this foundation, in words; none if it can.
    """

    tensors: dict[str, Tensor]
    wanted: int = 0
    missing: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def matched(self) -> int:
        """Weights that the file fills."""
        return self.wanted - len(self.missing) - len(self.misshapen)


def read_foundation(preset: FoundationPreset, path: Path, trust: bool = False, others: Sequence[FoundationPreset] | None = None) -> Match:
    """The tensors of a published checkpoint in the network's names, all of them fit for the preset's network.

    Args:
        trust: see `read_checkpoint_file`.
        others: presets that an unfit file is tried on, to name those that it fits; None: all there are.

    Raises:
        FoundationError: the file is no checkpoint, or does not fill the network; says what is wrong and which foundation it would fit.
    """
    content = read_checkpoint_file(path, trust)
    found = match(preset, content)
    if not found.faults and not found.unexpected:
        return found
    candidates = [load_preset(name) for name in preset_names()] if others is None else others
    fits = {other.name: match(other, content) for other in candidates if other.name != preset.name}
    exact = [name for name, other in fits.items() if not other.faults and not other.unexpected]
    if not found.faults and not exact:
        return found
    unknown = f"{len(found.unexpected)} tensors are unknown to it ({listed(found.unexpected, NAMES_SHOWN)}), but not to another foundation"
    faults = found.faults or [unknown]
    fitting = exact or [name for name, other in fits.items() if not other.faults]
    raise FoundationError(f"does not fit foundation {preset.name}: {'; '.join(faults)}. {_advice(found, fitting, path, preset)}", file=path)


def match(preset: FoundationPreset, content: Any) -> Match:
    """Compares what a file holds with the preset's network; the file is this foundation if there are no faults."""
    architecture = preset.architecture
    layout = architecture.layouts[preset.weights.layout]
    source = _tensors_of(content, layout)
    if isinstance(source, str):
        return Match({}, faults=(source,))
    network = skeleton(architecture)
    new = new_parts(preset, network)
    wanted = {name: tensor for name, tensor in network.items() if name not in new}
    sorted_names = _sort(source, layout, architecture.head, set(wanted), {name.split(".")[0] for name in network})
    tensors = {target: source[name] for target, name in sorted_names.taken.items()}
    weights = [name for name in wanted if not architecture.is_derived(name)]
    missing = [name for name in weights if name not in tensors]
    misshapen = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    shapes = [f"{name} is {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}" for name in misshapen]
    faults = _faults(architecture, missing, shapes, sorted_names)
    return Match(
        tensors={name: tensor for name, tensor in wanted.items() if architecture.is_derived(name)} | tensors,
        wanted=len(weights),
        missing=tuple(missing),
        misshapen=tuple(name for name in misshapen if name in weights),
        ignored=tuple(sorted_names.ignored),
        unexpected=tuple(sorted_names.unexpected + sorted_names.foreign),
        faults=tuple(faults or _wrong_values(architecture, tensors)),
    )


@dataclass(eq=False)
class _Sorted:
    """The names in a file, by what is done with them; `foreign`: of a part of the network that has no such tensor."""

    taken: dict[str, str] = field(default_factory=dict)  # name in the network -> name in the file
    ignored: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def _sort(source: Iterable[str], layout: Layout, head: str, wanted: set[str], parts: set[str]) -> _Sorted:
    result = _Sorted()
    bare_names = {name: _unwrapped(name) for name in source}
    unused_head = layout.head is not None and any(bare.startswith(f"{layout.head}.") for bare in bare_names.values())
    for name, bare in bare_names.items():
        target = _renamed(bare, layout, head)
        if bare.split(".")[0] in layout.unused_heads or (unused_head and bare.startswith(f"{head}.")):
            result.ignored.append(name)
        elif target in wanted and target not in result.taken:
            result.taken[target] = name
        elif target.split(".")[0] in parts:
            result.foreign.append(name)
        else:
            result.unexpected.append(name)
    return result


@lru_cache(maxsize=8)
def skeleton(architecture: Architecture) -> dict[str, Tensor]:
    """The state of such a network: shapes alone of its weights (on the meta device), values of what follows from the architecture."""
    with torch.random.fork_rng(devices=[]):
        state = architecture.build().state_dict()
    return {name: tensor if architecture.is_derived(name) else tensor.to("meta") for name, tensor in state.items()}


def _tensors_of(content: Any, layout: Layout) -> dict[str, Tensor] | str:
    """The checkpoint's tensors by their own names, or in words what was found instead."""
    if isinstance(content, nn.Module):  # a whole pickled network, which only a trusted file can be
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return f"expected a dictionary of tensors, found {type(content).__name__}"
    inner = content.get(layout.key, content)
    found = {str(name): tensor.detach() for name, tensor in inner.items() if isinstance(tensor, Tensor)} if isinstance(inner, Mapping) else {}
    if found:
        return found
    where = f"under {layout.key!r}" if layout.key else "at the top of the file"
    return f"expected its tensors {where}, found {listed(content, NAMES_SHOWN) or 'nothing'}"


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _renamed(name: str, layout: Layout, head: str) -> str:
    for pattern, replacement in layout.renamed:
        name = re.sub(pattern, replacement, name)
    return head + name[len(layout.head) :] if layout.head is not None and name.startswith(f"{layout.head}.") else name


def _faults(architecture: Architecture, missing: Sequence[str], misshapen: Sequence[str], names: _Sorted) -> list[str]:
    faults = []
    if missing:
        counts = Counter(map(architecture.part_of, missing))
        parts = ", ".join(f"{count} of the {part}" for part, count in counts.items())
        faults.append(f"{len(missing)} weights are missing ({parts}: {listed(missing, NAMES_SHOWN)})")
    if misshapen:
        faults.append(f"{len(misshapen)} weights have another shape ({listed(misshapen, NAMES_SHOWN)})")
    if names.foreign:
        faults.append(f"{len(names.foreign)} tensors have no place in the parts of the network that it brings ({listed(names.foreign, NAMES_SHOWN)})")
    return faults


def _wrong_values(architecture: Architecture, tensors: Mapping[str, Tensor]) -> list[str]:
    weights = [name for name, tensor in tensors.items() if not architecture.is_derived(name) and not _is_finite(tensor)]
    indices = [name for name in tensors if architecture.is_derived(name) and not architecture.derived_fits(name, tensors)]
    faults = [f"{len(weights)} weights have values that are not finite numbers ({listed(weights, NAMES_SHOWN)})"] if weights else []
    return faults + ([f"{len(indices)} position indices point outside their tables ({listed(indices, NAMES_SHOWN)})"] if indices else [])


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and all_finite(tensor.float())


def _advice(found: Match, fitting: Sequence[str], path: Path, preset: FoundationPreset) -> str:
    facts = preset.architecture.describe(found.tensors) if found.misshapen else []
    described = f"The file is of a network with {', '.join(facts)}; a preset needs the same. " if facts else ""
    if fitting:
        commands = " or ".join(shlex.join(["arena_install_foundation", name, str(path)]) for name in fitting)
        return f"{described}It fits {' and '.join(fitting)}: {commands}"
    return f"{described}It fits no other foundation either; {preset.name} is the file {preset.weights.expected_file} ({preset.weights.origin})"
