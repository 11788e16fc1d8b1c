"""What the measured facts mean to a person: one sentence each, with what can be done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from arena_pipeline.fingerprint.case import CaseMeasurement
from arena_pipeline.fingerprint.models import Finding, Level, StructureFacts
from arena_pipeline.foundations import FoundationPreset, Scheme
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.words import listed, pluralize

COARSE_FACTOR = 2.0  # up-sampled more than this, a volume has visibly less detail than the foundation was trained on
MUCH_CLIPPED = 0.5
FEW_VOXELS = 20.0
USUAL_SHOTS = 5
NAMED_CASES = 5
NAMED_STRUCTURES = 12


def finding_lines(findings: Iterable[Finding], shown: Mapping[Level, int]) -> list[str]:
    """A line for each finding, "warning: s0042: the sentence"; cases with the same sentence share a line; of each level at most `shown` lines."""
    groups: dict[tuple[Level, str], list[str]] = {}
    for finding in findings:
        cases = groups.setdefault((finding.level, finding.sentence), [])
        if finding.case is not None and finding.case not in finding.sentence:
            cases.append(finding.case)
    lines = []
    for level, most in shown.items():
        found = [(cases, sentence) for (of_level, sentence), cases in groups.items() if of_level == level]
        lines += [f"{level}: {listed(cases, NAMED_CASES)}{': ' if cases else ''}{sentence}" for cases, sentence in found[:most]]
        if len(found) > most:
            lines.append(f"{level}: and {len(found) - most} more, in the file that is written")
    return lines


def description_sentences(raw: RawDataset) -> list[str]:
    """Where dataset.json speaks of other cases than there are: in its splits, or by their number."""
    said, found = raw.json.numTraining, len(raw.training)
    number = f"dataset.json says numTraining {said}, found {pluralize(found, 'case')} with CT and segmentation; add the others, or correct it"
    return [*split_sentences(raw), *([number] if said != found else [])]


def split_sentences(raw: RawDataset) -> list[str]:
    """For every structure whose split in dataset.json names cases that are not there."""
    known = {"train": set(raw.training), "test": {*raw.training, *raw.queries}}
    sentences = []
    for structure, split in raw.json.split.items():
        for part, cases in (("train", split.train), ("test", split.test)):
            if unknown := [case for case in dict.fromkeys(cases) if case not in known[part]]:
                where = "not in imagesTr" if part == "train" else "in neither imagesTr nor imagesTs"
                there = len(set(cases) & known[part])
                sentences.append(
                    f"dataset.json: split of {structure} names {listed(unknown, NAMED_STRUCTURES)} under {part}, {where}; "
                    f"passed over, so that {there} of its {len(set(cases))} stay: correct the names, or copy the cases"
                )
    return sentences


def grid_findings(measurements: Mapping[str, CaseMeasurement], scheme: Scheme) -> Iterator[Finding]:
    """What concerns many cases."""
    facts = {case: measured.facts for case, measured in measurements.items()}
    patch_mm = np.array(scheme.patch_size_mm)
    factors = {case: max(np.divide(f.spacing_mm, scheme.spacing_xyz_mm)) for case, f in facts.items()}
    if coarse := [case for case, factor in factors.items() if factor > COARSE_FACTOR]:
        worst = max(coarse, key=lambda case: factors[case])
        most = f"{worst}, from {_mm(facts[worst].spacing_mm)} to {_mm(scheme.spacing_xyz_mm)}, factor {factors[worst]:.1f}"
        seen = "the network sees interpolated slices; use thinner ones if there are any"
        yield Finding.of_dataset("warning", f"{_cases(coarse, facts)} up-sampled by more than {COARSE_FACTOR:g} (most: {most}): {seen}")
    if small := [case for case, f in facts.items() if any(np.array(f.field_of_view_mm) < patch_mm)]:
        worst = min(small, key=lambda case: min(facts[case].field_of_view_mm / patch_mm))
        size = f"smaller than the foundation's patch of {_mm(patch_mm)} along some axis (smallest: {worst}, {_mm(facts[worst].field_of_view_mm)})"
        filled = "the patch is filled up with air; use scans with a larger field of view if there are any"
        yield Finding.of_dataset("warning", f"{_cases(small, facts)} {size}: {filled}")
    if oblique := [case for case, f in facts.items() if f.oblique]:
        handled = "handled along their own axes, results come on the CT's grid; nothing to do"
        yield Finding.of_dataset("info", f"{_cases(oblique, facts)} oblique to the patient's axes: {handled}")
    if sheared := [case for case, measured in measurements.items() if not measured.orthonormal]:
        taken = "on a grid without right angles, taken as if it had them; re-export where shapes look skewed"
        yield Finding.of_dataset("warning", f"{_cases(sheared, facts)} {taken}")


def structure_findings(structures: Mapping[str, StructureFacts], preset: FoundationPreset) -> list[Finding]:
    """One sentence per kind of finding, naming its structures: a dataset may have a hundred."""
    found: list[Finding] = []

    def add(level: Level, names: list[str], sentence: str) -> None:
        if names:
            found.append(Finding.of_dataset(level, f"{listed(names, NAMED_STRUCTURES)}: {sentence}"))

    spacing, voxel_ml = _mm(preset.scheme.spacing_xyz_mm), float(np.prod(preset.scheme.spacing_mm)) / 1000
    window = f"mostly outside the foundation's window of {preset.scheme.window_hu[0]:g} to {preset.scheme.window_hu[1]:g} HU"
    shown = {name: facts for name, facts in structures.items() if facts.non_empty}
    can_not = "no adaptation is possible"
    unannotated = [name for name, facts in structures.items() if not facts.annotated]
    add("warning", unannotated, f"annotated in no training case, {can_not}; annotate some, or drop it from labels in dataset.json")
    empty = [name for name, facts in structures.items() if facts.annotated and not facts.non_empty]
    add("warning", empty, f"absent from all cases in which it is annotated, {can_not}; add cases that show it")
    rare = [f"{name} ({facts.non_empty})" for name, facts in shown.items() if facts.non_empty < USUAL_SHOTS]
    add("info", rare, f"present in fewer than {USUAL_SHOTS} training cases (the number is the most shots possible); annotate more if you can")
    volumes = {name: facts.median_volume_ml for name, facts in structures.items() if facts.median_volume_ml is not None}
    small = [f"{name} (about {ml / voxel_ml:.2g})" for name, ml in volumes.items() if ml < FEW_VOXELS * voxel_ml]
    finer = "a foundation with finer voxels"
    add("warning", small, f"fewer than {FEW_VOXELS:g} voxels at the foundation's {spacing}, too few to outline well; {finer} suits better")
    vanishing = [f"{name} ({', '.join(facts.vanishing_cases[:NAMED_CASES])})" for name, facts in shown.items() if facts.vanishing_cases]
    add("warning", vanishing, f"not a voxel is left at the foundation's {spacing}, so nothing is learned of it from these; {finer} shows more")
    cut = [f"{name} ({facts.touches_border} of {facts.non_empty})" for name, facts in shown.items() if facts.touches_border]
    add("info", cut, "reaches the edge of the volume and may be cut off there; prefer support cases that show all of it")
    clipped = {name: f"{name} ({facts.clipped_share:.0%})" for name, facts in structures.items() if (facts.clipped_share or 0) > MUCH_CLIPPED}
    new = [words for name, words in clipped.items() if name not in preset.structures]
    add("warning", new, f"{window}, the network sees its outline but no detail inside; check its result with care")
    known = [words for name, words in clipped.items() if name in preset.structures]
    add("info", known, f"{window}, but the foundation learned it so; nothing to do")
    return found


def _cases(cases: list[str], everything: Mapping[str, object]) -> str:
    """'2 of 5 cases (a, b) are'"""
    return f"{len(cases)} of {pluralize(len(everything), 'case')} ({listed(cases, NAMED_CASES)}) {'is' if len(cases) == 1 else 'are'}"


def _mm(lengths: Iterable[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths) + " mm"
