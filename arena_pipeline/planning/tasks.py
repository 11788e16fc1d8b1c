"""The decisions about one task. Each function returns what was decided and why, in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from arena_pipeline.fingerprint import Finding, Fingerprint
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.dataset import DatasetJson, StructureSplit
from arena_pipeline.io.splits import LARGEST_DRAW
from arena_pipeline.planning.models import Plans, TaskPlan
from arena_pipeline.words import listed

NO_VOXEL_LEFT = "no voxel left at the foundation's spacing"
NAMES_SHOWN = 5
"""Names of cases that a reason lists before it only counts."""


def plan_task(
    name: str, structures: dict[str, int], fingerprint: Fingerprint, preset: FoundationPreset, dataset: DatasetJson
) -> tuple[TaskPlan, dict[str, str]]:
    """The task, and the reasons of its decisions by field ("keep_largest.liver" for a structure's)."""
    reasons: dict[str, str] = {}
    kind, reasons["kind"] = choose_kind(structures, preset)
    train_decoder, reasons["train_decoder"] = choose_decoder(structures, preset, kind)
    head, reasons["head"] = choose_head(structures, preset, kind, multiclass=list(structures) != [name])
    candidates, reasons["candidates"] = choose_candidates(name, structures, dataset, fingerprint)
    max_shots, reasons["max_shots"] = choose_max_shots(structures, candidates)
    keep_largest = {}
    for structure in structures:
        keep_largest[structure], reasons[f"keep_largest.{structure}"] = choose_keep_largest(structure, candidates, fingerprint)
    task = TaskPlan(
        name=name,
        structures=structures,
        kind=kind,
        train_decoder=train_decoder,
        head=head,
        keep_largest=keep_largest,
        candidates=candidates,
        max_shots=max_shots,
    )
    return task, reasons


def choose_kind(structures: dict[str, int], preset: FoundationPreset) -> tuple[Literal["base", "novel"], str]:
    """Base only where the foundation knows every structure of the task."""
    unknown = [name for name in structures if name not in preset.structures]
    known = f"the {len(preset.structures)} structures that {preset.name} was pre-trained on"
    if not preset.structures:
        return "novel", f"{preset.name} was pre-trained without any structure"
    if not unknown:
        return "base", f"{listed(structures, NAMES_SHOWN)} {'is' if len(structures) == 1 else 'are all'} among {known}"
    if len(unknown) == len(structures):
        return "novel", f"{listed(unknown, NAMES_SHOWN)} {'is' if len(unknown) == 1 else 'are'} not among {known}"
    new = f"{listed(unknown, NAMES_SHOWN)} {'is' if len(unknown) == 1 else 'are'} not among {known}"
    return "novel", f"{new}, and a task with any new structure is novel"


def choose_decoder(structures: dict[str, int], preset: FoundationPreset, kind: str) -> tuple[bool, str]:
    """Trained for what the foundation does not know, where it has none, and where its preset says so."""
    if preset.pretrained_parts == "encoder":
        return True, f"{preset.name} has no pre-trained decoder: it is trained"
    if kind == "base" and preset.train_decoder == "always":
        return True, f"the preset of {preset.name} has its decoder trained for the structures that it knows too"
    if kind == "base":
        verb = "is" if len(structures) == 1 else "are"
        return False, f"{listed(structures, NAMES_SHOWN)} {verb} among the pre-training structures: the decoder stays frozen"
    return True, "the task is novel to this foundation: the decoder is trained"


def choose_head(structures: dict[str, int], preset: FoundationPreset, kind: str, multiclass: bool) -> tuple[Literal["pretrained", "new"], str]:
    """The foundation's own rows where it has all that the task needs."""
    if preset.head == "none":
        return "new", f"{preset.name} has no head that could be taken over"
    if kind == "novel":
        missing = [name for name in structures if name not in preset.structures]
        return "new", f"the head of {preset.name} has no row for {listed(missing, NAMES_SHOWN)}"
    background = "; the row of the background is new" if multiclass else ""
    return "pretrained", f"starts from the {preset.name} head's own row{'s' if multiclass else ''}{background}"


def choose_candidates(name: str, structures: dict[str, int], dataset: DatasetJson, fingerprint: Fingerprint) -> tuple[tuple[str, ...], str]:
    """The usable training cases: there, annotated in every structure of the task, and with a voxel of at least one.

    Their order is the split's where dataset.json has one, since the draw depends on it, else sorted. Queries of the split never are candidates.
    """
    split = dataset.split.get(name) or dataset.split.get("*")
    held_out = _held_out(split, dataset)
    pool = split.train if split and split.train else tuple(case for case in sorted(fingerprint.cases) if case not in held_out)
    faults = {case: _fault(case, structures, fingerprint) for case in pool}
    candidates = tuple(case for case in pool if faults[case] is None)
    source = "cases of the split in dataset.json, in its order" if split and split.train else "training cases, sorted"
    reason = f"{len(candidates)} of the {len(pool)} {source}"
    for fault in ("not in imagesTr", "not annotated", "empty", NO_VOXEL_LEFT):
        if wrong := [case for case in pool if faults[case] == fault]:
            reason += f"; {fault}: {listed(wrong, NAMES_SHOWN)}"
    if repeated := sorted({case for case in candidates if candidates.count(case) > 1}):
        reason += f"; listed twice there, and left so since the draw depends on it: {listed(repeated, NAMES_SHOWN)}"
    if split and split.train and len(candidates) < len(pool):
        reason += "; so the support sets differ from those that the whole split gives"
    return candidates, reason


def partly_annotated(plans: Plans, fingerprint: Fingerprint) -> list[Finding]:
    """Training cases that no task of several structures can use, because some of these are not annotated in them."""
    findings = []
    for task in plans.tasks:
        facts = {name: fingerprint.structures[name] for name in task.structures}
        partial = [case for case in fingerprint.cases if 0 < sum(case in fact.annotated_cases for fact in facts.values()) < len(facts)]
        if partial:
            lacking = [name for name, fact in facts.items() if not set(partial) <= set(fact.annotated_cases)]
            sentence = (
                f"{task.name}: {len(partial)} of {len(fingerprint.cases)} training cases are left out ({listed(partial, NAMES_SHOWN)}), "
                f"since {listed(lacking, NAMES_SHOWN)} is not annotated in all of them; annotate it there, or plan a task for each structure "
                "with --objective binary"
            )
            findings.append(Finding.of_dataset("warning", sentence))
    return findings


def _held_out(split: StructureSplit | None, dataset: DatasetJson) -> set[str]:
    """Queries of this task's split; of every split where the task has none, to be on the safe side."""
    splits = [split] if split else list(dataset.split.values())
    return {case for entry in splits for case in entry.test}


def _fault(case: str, structures: dict[str, int], fingerprint: Fingerprint) -> str | None:
    facts = [fingerprint.structures[name] for name in structures]
    if case not in fingerprint.cases:
        return "not in imagesTr"
    if any(case not in fact.annotated_cases for fact in facts):
        return "not annotated"
    if not any(case in fact.non_empty_cases for fact in facts):
        return "empty"
    return NO_VOXEL_LEFT if all(case not in fact.non_empty_cases or case in fact.vanishing_cases for fact in facts) else None


def choose_max_shots(structures: dict[str, int], candidates: Sequence[str]) -> tuple[int, str]:
    """As many as there are candidates, up to what the support-set rule can draw."""
    if not candidates:
        return 0, f"no training case can be used: annotate {listed(structures, NAMES_SHOWN)} in a few cases before adapting to this task"
    if len(candidates) >= LARGEST_DRAW:
        return LARGEST_DRAW - 1, f"the support-set rule draws at most {LARGEST_DRAW - 1} of the {len(candidates)} candidates"
    return len(candidates), f"the number of candidates ({len(candidates)}); with all of them the folds share one support set"


def without_scans(task: TaskPlan, left_out: Collection[str], fingerprint: Fingerprint) -> TaskPlan:
    """The task as it would be planned if nobody had labelled `left_out`: a scan's own label must have no say in what it is scored on.

    What a person has decided otherwise in plans.json stays.
    """
    rest, keep = [case for case in task.candidates if case not in left_out], dict(task.keep_largest)
    for name, planned in task.keep_largest.items():
        if name in fingerprint.structures and planned == choose_keep_largest(name, task.candidates, fingerprint)[0]:
            keep[name] = choose_keep_largest(name, rest, fingerprint)[0]
    return task.model_copy(update={"keep_largest": keep})


def choose_keep_largest(structure: str, candidates: Sequence[str], fingerprint: Fingerprint) -> tuple[bool, str]:
    """Decided from the labels that a support set can come from, never from held-out cases."""
    components = {case: count for case, count in fingerprint.structures[structure].components.items() if case in candidates}
    if not components:
        return False, f"no candidate shows {structure} with all around it annotated, so nothing is known of its components"
    several = [f"{case} ({count})" for case, count in components.items() if count != 1]
    if several:
        return False, f"more than one connected component in {len(several)} of {len(components)} candidates: {listed(several, NAMES_SHOWN)}"
    return True, f"one connected component in every candidate that shows it ({len(components)})"
