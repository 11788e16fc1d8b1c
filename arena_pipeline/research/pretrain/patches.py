"""Training patches: drawn from stored volumes and augmented, each a function of (seed, step, place in the batch) alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose
from batchgenerators.transforms.color_transforms import BrightnessMultiplicativeTransform, BrightnessTransform, GammaTransform
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from batchgenerators.transforms.spatial_transforms import SpatialTransform
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits
from torch.utils.data import Dataset

from arena_pipeline.preprocess.store import Index, StoredCase
from arena_pipeline.research.pretrain.settings import PretrainSettings

MARGIN = 1.25  # a patch is cut this much larger, so that rotation and scaling leave no empty corners

ELASTIC_ALPHA, ELASTIC_SIGMA = (0.0, 900.0), (9.0, 13.0)  # of batchgenerators' elastic deformation: displacements of up to about 3 voxels
OFFSET_SD = 0.06  # standard deviation of a structure's own brightness, as a share of the window: 25 of 425 HU
LARGEST_BLOTCH_SD = 0.08  # of a structure's blotches, as a share of the window
BLOTCH_SIGMA_VOXELS = (1.0, 3.0)  # of the Gaussian that smooths them


class Batch(NamedTuple):
    """The patches of a step, or one process' part of them.

    Attributes:
        images: (batch, 1, x, y, z) float32 in [0, 1].
        targets: (batch, x, y, z) int64, the values that the loss of the foundation's head expects; 0 is background.
        annotated: (batch, structures) bool, as `sigmoid_loss` takes it.
    """

    images: torch.Tensor
    targets: torch.Tensor
    annotated: torch.Tensor


@dataclass(frozen=True, eq=False)
class PretrainingVolume:
    """Where a stored case is, so that worker processes can open it, and what its labels mean to the foundation.

    Attributes:
        targets: label in the segmentation -> value in `Batch.targets`, of the structures annotated here; other labels are background.
        annotated: per structure of the foundation, in the order of its channels.
    """

    folder: Path
    identifier: str
    targets: Mapping[int, int]
    annotated: tuple[bool, ...]

    @property
    def case(self) -> StoredCase:
        return _opened(self.folder, self.identifier)


@cache
def _opened(folder: Path, identifier: str) -> StoredCase:
    """The case, opened once per process: its files are memory-mapped, its positions stay in memory."""
    return StoredCase.open(folder, identifier)


class PatchSteps(Dataset):
    """Item i is the batch of step i, or those of its patches whose numbers are in `places`.

    `datasets` are lists of volumes; every patch draws a dataset uniformly, then one of its volumes. `clip_to_unit`: intensities end up in [0, 1].
    """

    def __init__(
        self,
        datasets: Sequence[Sequence[PretrainingVolume]],
        patch_size: tuple[int, int, int],
        settings: PretrainSettings,
        places: range | None = None,
        clip_to_unit: bool = True,
    ) -> None:
        self.datasets = datasets
        self.patch_size = patch_size
        self.settings = settings
        self.places = range(settings.batch_size) if places is None else places
        self.transform = augmentation(patch_size, settings.variety)
        self.clip_to_unit = clip_to_unit

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> Batch:
        patches = [self._patch(np.random.default_rng((self.settings.seed, step, place))) for place in self.places]
        images, targets, annotated = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*patches, strict=True))
        return Batch(images.unsqueeze(1), targets, annotated)

    def _patch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        volumes = self.datasets[int(rng.integers(len(self.datasets)))]
        volume = volumes[int(rng.integers(len(volumes)))]
        size = _index(np.ceil(np.array(self.patch_size) * MARGIN))
        start = _index(self._centre(volume, rng) - np.array(size) // 2)
        image = volume.case.image_patch(start, size)
        stored = volume.case.segmentation_patch(start, size)
        target = np.zeros(stored.shape, dtype=np.float32)
        for label, value in volume.targets.items():
            target[stored == label] = value
        if self.settings.variety:
            image = np.array(image, dtype=np.float32)
            vary_structures(image, target, self.settings.variety, rng)
        with _global_generators(rng):
            done = self.transform(data=image[None, None], seg=target[None, None])
        image, target = done["data"][0, 0].astype(np.float32), np.rint(done["seg"][0, 0]).astype(np.int64)
        if self.clip_to_unit:
            np.clip(image, 0, 1, out=image)
        return image, target, np.array(volume.annotated)

    def _centre(self, volume: PretrainingVolume, rng: np.random.Generator) -> np.ndarray:
        """A voxel of a structure drawn uniformly from those present, or of any tissue; kept half a patch inside the volume."""
        present = [label for label in volume.targets if len(volume.case.positions(label))]
        if present and rng.random() < self.settings.foreground_share:
            centre = rng.choice(volume.case.positions(present[rng.integers(len(present))]))
        else:
            centre = rng.choice(volume.case.tissue_positions)
        jitter = rng.integers(-np.array(self.patch_size) // 4, np.array(self.patch_size) // 4 + 1)
        half = np.array(self.patch_size) // 2
        low, high = half, np.maximum(np.array(volume.case.shape) - half, half)
        return np.where(np.array(volume.case.shape) > 2 * half, np.clip(centre + jitter, low, high), np.array(volume.case.shape) // 2)


def vary_structures(image: np.ndarray, target: np.ndarray, share: float, rng: np.random.Generator) -> None:
    """Gives a share of the structures an offset and blotches of their own, in place, as contents, contrast and disease do, which phantoms lack.

    Args:
        image: (x, y, z) float32, [0, 1] for the window.
        target: of the same shape; 0 is background and stays.
    """
    for value in np.unique(target)[1:]:
        if rng.random() >= share:
            continue
        inside = target == value
        image[inside] += np.float32(rng.normal(0, OFFSET_SD))
        blotches = gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), rng.uniform(*BLOTCH_SIGMA_VOXELS))
        strength = rng.uniform(0, LARGEST_BLOTCH_SD) / max(float(blotches.std()), 1e-6)
        image[inside] += np.float32(strength) * blotches[inside]


def augmentation(patch_size: tuple[int, int, int], variety: float = 0.0) -> AbstractTransform:
    """Rotation, scaling, bending, noise, blur, brightness, contrast and resolution, in batchgenerators' transforms. No mirroring: sides matter."""
    angle = (-0.26, 0.26)  # 15 degrees
    return Compose(
        [
            SpatialTransform(
                patch_size,
                do_elastic_deform=variety > 0,
                alpha=ELASTIC_ALPHA,
                sigma=ELASTIC_SIGMA,
                p_el_per_sample=variety,
                angle_x=angle,
                angle_y=angle,
                angle_z=angle,
                scale=(0.8, 1.25),
                independent_scale_for_each_axis=True,
                border_mode_data="constant",
                border_mode_seg="constant",
                order_data=1,
                order_seg=0,
                random_crop=False,
                p_rot_per_sample=0.6,
                p_scale_per_sample=0.6,
            ),
            BrightnessMultiplicativeTransform((0.85, 1.15), p_per_sample=0.3),
            BrightnessTransform(0.0, 0.04, p_per_sample=0.3),
            GammaTransform((0.75, 1.4), retain_stats=False, p_per_sample=0.3),
            GaussianBlurTransform((0.4, 0.9), p_per_sample=0.2),
            SimulateLowResolutionTransform((0.5, 1.0), p_per_sample=0.15, order_downsample=0, order_upsample=1),
            GaussianNoiseTransform((0.0, 0.004), p_per_sample=0.4),
        ]
    )


def single_threaded(worker: int) -> None:
    """Called at the start of a loader's process. Rotating coordinates is a tiny matrix product: the BLAS threads that waited for
    the next one took half a core from the network."""
    threadpool_limits(1)


def _index(values: np.ndarray) -> Index:
    return int(values[0]), int(values[1]), int(values[2])


@contextmanager
def _global_generators(rng: np.random.Generator) -> Iterator[None]:
    """Seeds the global generators, which batchgenerators draws from, and restores them afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
    random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
