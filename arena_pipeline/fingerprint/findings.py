"""What the measured facts mean to a person: one sentence each, with what can be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from arena_pipeline.fingerprint.case import CaseMeasurement
from arena_pipeline.fingerprint.models import Finding, StructureFacts
from arena_pipeline.foundations import FoundationPreset, Scheme
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.words import counted

COARSE_FACTOR = 2.0  # up-sampled more than this, a volume has visibly less detail than the foundation was trained on
MUCH_CLIPPED = 0.5
FEW_VOXELS = 20.0
USUAL_SHOTS = 5
NAMED_CASES = 5
NAMED_STRUCTURES = 12


def case_findings(case: str, measured: CaseMeasurement, annotated: Iterable[str]) -> list[Finding]:
    """Warnings about one case."""
    facts = measured.facts
    sentences = []
    if not facts.looks_like_hu:
        sentences.append(not_hu_sentence(facts.min_hu, facts.max_hu))
    if measured.all_air:
        sentences.append("nothing in the volume is above the lower end of the foundation's window: it is empty for the network; check the CT")
    annotated = tuple(annotated)
    if not annotated:
        sentences.append("no structure is annotated: it can't be a support case; take it out of imagesTr or annotate it")
    elif not measured.structures:
        sentences.append("the segmentation is empty: it can't be a support case; annotate it, or take it out of imagesTr")
    return [Finding(level="warning", case=case, sentence=sentence) for sentence in sentences]


def dataset_findings(
    measurements: Mapping[str, CaseMeasurement], structures: Mapping[str, StructureFacts], preset: FoundationPreset
) -> list[Finding]:
    """What concerns many cases, or a structure."""
    return [*_grid_findings(measurements, preset.scheme), *_structure_findings(structures, preset)]


def number_sentence(said: int, found: int) -> str:
    """Where dataset.json counts other cases than imagesTr has."""
    return f"dataset.json says numTraining {said}, imagesTr has {counted(found, 'case')}; copy the others, or correct it"


def split_sentences(raw: RawDataset) -> list[str]:
    """For every structure whose split in dataset.json names cases that are not there."""
    known = {"train": set(raw.training), "test": {*raw.training, *raw.queries}}
    sentences = []
    for structure, split in raw.json.split.items():
        for part, cases in (("train", split.train), ("test", split.test)):
            if unknown := [case for case in dict.fromkeys(cases) if case not in known[part]]:
                where = "imagesTr" if part == "train" else "neither imagesTr nor imagesTs"
                there = len(set(cases) & known[part])
                sentences.append(
                    f"dataset.json: split of {structure} names {_list(unknown)} under {part}, {'not in ' if part == 'train' else 'in '}{where}; "
                    f"passed over, so that {there} of its {len(set(cases))} stay: correct the names, or copy the cases"
                )
    return sentences


def not_hu_sentence(low: float, high: float) -> str:
    """What is wrong with intensities from `low` to `high`, and what to do."""
    return f"intensities from {low:g} to {high:g} are not Hounsfield units{_not_hu_hint(low, high)}"


def _not_hu_hint(low: float, high: float) -> str:
    if high - low <= 10:
        return " (scaled to a small range?); export the CT without normalisation"
    if low >= 0 and high <= 255:
        return " (an 8-bit picture, or a windowed export?); export the CT with its full range"
    if low >= 0:
        return " (an MR image, or a CT without its offset?); export it with rescale slope and intercept applied, water is 0 and air -1000 HU"
    return "; export the CT with rescale slope and intercept applied, water is 0 and air -1000 HU"


def _grid_findings(measurements: Mapping[str, CaseMeasurement], scheme: Scheme) -> list[Finding]:
    facts = {case: measured.facts for case, measured in measurements.items()}
    patch_mm = np.multiply(scheme.patch_size_voxels, scheme.spacing_mm)
    factors = {case: max(np.divide(f.spacing_mm, scheme.spacing_mm)) for case, f in facts.items()}
    findings = []
    coarse = [case for case, factor in factors.items() if factor > COARSE_FACTOR]
    if coarse:
        worst = max(coarse, key=lambda case: factors[case])
        sentence = (
            f"{_cases(coarse, facts)} up-sampled by more than {COARSE_FACTOR:g} (most: {worst}, from {_mm(facts[worst].spacing_mm)} to "
            f"{_mm(scheme.spacing_mm)}, factor {factors[worst]:.1f}): the network sees interpolated slices; use thinner ones if there are any"
        )
        findings.append(Finding(level="warning", case=None, sentence=sentence))
    small = [case for case, f in facts.items() if any(np.array(f.field_of_view_mm) < patch_mm)]
    if small:
        worst = min(small, key=lambda case: min(facts[case].field_of_view_mm / patch_mm))
        sentence = (
            f"{_cases(small, facts)} smaller than the foundation's patch of {_mm(patch_mm)} along some axis (smallest: {worst}, "
            f"{_mm(facts[worst].field_of_view_mm)}): the rest of it is padded with air; use scans with a larger field of view if there are any"
        )
        findings.append(Finding(level="info", case=None, sentence=sentence))
    oblique = [case for case, f in facts.items() if f.oblique]
    if oblique:
        sentence = (
            f"{_cases(oblique, facts)} oblique to the patient's axes: handled along their own axes, results come on the CT's grid; nothing to do"
        )
        findings.append(Finding(level="info", case=None, sentence=sentence))
    sheared = [case for case, measured in measurements.items() if not measured.orthonormal]
    if sheared:
        sentence = f"{_cases(sheared, facts)} on a grid without right angles, taken as if it had them; re-export where shapes look skewed"
        findings.append(Finding(level="info", case=None, sentence=sentence))
    return findings


def _structure_findings(structures: Mapping[str, StructureFacts], preset: FoundationPreset) -> list[Finding]:
    """One sentence per kind of finding, naming its structures: a dataset may have a hundred."""
    voxel_ml = float(np.prod(preset.scheme.spacing_mm)) / 1000
    volumes = {name: facts.median_volume_ml for name, facts in structures.items() if facts.median_volume_ml is not None}
    clipped = [name for name, facts in structures.items() if facts.clipped_share is not None and facts.clipped_share > MUCH_CLIPPED]
    low, high = preset.scheme.window_hu
    window, spacing = f"{low:g} to {high:g} HU", _mm(preset.scheme.spacing_mm)
    groups: list[tuple[Literal["info", "warning"], list[str], str]] = [
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
            [f"{name} ({structures[name].non_empty})" for name in volumes if structures[name].non_empty < USUAL_SHOTS],
            f"present in fewer than {USUAL_SHOTS} training cases (the number is the most shots possible); annotate more if you can",
        ),
        (
            "warning",
            [f"{name} (about {volume / voxel_ml:.2g})" for name, volume in volumes.items() if volume < FEW_VOXELS * voxel_ml],
            f"fewer than {FEW_VOXELS:g} voxels at the foundation's {spacing}, too few to outline well; a foundation with finer voxels suits better",
        ),
        (
            "info",
            [f"{name} ({structures[name].touches_border} of {structures[name].non_empty})" for name in volumes if structures[name].touches_border],
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
    return [Finding(level=level, case=None, sentence=f"{_list(names)}: {text}") for level, names, text in groups if names]


def _list(names: list[str]) -> str:
    more = len(names) - NAMED_STRUCTURES
    return ", ".join(names[:NAMED_STRUCTURES]) + (f" and {more} more" if more > 0 else "")


def _cases(cases: list[str], everything: Mapping[str, object]) -> str:
    """'2 of 5 cases (a, b) are'"""
    names = ", ".join(cases[:NAMED_CASES]) + (", ..." if len(cases) > NAMED_CASES else "")
    return f"{len(cases)} of {counted(len(everything), 'case')} ({names}) {'is' if len(cases) == 1 else 'are'}"


def _mm(lengths: Iterable[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths) + " mm"
