"""A small Swin UNETR that knows two structures, and tasks of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from arena_pipeline.foundations import FoundationPreset, Scheme, Weights
from arena_pipeline.io.geometry import Image
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.planning import TaskPlan
from arena_pipeline.predict.case import CaseSettings, PredictionTask, Sinks, predict_volume
from arena_pipeline.predict.windows import Bundle, Network, Windows, means_over_bundles
from arena_pipeline.preprocess.case import preprocess_image

SCHEME = Scheme(spacing_mm=(4, 4, 4), window_hu=(-175, 250), patch_size_voxels=(64, 32, 32))
PRESET = FoundationPreset(
    name="toy",
    title="toy",
    architecture=SwinUnetr(feature_size=12, window_size_voxels=(2, 2, 2), out_channels=3, patch_merging="monai_1.5"),
    scheme=SCHEME,
    head="softmax",
    structures={"spleen": 1, "liver": 2},
    weights=Weights(expected_file="x", layout="arena", origin="made here"),
    preference=1,
    licence="CC0",
    citation="none",
)
BASE = TaskPlan(
    name="liver",
    structures={"liver": 2},
    kind="base",
    train_decoder=False,
    head="pretrained",
    keep_largest={"liver": True},
    candidates=("a",),
    max_shots=1,
)
NOVEL = TaskPlan(
    name="heart", structures={"heart": 1}, kind="novel", train_decoder=True, head="new", keep_largest={"heart": True}, candidates=("a",), max_shots=1
)


def predict_image(image: Image, tasks: Sequence[PredictionTask], settings: CaseSettings, sinks: Sinks | None = None) -> np.ndarray:
    """The segmentation (x, y, z) of one CT in HU on its own grid."""
    volume, grid = preprocess_image(image, settings.scheme)
    return predict_volume(volume, grid, tasks, settings, sinks or Sinks())


def mean_over_networks(networks: Iterable[Network], volume: np.ndarray, windows: Windows) -> np.ndarray:
    """The mean of several networks' probabilities, (channels, x, y, z) float32, each network in a bundle of its own."""
    return means_over_bundles((Bundle(network, (0,)) for network in networks), volume, windows)[0]
