"""Foundations: pre-trained networks with the scheme they were trained in, and which one a command means."""

from arena_pipeline.foundations.presets import (
    INSTALLED_RECORD,
    OWN_NAME,
    FoundationPreset,
    InstalledPreset,
    Scheme,
    Weights,
    choose_foundation,
    find_preset,
    installing,
    load_preset,
    packaged_weights,
    preset_folder,
    preset_names,
    read_preset,
    weights_file,
    with_weights,
)

__all__ = [
    "FoundationPreset",
    "INSTALLED_RECORD",
    "InstalledPreset",
    "OWN_NAME",
    "Scheme",
    "Weights",
    "choose_foundation",
    "find_preset",
    "installing",
    "load_preset",
    "packaged_weights",
    "preset_folder",
    "preset_names",
    "read_preset",
    "weights_file",
    "with_weights",
]
