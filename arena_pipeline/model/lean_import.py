"""MONAI imports packages, where they are installed, for what is not used here: transformers for one network, more seconds than all the rest
takes; scikit-learn for one metric and scipy.signal for two transforms, a second of the processor's together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

HEAVY, IMPORTER = ("transformers", "sklearn", "scipy.signal"), "monai"


class _NotForMonai(MetaPathFinder):
    """Claims that they are not installed, which MONAI is prepared for, while MONAI itself is imported; to no other importer, and not later."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = getattr(sys.modules.get(IMPORTER), "__spec__", None)
        if name in HEAVY and getattr(spec, "_initializing", False):
            raise ModuleNotFoundError(f"{name} is not imported for {IMPORTER}", name=name)
        return None


def keep_monai_lean() -> None:
    """Call before the first import of MONAI."""
    if not any(isinstance(finder, _NotForMonai) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NotForMonai())
