"""Foundations: pre-trained networks with the scheme they were trained in, and which one a command means."""

from arena_pipeline.foundations.presets import (
    INSTALLED_RECORD,
    FoundationPreset,
    Scheme,
    Weights,
    choose_foundation,
    find_preset,
    install_command,
    load_preset,
    packaged_weights,
    preset_folder,
    preset_names,
    read_preset,
    weights_file,
)

__all__ = [
    "FoundationPreset",
    "INSTALLED_RECORD",
    "Scheme",
    "Weights",
    "choose_foundation",
    "find_preset",
    "install_command",
    "load_preset",
    "packaged_weights",
    "preset_folder",
    "preset_names",
    "read_preset",
    "weights_file",
]
