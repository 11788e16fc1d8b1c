"""Fingerprints, dataset descriptions and the plans made of them, for the tests of planning."""

from __future__ import annotations

from collections.abc import Sequence

from arena_pipeline.fingerprint import CaseFacts, Fingerprint, StructureFacts
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.dataset import DatasetJson, Objective
from arena_pipeline.planning import Machine, Plans, make_plans

GIB = 2**30
LAPTOP = Machine(memory_bytes=16 * GIB, device_memory_bytes=None, cores=4)
LABELS = {"background": 0, "liver": 1, "spleen": 2, "heart_myocardium": 3}


def dataset(objective: Objective | None = "binary", labels: dict[str, int] = LABELS, **extra: object) -> DatasetJson:
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz", **extra}
    return DatasetJson.model_validate(content if objective is None else {**content, "objective": objective})


def structure(non_empty: dict[str, int], annotated: Sequence[str]) -> StructureFacts:
    """`non_empty`: case -> number of connected components."""
    return StructureFacts(
        annotated=len(annotated),
        non_empty=len(non_empty),
        non_empty_cases=tuple(non_empty),
        annotated_cases=tuple(annotated),
        median_volume_ml=100.0 if non_empty else None,
        components=non_empty,
        touches_border=0,
    )


def fingerprint(structures: dict[str, StructureFacts], cases: Sequence[str] = ("a", "b", "c"), shape: int = 100) -> Fingerprint:
    case = CaseFacts(
        shape=(shape, shape, shape),
        spacing_mm=(1.5, 1.5, 1.5),
        orientation="RAS",
        oblique=False,
        anisotropy=1.0,
        min_hu=-1000.0,
        max_hu=1500.0,
        clipped_share=0.5,
        field_of_view_mm=(150.0, 150.0, 150.0),
        looks_like_hu=True,
        labels_present=(1,),
    )
    return Fingerprint(
        spacings=((1.5, 1.5, 1.5),) * len(cases),
        shapes_after_crop=((shape, shape, shape),) * len(cases),
        foreground_intensity_properties_per_channel={},
        median_relative_size_after_cropping=1.0,
        dataset_name="Dataset101_Test",
        n_training=len(cases),
        structures=structures,
        cases=dict.fromkeys(cases, case),
        findings=(),
        foundation="fseft",
    )


def everywhere(labels: dict[str, int] = LABELS, cases: Sequence[str] = ("a", "b", "c")) -> Fingerprint:
    """Every structure annotated in every case, in one piece."""
    return fingerprint({name: structure(dict.fromkeys(cases, 1), cases) for name, label in labels.items() if label}, cases)


def plans(foundation: str = "fseft", facts: Fingerprint | None = None, described: DatasetJson | None = None, machine: Machine = LAPTOP) -> Plans:
    return make_plans(facts or everywhere(), load_preset(foundation), "0" * 64, described or dataset(), machine)
