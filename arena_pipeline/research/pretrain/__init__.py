"""Supervised pre-training of a foundation, e.g. of the embedded arena_mini on phantoms."""
