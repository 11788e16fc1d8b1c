"""The families of networks, one module each. No other part of the package asks which family a network is of.

This package stands on the ground floor: presets name an architecture, so it imports nothing of arena_pipeline but settings and errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from arena_pipeline.model.architectures.base import Architecture, Layout, Shape, Target
from arena_pipeline.model.architectures.swin_unetr import SwinUnetr
from arena_pipeline.model.architectures.unet import PlainUNet, ResidualUNet

__all__ = ["FAMILIES", "FIRST_FAMILY", "AnyArchitecture", "Architecture", "Layout", "Shape", "SwinUnetr", "Target", "layer_label"]

FAMILIES: dict[str, type[Architecture]] = {"swin_unetr": SwinUnetr, "plain_unet": PlainUNet, "residual_unet": ResidualUNet}
FIRST_FAMILY = "swin_unetr"  # of presets without `family`, which were written when there was one


def _of_its_family(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    family = value.get("family", FIRST_FAMILY)
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[family].model_validate(value)


AnyArchitecture = Annotated[SerializeAsAny[Architecture], BeforeValidator(_of_its_family)]
"""The architecture of a preset: its `family` says which model reads the other keys."""


def layer_label(block: str) -> str:
    """A short name for "<layer>.<block of rows>", as plots have room for; the name itself where no family knows it."""
    labels = (family.layer_label(block) for family in FAMILIES.values())
    return next((label for label in labels if label is not None), block)
