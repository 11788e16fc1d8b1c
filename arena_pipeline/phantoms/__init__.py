"""CT-like torsos with known anatomy, for demonstrations, tests and pre-training."""

from __future__ import annotations

from arena_pipeline.phantoms.field_of_view import FieldOfView
from arena_pipeline.phantoms.phantom import Phantom, make_phantom
from arena_pipeline.phantoms.structures import PHANTOM_STRUCTURES

__all__ = ["PHANTOM_STRUCTURES", "FieldOfView", "Phantom", "make_phantom"]
