"""What an adapter's tensors must be before they touch a network: of the file alone, against its record, and against the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from arena_pipeline.model.low_rank import FUSED, KEY_VALUE, ROWS, TARGET
from arena_pipeline.model.tensor_files import TensorFacts, not_floating

UPDATE, WEIGHT = "update.", "weight."
FACTORS, GATE = ("A", "B"), "v"
MAX_BYTES = 2 * 2**30
MAX_TENSORS = 4096
MAX_RANK = 512

Shape = tuple[int, ...]


def file_faults(facts: Mapping[str, TensorFacts], effective_rank: Mapping[str, int]) -> list[str]:
    """What is wrong with an adapter's tensors by themselves and against the ranks in its record; nothing if they may be loaded.

    Args:
        effective_rank: "<layer>.<key|value|qkv>" -> the rank that the record says.
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


def network_faults(tensors: Mapping[str, Shape], network: Mapping[str, Shape], head: str, rows: int) -> list[str]:
    """What of an adapter has no place in a network.

    Args:
        tensors: the adapter's, name -> shape.
        network: the foundation's parameters, name -> shape.
        head: name of the network's last layer; the task's, of so many `rows`, takes its place.
    """
    task_head = {f"{head}.weight": (rows, *network[f"{head}.weight"][1:]), f"{head}.bias": (rows,)}
    wanted = {**network, **task_head}
    weights = {name[len(WEIGHT) :]: shape for name, shape in tensors.items() if name.startswith(WEIGHT)}
    faults = [f"no {name}" for name in task_head if name not in weights]
    for name, shape in weights.items():
        if name not in wanted:
            faults.append(f"the network has no parameter {name}")
        elif shape != wanted[name]:
            faults.append(f"{name} is {shape}, expected {wanted[name]}")
    projections: dict[str, set[str]] = {}
    for name, parts in _updates(tensors).items():
        layer, _, projection = name.rpartition(".")
        projections.setdefault(layer, set()).add(projection)
        target = f"{layer}.weight"
        if not layer.endswith(TARGET) or target not in network or target in weights:
            faults.append(f"no projection {layer} that could be updated")
        elif parts.get("A", ())[1:] != network[target][1:]:
            faults.append(f"{name}.A is {parts.get('A')}, expected (rank, {network[target][1]})")
    return faults + [
        f"{layer} has updates of {' and '.join(sorted(found))}, expected key and value, or qkv"
        for layer, found in projections.items()
        if found not in (KEY_VALUE, FUSED)
    ]


def _updates(tensors: Mapping[str, Shape]) -> dict[str, dict[str, Shape]]:
    """ "<layer>.<projection>" -> part -> shape."""
    grouped: dict[str, dict[str, Shape]] = {}
    for name, shape in tensors.items():
        if name.startswith(UPDATE):
            matrix, _, part = name[len(UPDATE) :].rpartition(".")
            grouped.setdefault(matrix, {})[part] = shape
    return grouped


def _update_faults(name: str, parts: Mapping[str, Shape], rank: int) -> Iterable[str]:
    """A (rank, C), B (rows, rank) with rows a multiple of C, and v (rank,) where there is one; of the rank in the record."""
    projection = name.rpartition(".")[2]
    if projection not in ROWS or not set(FACTORS) <= set(parts) <= {*FACTORS, GATE}:
        return [f"unexpected update {name} of {', '.join(sorted(parts))}; expected <layer>.<{'|'.join(ROWS)}> of A, B and perhaps v"]
    if any(len(parts[part]) != 2 for part in FACTORS):
        return [f"{name}: A is {parts['A']} and B is {parts['B']}, expected two matrices"]
    channels, rows = parts["A"][1], ROWS[projection][1] - ROWS[projection][0]
    expected = {"A": (rank, channels), "B": (rows * channels, rank), GATE: (rank,)}
    if rank > MAX_RANK:
        return [f"{name}: rank {rank}, at most {MAX_RANK} can be allocated"]
    return [
        f"{name}.{part} is {shape}, expected {expected[part]} for the rank in the record" for part, shape in parts.items() if shape != expected[part]
    ]
