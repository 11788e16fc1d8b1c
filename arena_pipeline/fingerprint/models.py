"""What a fingerprint says: the measured facts of a dataset, as they stand in dataset_fingerprint.json.

All shapes, spacings and fields of view are along the patient's axes (x left-right, y front-back, z foot-head), whatever order the file
stores them in; `CaseFacts.orientation` says how the file does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from arena_pipeline.errors import PlansError
from arena_pipeline.io.json_files import StoredModel, read_model
from arena_pipeline.settings import Frozen

Level = Literal["error", "warning", "fixed", "info"]


class IntensityProperties(Frozen):
    """Intensities in HU over labelled voxels, every case with the same weight."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


class StructureFacts(Frozen):
    """One structure over the training cases.

    Attributes:
        annotated: number of cases in which it is annotated, present or not.
        non_empty: number of cases in which it has voxels.
        annotated_cases, non_empty_cases: which, sorted.
        median_volume_ml: over the non-empty cases; None where there are none. Cases that are unlabelled beside the structure don't count.
        components: 26-connected components, for each non-empty case that is annotated all around the structure.
        touches_border: number of cases in which it reaches the edge of the volume.
        clipped_share: median over the non-empty cases of the share of its voxels outside the foundation's window.
        vanishing_cases: the non-empty cases in which none of its voxels is left at the foundation's spacing, sorted.
    """

    annotated: int
    non_empty: int
    non_empty_cases: tuple[str, ...]
    annotated_cases: tuple[str, ...]
    median_volume_ml: float | None
    components: dict[str, int]
    touches_border: int
    clipped_share: float | None = None
    vanishing_cases: tuple[str, ...] = ()


class CaseFacts(Frozen):
    """One training case.

    Attributes:
        shape: voxels along the patient's (x, y, z).
        spacing_mm: likewise.
        orientation: the three letters of the file's own axes, e.g. LPS.
        oblique: some axis deviates from the patient's by more than half a degree.
        anisotropy: largest / smallest spacing.
        min_hu, max_hu: of the whole volume.
        clipped_share: share of the volume's voxels outside the foundation's window.
        field_of_view_mm: shape * spacing_mm.
        looks_like_hu: whether the intensities can be Hounsfield units.
        labels_present: label ids with voxels, without the background.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    oblique: bool
    anisotropy: float
    min_hu: float
    max_hu: float
    clipped_share: float
    field_of_view_mm: tuple[float, float, float]
    looks_like_hu: bool
    labels_present: tuple[int, ...]


class Finding(Frozen):
    """Something about a dataset that a person should know or can mend, in one sentence.

    Attributes:
        level: "error": the case, or the dataset, can't be used; "warning": it can, and results may suffer; "fixed": a small fault that is
            mended whenever the file is read; "info": unusual and read right.
        case: None for the whole dataset.
        file: below the dataset's folder; None where it is about no single file.
    """

    level: Level
    case: str | None
    file: str | None = None
    sentence: str

    @classmethod
    def of_dataset(cls, level: Level, sentence: str) -> Finding:
        return cls(level=level, case=None, sentence=sentence)


class Fingerprint(StoredModel):
    """dataset_fingerprint.json. The first five fields are nnU-Net's, by its names; the rest is what few-shot adaptation needs.

    Attributes:
        spacings: spacing_mm per training case, in the order of `cases`.
        shapes_after_crop: likewise, the native voxels of the box around what is not air under the foundation's window.
        foreground_intensity_properties_per_channel: {"0": ...}; empty where no voxel is labelled.
        median_relative_size_after_cropping: cropped / whole volume.
        n_training: number of training cases.
        structures: by name, in the order of dataset.json.
        cases: by identifier, sorted.
        findings: conformity with the foundation's scheme, and faults of the annotation.
        foundation: whose scheme window, crop and findings refer to.
        source_sha256: of the dataset's state (dataset.json, every file's size and time): whether this is still up to date.
    """

    spacings: tuple[tuple[float, float, float], ...]
    shapes_after_crop: tuple[tuple[int, int, int], ...]
    foreground_intensity_properties_per_channel: dict[str, IntensityProperties]
    median_relative_size_after_cropping: float
    dataset_name: str
    n_training: int
    structures: dict[str, StructureFacts]
    cases: dict[str, CaseFacts]
    findings: tuple[Finding, ...]
    foundation: str
    source_sha256: str = ""

    @classmethod
    def read(cls, path: Path) -> Fingerprint:
        """Raises PlansError: missing, or not a valid fingerprint."""
        missing = "no fingerprint; run arena_extract_fingerprint or arena_plan_and_preprocess on this dataset"
        return read_model(path, cls, PlansError, missing, "delete it and run arena_extract_fingerprint")
