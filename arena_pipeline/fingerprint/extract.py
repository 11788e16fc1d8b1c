"""All cases of a raw dataset -> its Fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.fingerprint.case import CaseJob, CaseMeasurement, measure_case
from arena_pipeline.fingerprint.findings import description_sentences, grid_findings, split_sentences, structure_findings
from arena_pipeline.fingerprint.models import Finding, Fingerprint, IntensityProperties, StructureFacts
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.dataset import DatasetJson, RawDataset
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.words import listed, pluralize

INTENSITY_SAMPLES = 10_000_000
"""Foreground voxels drawn from all cases together. nnU-Net draws ten times as many; percentiles differ by less than 1 HU."""
NAMED_FAULTS = 10
BYTES_PER_WORKER = 2 * 1024**3  # a CT of 512 x 512 x 800 with its segmentation and masks
FINGERPRINT_VERSION = 2
"""Of what is measured and found: a fingerprint of another version is measured again."""


def measure_dataset(raw: RawDataset, preset: FoundationPreset, workers: int | None) -> Fingerprint:
    """Reads every training case once, checks it, and measures it against the foundation's scheme.

    Args:
        workers: processes; None: chosen from cores and memory.

    Raises:
        DatasetError: some cases are unreadable, on another grid than their CT, or have labels that dataset.json doesn't know;
            all of them are named.
    """
    state = dataset_digest(raw, preset)  # before reading: a file that changes meanwhile makes the fingerprint old
    samples = max(1, INTENSITY_SAMPLES // max(1, len(raw.training)))
    jobs = {name: CaseJob(case, raw.json, preset.scheme, samples) for name, case in raw.training.items()}
    measured: dict[str, CaseMeasurement] = {}
    faults: dict[str, str] = {}
    for case, result in map_jobs(measure_case, jobs, Needs("fingerprint", workers, memory_bytes=BYTES_PER_WORKER)):
        if isinstance(result, ArenaError):
            faults[case] = str(result)
        else:
            measured[case] = result
    if faults:
        named = listed((faults[case] for case in sorted(faults)), NAMED_FAULTS, "; ")
        raise DatasetError(f"{raw.folder.name}, {len(faults)} of {pluralize(len(jobs), 'training case')} can't be used: {named}")
    return _assemble(raw, preset, dict(sorted(measured.items())), state)


def dataset_digest(raw: RawDataset, preset: FoundationPreset) -> str:
    """A digest of dataset.json, of the training files' names, sizes and times, and of the foundation's scheme."""
    files = []
    for case in raw.training.values():
        for path in (case.image, case.segmentation):
            if path is not None and path.exists():
                state = path.stat()  # the time of the entry's change too: the file's own can be set, and is by programs that copy or unpack
                files.append((path.relative_to(raw.folder).as_posix(), state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    facts: list[object] = [
        FINGERPRINT_VERSION,
        raw.json.model_dump(mode="json"),
        files,
        preset.name,
        preset.scheme.model_dump(mode="json"),
        sorted(preset.structures),
    ]
    facts += split_sentences(raw)  # whether a query of the split is there: no other finding is about queries
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _assemble(raw: RawDataset, preset: FoundationPreset, measured: dict[str, CaseMeasurement], state: str) -> Fingerprint:
    structures = {name: _structure_facts(name, raw.json, measured) for name in raw.json.structures}
    findings = [finding for m in measured.values() for finding in m.findings]
    findings += [*grid_findings(measured, preset.scheme), *structure_findings(structures, preset)]
    findings += [Finding.of_dataset("warning", sentence) for sentence in description_sentences(raw)]
    relative = [np.prod(m.shape_after_crop) / np.prod(m.facts.shape) for m in measured.values()]
    return Fingerprint(
        spacings=tuple(m.facts.spacing_mm for m in measured.values()),
        shapes_after_crop=tuple(m.shape_after_crop for m in measured.values()),
        foreground_intensity_properties_per_channel=_intensity_properties(measured),
        median_relative_size_after_cropping=float(np.median(relative)),
        dataset_name=raw.folder.name,
        n_training=len(measured),
        structures=structures,
        cases={case: m.facts for case, m in measured.items()},
        findings=tuple(findings),
        foundation=preset.name,
        source_sha256=state,
    )


def _structure_facts(name: str, description: DatasetJson, measured: Mapping[str, CaseMeasurement]) -> StructureFacts:
    annotated = tuple(case for case in measured if description.is_annotated(case, name))
    present = {case: measured[case].structures[name] for case in measured if name in measured[case].structures}
    return StructureFacts(
        annotated=len(annotated),
        non_empty=len(present),
        non_empty_cases=tuple(present),
        annotated_cases=annotated,
        median_volume_ml=_median([m.volume_ml for m in present.values() if m.volume_ml is not None]),
        components={case: m.components for case, m in present.items() if m.components is not None},
        touches_border=sum(m.touches_border for m in present.values()),
        clipped_share=_median([m.clipped_share for m in present.values()]),
        vanishing_cases=tuple(case for case, m in present.items() if m.vanishes),
    )


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _intensity_properties(measured: Mapping[str, CaseMeasurement]) -> dict[str, IntensityProperties]:
    pooled = np.concatenate([m.intensities for m in measured.values()])
    if not pooled.size:
        return {}
    low, median, high = np.percentile(pooled, (0.5, 50, 99.5))
    properties = IntensityProperties(
        mean=float(pooled.mean(dtype=np.float64)),
        median=float(median),
        std=float(pooled.std(dtype=np.float64)),
        min=float(pooled.min()),
        max=float(pooled.max()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )
    return {"0": properties}
