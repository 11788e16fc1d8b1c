"""The patches of one iteration, drawn from one support volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arena_pipeline.adapt.loss import UNKNOWN
from arena_pipeline.errors import SupportSetError
from arena_pipeline.io.labels import UNLABELLED
from arena_pipeline.preprocess.store import StoredCase
from arena_pipeline.settings import AdaptationSettings


@dataclass(frozen=True, eq=False)
class SupportVolume:
    """A stored case with the channels of one task: `channels` maps a label of the stored segmentation to a task channel."""

    case: StoredCase
    channels: Mapping[int, int]
    foreground: np.ndarray  # (n, 3) voxel positions of the task's structures
    background: np.ndarray  # (m, 3) positions with intensity > 0 outside them

    @classmethod
    def open(cls, case: StoredCase, labels: list[int]) -> SupportVolume:
        """`labels` are the task's, in the order of its channels (1, 2, ...; a binary task's one structure is 1).

        Raises:
            SupportSetError: none of the labels is in the case, or nothing else is.
        """
        present = [label for label in labels if len(case.positions(label))]
        if not present:
            raise SupportSetError(
                f"none of the labels {labels} is in its segmentation", case=case.identifier, advice="such a case can't be a support case of this task"
            )
        foreground = np.concatenate([case.positions(label) for label in present])
        tissue = case.tissue_positions
        background = tissue[~np.isin(case.segmentation()[tuple(tissue.T)], labels)]
        if not len(background):
            raise SupportSetError(
                "no annotated voxel outside the structure has an intensity inside the window",
                case=case.identifier,
                advice="annotate some background too, or check the image's units",
            )
        return cls(case, {label: channel for channel, label in enumerate(labels, start=1)}, foreground, background)

    def patches(self, size: tuple[int, int, int], settings: AdaptationSettings, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Images (n, 1, x, y, z) float32 and segmentations (n, x, y, z) uint8 in task channels, UNKNOWN where nobody annotated.

        n = patches_per_volume.

        Half of the centres lie in the foreground, half in the background; of an odd number the last is drawn from either at random.
        A patch lies inside the volume as far as the volume is large enough; beyond it is zero.
        """
        count = settings.patches_per_volume
        positives = count // 2 + (rng.integers(2) if count % 2 else 0)
        centres = [rng.choice(self.foreground if index < positives else self.background) for index in range(count)]
        starts = [_start(centre, size, self.case.shape) for centre in centres]
        images = np.stack([self._image(start, size, settings, rng) for start in starts])
        segmentations = np.stack([self._segmentation(start, size) for start in starts])
        return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(segmentations)

    def _image(self, start: tuple[int, int, int], size: tuple[int, int, int], settings: AdaptationSettings, rng: np.random.Generator) -> np.ndarray:
        patch = self.case.image_patch(start, size)
        if rng.random() < settings.intensity_shift_probability:
            patch = patch + np.float32(rng.uniform(-settings.intensity_shift, settings.intensity_shift))
        return patch

    def _segmentation(self, start: tuple[int, int, int], size: tuple[int, int, int]) -> np.ndarray:
        stored = self.case.segmentation_patch(start, size)
        channels = np.zeros(stored.shape, dtype=np.uint8)
        for label, channel in self.channels.items():
            channels[stored == label] = channel
        channels[stored == UNLABELLED] = UNKNOWN
        return channels


def _start(centre: np.ndarray, size: tuple[int, int, int], shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The first voxel of the patch around `centre`, moved inside the volume; a volume too small is centred in the patch."""
    start = []
    for c, patch, length in zip(centre, size, shape, strict=True):
        slack = length - patch
        start.append(-(-slack // 2) if slack < 0 else min(max(int(c) - patch // 2, 0), slack))
    return start[0], start[1], start[2]
