"""What the measured facts mean to a person: one sentence each, with what can be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def in_words(findings: Iterable[Finding], shown: Mapping[Level, int]) -> list[str]:
    """A line for each finding, "warning: s0042: the sentence"; cases with the same one share a line, and of a level at most `shown` are told."""
    groups: dict[tuple[Level, str], list[str]] = {}
    for finding in findings:
        cases = groups.setdefault((finding.level, finding.sentence), [])
        if finding.case is not None and finding.case not in finding.sentence:
            cases.append(finding.case)
    lines = []
    for level, most in shown.items():
        found = [(cases, sentence) for (of_level, sentence), cases in groups.items() if of_level == level]
        lines += [f"{level}: {_named(cases)}{sentence}" for cases, sentence in found[:most]]
        if len(found) > most:
            lines.append(f"{level}: and {len(found) - most} more, in the file that is written")
    return lines


def _named(cases: list[str]) -> str:
    return f"{listed(cases, NAMED_CASES)}: " if cases else ""


def dataset_findings(
    measurements: Mapping[str, CaseMeasurement], structures: Mapping[str, StructureFacts], preset: FoundationPreset
) -> list[Finding]:
    """What concerns many cases, or a structure."""
    return [*_grid_findings(measurements, preset.scheme), *_structure_findings(structures, preset)]


def number_sentence(said: int, found: int) -> str:
    """Where dataset.json counts other cases than imagesTr has."""
    return f"dataset.json says numTraining {said}, imagesTr has {pluralize(found, 'case')}; copy the others, or correct it"


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


def _grid_findings(measurements: Mapping[str, CaseMeasurement], scheme: Scheme) -> list[Finding]:
    facts = {case: measured.facts for case, measured in measurements.items()}
    patch_mm = np.array(scheme.patch_size_mm)
    factors = {case: max(np.divide(f.spacing_mm, scheme.spacing_xyz_mm)) for case, f in facts.items()}
    findings = []
    coarse = [case for case, factor in factors.items() if factor > COARSE_FACTOR]
    if coarse:
        worst = max(coarse, key=lambda case: factors[case])
        sentence = (
            f"{_cases(coarse, facts)} up-sampled by more than {COARSE_FACTOR:g} (most: {worst}, from {_mm(facts[worst].spacing_mm)} to "
            f"{_mm(scheme.spacing_xyz_mm)}, factor {factors[worst]:.1f}): the network sees interpolated slices; use thinner ones if there are any"
        )
        findings.append(Finding(level="warning", case=None, sentence=sentence))
    small = [case for case, f in facts.items() if any(np.array(f.field_of_view_mm) < patch_mm)]
    if small:
        worst = min(small, key=lambda case: min(facts[case].field_of_view_mm / patch_mm))
        sentence = (
            f"{_cases(small, facts)} smaller than the foundation's patch of {_mm(patch_mm)} along some axis (smallest: {worst}, "
            f"{_mm(facts[worst].field_of_view_mm)}): the rest of it is padded with air; use scans with a larger field of view if there are any"
        )
        findings.append(Finding(level="warning", case=None, sentence=sentence))
    oblique = [case for case, f in facts.items() if f.oblique]
    if oblique:
        sentence = (
            f"{_cases(oblique, facts)} oblique to the patient's axes: handled along their own axes, results come on the CT's grid; nothing to do"
        )
        findings.append(Finding(level="info", case=None, sentence=sentence))
    sheared = [case for case, measured in measurements.items() if not measured.orthonormal]
    if sheared:
        sentence = f"{_cases(sheared, facts)} on a grid without right angles, taken as if it had them; re-export where shapes look skewed"
        findings.append(Finding(level="warning", case=None, sentence=sentence))
    return findings


def _structure_findings(structures: Mapping[str, StructureFacts], preset: FoundationPreset) -> list[Finding]:
    """One sentence per kind of finding, naming its structures: a dataset may have a hundred."""
    voxel_ml = float(np.prod(preset.scheme.spacing_mm)) / 1000
    volumes = {name: facts.median_volume_ml for name, facts in structures.items() if facts.median_volume_ml is not None}
    clipped = [name for name, facts in structures.items() if facts.clipped_share is not None and facts.clipped_share > MUCH_CLIPPED]
    low, high = preset.scheme.window_hu
    window, spacing = f"{low:g} to {high:g} HU", _mm(preset.scheme.spacing_xyz_mm)
    shown = {name: facts for name, facts in structures.items() if facts.non_empty}
    groups: list[tuple[Level, list[str], str]] = [
        (
            "warning",
            [name for name, facts in structures.items() if not facts.annotated],
            "annotated in no training case, no adaptation is possible; annotate some, or drop it from labels in dataset.json",
        ),
        (
            "warning",
            [name for name, facts in structures.items() if facts.annotated and not facts.non_empty],
            "absent from all cases in which it is annotated, no adaptation is possible; add cases that show it",
        ),
        (
            "info",
            [f"{name} ({facts.non_empty})" for name, facts in shown.items() if facts.non_empty < USUAL_SHOTS],
            f"present in fewer than {USUAL_SHOTS} training cases (the number is the most shots possible); annotate more if you can",
        ),
        (
            "warning",
            [f"{name} (about {volume / voxel_ml:.2g})" for name, volume in volumes.items() if volume < FEW_VOXELS * voxel_ml],
            f"fewer than {FEW_VOXELS:g} voxels at the foundation's {spacing}, too few to outline well; a foundation with finer voxels suits better",
        ),
        (
            "warning",
            [f"{name} ({', '.join(facts.vanishing_cases[:NAMED_CASES])})" for name, facts in shown.items() if facts.vanishing_cases],
            f"not a voxel is left at the foundation's {spacing}, so nothing is learned of it from these; a foundation with finer voxels shows more",
        ),
        (
            "info",
            [f"{name} ({facts.touches_border} of {facts.non_empty})" for name, facts in shown.items() if facts.touches_border],
            "reaches the edge of the volume and may be cut off there; prefer support cases that show all of it",
        ),
        (
            "warning",
            [f"{name} ({structures[name].clipped_share:.0%})" for name in clipped if name not in preset.structures],
            f"mostly outside the foundation's window of {window}, the network sees its outline but no detail inside; check its result with care",
        ),
        (
            "info",
            [f"{name} ({structures[name].clipped_share:.0%})" for name in clipped if name in preset.structures],
            f"mostly outside the foundation's window of {window}, but the foundation learned it so; nothing to do",
        ),
    ]
    return [Finding(level=level, case=None, sentence=f"{listed(names, NAMED_STRUCTURES)}: {text}") for level, names, text in groups if names]


def _cases(cases: list[str], everything: Mapping[str, object]) -> str:
    """'2 of 5 cases (a, b) are'"""
    names = ", ".join(cases[:NAMED_CASES]) + (", ..." if len(cases) > NAMED_CASES else "")
    return f"{len(cases)} of {pluralize(len(everything), 'case')} ({names}) {'is' if len(cases) == 1 else 'are'}"


def _mm(lengths: Iterable[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths) + " mm"
