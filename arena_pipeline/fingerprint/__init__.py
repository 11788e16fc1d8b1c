"""Dataset -> Fingerprint: measured facts, nothing decided."""

from __future__ import annotations

from arena_pipeline.fingerprint.extract import dataset_digest, measure_dataset
from arena_pipeline.fingerprint.models import CaseFacts, Finding, Fingerprint, IntensityProperties, StructureFacts

__all__ = ["CaseFacts", "Finding", "Fingerprint", "IntensityProperties", "StructureFacts", "dataset_digest", "measure_dataset"]
