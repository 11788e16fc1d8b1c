"""The network, its weights, the low-rank update, and the adapter that joins adaptation and prediction."""

from arena_pipeline.model.lean_import import keep_monai_lean

keep_monai_lean()
