"""What an adapter's tensors must be before they touch a network: of the file alone, against its record, and against the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from arena_pipeline.model.architectures import Architecture, Shape, Target
from arena_pipeline.model.tensor_files import TensorFacts, not_floating

UPDATE, WEIGHT = "update.", "weight."
FACTORS, GATE = ("A", "B"), "v"
MAX_BYTES = 2 * 2**30
MAX_TENSORS = 4096
MAX_RANK = 512


def file_faults(facts: Mapping[str, TensorFacts], effective_rank: Mapping[str, int]) -> list[str]:
    """What is wrong with an adapter's tensors by themselves and against the ranks in its record; nothing if they may be loaded.

    Args:
        effective_rank: "<layer>.<block of rows>" -> the rank that the record says.
    """
    if len(facts) > MAX_TENSORS:
        return [f"{len(facts)} tensors, at most {MAX_TENSORS} were expected"]
    foreign = [f"unexpected tensor {name}; names start with {UPDATE} or {WEIGHT}" for name in facts if not name.startswith((UPDATE, WEIGHT))]
    faults = foreign + not_floating(facts)
    updates = _updates({name: fact.shape for name, fact in facts.items()})
    for name, parts in updates.items():
        faults += _update_faults(name, parts, effective_rank.get(name, 0))
    faults += [f"no tensors of {name}, whose rank is {rank} in the record" for name, rank in effective_rank.items() if rank and name not in updates]
    return faults


def network_faults(tensors: Mapping[str, Shape], network: Mapping[str, Shape], architecture: Architecture, rows: int) -> list[str]:
    """What of an adapter has no place in a network.

    Args:
        tensors: the adapter's, name -> shape.
        network: the foundation's parameters, name -> shape.
        rows: of the task's head, which takes the place of the foundation's.
    """
    head = architecture.head
    task_head = {f"{head}.weight": (rows, *network[f"{head}.weight"][1:]), f"{head}.bias": (rows,)}
    wanted = {**network, **task_head}
    weights = {name[len(WEIGHT) :]: shape for name, shape in tensors.items() if name.startswith(WEIGHT)}
    faults = [f"no {name}" for name in task_head if name not in weights]
    for name, shape in weights.items():
        if name not in wanted:
            faults.append(f"the network has no parameter {name}")
        elif shape != wanted[name]:
            faults.append(f"{name} is {shape}, expected {wanted[name]}")
    layers: dict[str, dict[str, dict[str, Shape]]] = {}
    for name, parts in _updates(tensors).items():
        layer, _, block = name.rpartition(".")
        layers.setdefault(layer, {})[block] = parts
    targets = {layer: target for layer, target in architecture.targets(network).items() if target.parameter not in weights}
    faults += [f"no layer {layer} that could be updated" for layer in layers if layer not in targets]
    return faults + [fault for layer, blocks in layers.items() if layer in targets for fault in _layer_faults(layer, blocks, targets[layer])]


def _layer_faults(layer: str, blocks: Mapping[str, Mapping[str, Shape]], target: Target) -> list[str]:
    """Either all gated blocks of rows are updated or all rows as one, each by A (rank, columns) and B (rows, rank)."""
    if set(blocks) not in ({*target.gated}, {target.whole}):
        expected = " and ".join(sorted(target.gated)) + ("" if target.whole in target.gated else f", or {target.whole}")
        return [f"{layer} has updates of {' and '.join(sorted(blocks))}, expected {expected}"]
    faults = []
    for block, parts in blocks.items():
        first, last = target.rows_of(block)
        a, b = parts.get("A", ()), parts.get("B", ())
        if a[1:] != (target.columns,):
            faults.append(f"{layer}.{block}.A is {a}, expected (rank, {target.columns})")
        if b[:1] != (last - first,):
            faults.append(f"{layer}.{block}.B is {b}, expected ({last - first}, rank)")
    return faults


def _updates(tensors: Mapping[str, Shape]) -> dict[str, dict[str, Shape]]:
    """ "<layer>.<block of rows>" -> part -> shape."""
    grouped: dict[str, dict[str, Shape]] = {}
    for name, shape in tensors.items():
        if name.startswith(UPDATE):
            matrix, _, part = name[len(UPDATE) :].rpartition(".")
            grouped.setdefault(matrix, {})[part] = shape
    return grouped


def _update_faults(name: str, parts: Mapping[str, Shape], rank: int) -> Iterable[str]:
    """A (rank, columns), B (rows, rank), and v (rank,) where there is one; of the rank in the record."""
    if not set(FACTORS) <= set(parts) <= {*FACTORS, GATE}:
        return [f"unexpected update {name} of {', '.join(sorted(parts))}; expected <layer>.<block of rows> of A, B and perhaps v"]
    if any(len(parts[part]) != 2 for part in FACTORS):
        return [f"{name}: A is {parts['A']} and B is {parts['B']}, expected two matrices"]
    expected = {"A": (rank, parts["A"][1]), "B": (parts["B"][0], rank), GATE: (rank,)}
    if rank > MAX_RANK:
        return [f"{name}: rank {rank}, at most {MAX_RANK} can be allocated"]
    return [
        f"{name}.{part} is {shape}, expected {expected[part]} for the rank in the record" for part, shape in parts.items() if shape != expected[part]
    ]
