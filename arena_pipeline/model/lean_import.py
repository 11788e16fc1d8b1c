"""MONAI imports transformers, where that is installed, for one network that is not used here: more seconds than all the rest takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

HEAVY, IMPORTER = "transformers", "monai"


class _NotForMonai(MetaPathFinder):
    """Says that transformers is not installed, which MONAI is prepared for, while MONAI itself is imported; to nobody else and not later."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = getattr(sys.modules.get(IMPORTER), "__spec__", None)
        if name == HEAVY and getattr(spec, "_initializing", False):
            raise ModuleNotFoundError(f"{HEAVY} is not imported for {IMPORTER}", name=name)
        return None


def keep_monai_lean() -> None:
    """Call before the first import of MONAI."""
    if not any(isinstance(finder, _NotForMonai) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NotForMonai())
