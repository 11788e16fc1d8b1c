"""CT-like torsos with known anatomy, for demonstrations, tests and pre-training."""

from __future__ import annotations

from arena_pipeline.research.phantoms.field_of_view import FieldOfView
from arena_pipeline.research.phantoms.phantom import Phantom, make_phantom
from arena_pipeline.research.phantoms.structures import PHANTOM_STRUCTURES

__all__ = ["PHANTOM_STRUCTURES", "FieldOfView", "Phantom", "make_phantom"]
