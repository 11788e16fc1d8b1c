"""Small volumes in many positions."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (5, 6, 7)
SPACING = (0.8, 0.9, 2.5)


def rotation(degrees_z: float, degrees_x: float) -> np.ndarray:
    a, b = np.deg2rad([degrees_z, degrees_x])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def affine_of(direction: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = direction @ np.diag(SPACING)
    affine[:3, 3] = (-17.5, 33.25, 120)
    return affine


def signed_permutations() -> list[np.ndarray]:
    """The 48 ways in which three axes can lie along the patient's."""
    matrices = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrices.append(np.eye(3)[:, order] * signs)
    return matrices


def volume() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) - 100


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path
