"""The labelled structures of a phantom and their label ids."""

from __future__ import annotations

PHANTOM_STRUCTURES: dict[str, int] = {
    name: label
    for label, name in enumerate(
        (
            "spleen", "kidney_right", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "aorta", "inferior_vena_cava", "pancreas",
            "duodenum", "lung_right", "lung_left", "bone", "heart_myocardium", "heart_atrium_left", "heart_atrium_right", "heart_ventricle_left",
            "heart_ventricle_right",
        ),
        start=1,
    )
}  # fmt: skip
